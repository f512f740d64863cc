"""Errors in Azure's form, with the statuses that Azure's clients take well.

``{"error": {"code", "message", "target", "details": [{"code", "message", "target"}]}}``. The way out stands in the
message, because that is what the SDK prints.
"""

from __future__ import annotations

import logging
import secrets
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from tunesmith.errors import Fault, TunesmithError, UserError, ValidationFailed
from tunesmith.records.validation import validation_failed

log = logging.getLogger("tunesmith.azure")

KNOWN_FAILURE = 424
"""For work that failed: a 500 would be sent again three times by the SDK, and fail again three times."""


class NotImplementedHere(UserError):
    """An operation or a feature of Azure ML that this workspace does not have; the message names it."""

    code = "NotImplementedByTunesmith"
    status = 400


def error_body(error: TunesmithError) -> dict[str, Any]:
    """The wire form of an error."""
    body: dict[str, Any] = {"code": error.code, "message": _sentence(error.message, error.way_out, error.details)}
    if error.target is not None:
        body["target"] = error.target
    body["details"] = [
        {"code": fault.code, "message": _sentence(fault.message, fault.way_out), "target": fault.target}
        for fault in error.details
    ]
    return {"error": body}


def error_response(error: TunesmithError) -> JSONResponse:
    """The answer that ``error`` is."""
    headers = {"x-ms-error-code": error.code, **error.http_headers}
    status = KNOWN_FAILURE if error.status == 500 else error.status
    return JSONResponse(error_body(error), status_code=status, headers=headers)


def add_error_handlers(app: FastAPI) -> None:
    """Answer every error of ``app`` in Azure's form."""

    @app.exception_handler(TunesmithError)
    async def _ours(request: Request, error: TunesmithError) -> JSONResponse:
        if error.status >= 500:
            log.warning("%s %s: %s", request.method, request.url.path, error)
        return error_response(error)

    @app.exception_handler(RequestValidationError)
    async def _faulty(request: Request, error: RequestValidationError) -> JSONResponse:
        problems = [{**problem, "loc": tuple(problem.get("loc", ()))[1:]} for problem in error.errors()]
        return error_response(validation_failed(problems))

    @app.exception_handler(HTTPException)
    async def _plain(request: Request, error: HTTPException) -> JSONResponse:
        kind = ValidationFailed if error.status_code == 400 else UserError
        response = error_response(kind(str(error.detail), target=f"{request.method} {request.url.path}"))
        response.status_code = error.status_code
        return response

    @app.exception_handler(Exception)
    async def _unexpected(request: Request, error: Exception) -> JSONResponse:
        identity = secrets.token_hex(8)
        log.error("unexpected error, id %s, in %s %s", identity, request.method, request.url.path, exc_info=error)
        return error_response(
            TunesmithError(
                f"an unexpected error; the server's log has it under the id {identity}",
                way_out="look into the log at that id; it is a fault of the server, not of the request",
            )
        )


def _sentence(message: str, way_out: str | None, details: tuple[Fault, ...] = ()) -> str:
    parts = [message, *(str(fault) for fault in details)]
    text = "; ".join(part.rstrip(".") for part in parts)
    return f"{text}. Way out: {way_out}" if way_out else text
