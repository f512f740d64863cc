"""``/docs``: the reference of the API as one page of our own.

It loads nothing from anywhere else, so it works offline.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

router = APIRouter(include_in_schema=False)

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"


@lru_cache
def _page() -> str:
    return (files("tunesmith.server") / "pages" / "docs.html").read_text(encoding="utf-8")


@router.get("/docs")
async def docs() -> HTMLResponse:
    """The reference of the API."""
    return HTMLResponse(_page(), headers={"content-security-policy": POLICY})
