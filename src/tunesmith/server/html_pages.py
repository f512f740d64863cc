"""The server's own pages: ``/`` shows what goes on, ``/docs`` is the reference of the API.

They load nothing from anywhere else, so they work offline, and their policy lets them speak to this server only.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

router = APIRouter(include_in_schema=False)

POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@lru_cache
def _page(name: str) -> str:
    return (files("tunesmith.server") / "pages" / name).read_text(encoding="utf-8")


@router.get("/")
async def home() -> HTMLResponse:
    """Jobs, models and endpoints, live."""
    return _answer("home.html")


@router.get("/docs")
async def docs() -> HTMLResponse:
    """The reference of the API."""
    return _answer("docs.html")


def _answer(name: str) -> HTMLResponse:
    return HTMLResponse(_page(name), headers={"content-security-policy": POLICY})
