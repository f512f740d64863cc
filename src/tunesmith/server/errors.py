"""How errors leave the server: as the product's own JSON, each with its status, never with a traceback.

What nobody expected becomes a 500 with an id; the traceback stands in the server's log beside that id.
"""

from __future__ import annotations

import difflib
import logging
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tunesmith.errors import Fault, NotFound, TooLarge, TunesmithError, UserError, ValidationFailed
from tunesmith.records.validation import validation_failed

log = logging.getLogger("tunesmith.server")


def error_response(error: TunesmithError) -> JSONResponse:
    """The answer that ``error`` is."""
    return JSONResponse(error.to_dict(), status_code=error.status, headers=error.http_headers)


def add_error_handlers(app: FastAPI) -> None:
    """Answer every error of ``app`` in the product's own form."""

    @app.exception_handler(TunesmithError)
    async def _ours(request: Request, error: TunesmithError) -> JSONResponse:
        if error.status >= 500:
            log.warning("%s %s: %s", request.method, request.url.path, error)
        return error_response(error)

    @app.exception_handler(RequestValidationError)
    async def _faulty(request: Request, error: RequestValidationError) -> JSONResponse:
        return error_response(_of_request(request, error))

    @app.exception_handler(HTTPException)
    async def _plain(request: Request, error: HTTPException) -> JSONResponse:
        where = f"{request.method} {request.url.path}"
        if error.status_code == 404:
            return error_response(NotFound(f"there is no {where}", target=where, way_out="see /docs for what there is"))
        if error.status_code == 405:
            allowed = (error.headers or {}).get("Allow", "other methods")
            message = f"{request.url.path} does not take {request.method}; it takes {allowed}"
            response = error_response(UserError(message, target=where, way_out="see /docs"))
            response.status_code = 405
            response.headers["Allow"] = allowed
            return response
        kind = {400: ValidationFailed, 413: TooLarge}.get(error.status_code, UserError)
        response = error_response(kind(str(error.detail), target=where))
        response.status_code = error.status_code
        return response


def _of_request(request: Request, error: RequestValidationError) -> ValidationFailed:
    problems: list[dict[str, Any]] = []
    for problem in error.errors():
        location = tuple(problem.get("loc", ()))
        # ("body", "traffic", "blue") → ("traffic", "blue"): the body is what the caller wrote; the other places keep
        # their name.
        inside = location[1:] if location[:1] == ("body",) and len(location) > 1 else location
        problems.append({**problem, "loc": inside})
    field = getattr(request.scope.get("route"), "body_field", None)
    kind = getattr(getattr(field, "field_info", None), "annotation", None)
    model = kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None
    return validation_failed(problems, model=model)


async def known_query(request: Request) -> None:
    """Refuse query parameters that the route does not know: a misspelt filter must not list everything.

    Raises:
        ValidationFailed: with what may have been meant.
    """
    dependant = getattr(request.scope.get("route"), "dependant", None)
    known = [field.alias for field in dependant.query_params] if dependant is not None else []
    faults = []
    for name in request.query_params:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known) or 'none'}"
            faults.append(Fault(f"unknown query parameter {name!r}", f"query.{name}", "UnknownField", hint))
    if faults:
        raise ValidationFailed("unknown query parameters", details=faults)


class Unexpected:
    """ASGI middleware: what nobody expected becomes a 500 with an id, and its traceback goes to the log."""

    def __init__(self, app: ASGIApp, *, log_file: Path) -> None:
        self._app = app
        self._log_file = log_file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application below."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception:
            identity = scope.get("state", {}).get("request_id", "unknown")
            log.exception("unexpected error, id %s, in %s %s", identity, scope["method"], scope["path"])
            if started:
                raise
            error = TunesmithError(
                f"an unexpected error; the server's log has it under the id {identity}",
                target=str(self._log_file),
                way_out="look into the log at that id; it is a fault of the server, not of the request",
                extra={"id": identity},
            )
            await error_response(error)(scope, receive, send)
