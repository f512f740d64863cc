"""Errors on their way out: those of ours, those of the framework, and those that nobody expected."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from tunesmith.errors import Fault, NotAuthenticated, TooManyRequests, ValidationFailed
from tunesmith.server.context import RequestContext
from tunesmith.server.errors import Unexpected, add_error_handlers, error_response

SECRET = "the inner workings"


def application(log_file: Path) -> FastAPI:
    app = FastAPI()
    add_error_handlers(app)

    @app.get("/ours")
    def ours() -> None:
        raise ValidationFailed("two faults", details=[Fault("bad", "a"), Fault("worse", "b")])

    @app.get("/unexpected")
    def unexpected() -> None:
        raise RuntimeError(SECRET)

    @app.get("/midway")
    def midway() -> StreamingResponse:
        def body() -> Iterator[bytes]:
            yield b"half"
            raise RuntimeError(SECRET)

        return StreamingResponse(body())

    app.add_middleware(Unexpected, log_file=log_file)
    app.add_middleware(RequestContext)
    return app


@pytest.fixture
def http(tmp_path: Path) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(application(tmp_path / "server.log"), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://localhost")


async def test_every_fault_goes_out(http: httpx.AsyncClient) -> None:
    answer = await http.get("/ours")
    assert answer.status_code == 400
    assert answer.json()["error"]["details"] == [
        {"code": "Invalid", "message": "bad", "target": "a"},
        {"code": "Invalid", "message": "worse", "target": "b"},
    ]


async def test_an_unexpected_error_has_an_id_that_the_log_knows_and_no_traceback(
    http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    with caplog.at_level(logging.ERROR, "tunesmith.server"):
        answer = await http.get("/unexpected", headers={"x-request-id": "abc-1"})
    assert answer.status_code == 500
    error = answer.json()["error"]
    assert (error["code"], error["extra"]["id"], error["target"]) == (
        "InternalError",
        "abc-1",
        str(tmp_path / "server.log"),
    )
    assert SECRET not in answer.text and "Traceback" not in answer.text
    assert "abc-1" in caplog.text and SECRET in caplog.text and "Traceback" in caplog.text


async def test_an_answer_that_has_begun_breaks_off(http: httpx.AsyncClient) -> None:
    answer = await http.get("/midway")
    assert answer.content == b"half"


def test_headers_that_belong_to_a_status() -> None:
    assert error_response(NotAuthenticated("no")).headers["www-authenticate"] == "Bearer"
    assert error_response(TooManyRequests("full", extra={"retry_after": 0.2})).headers["retry-after"] == "1"
