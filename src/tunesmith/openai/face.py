"""What every protocol of an endpoint shares: the key, the body, the headers, the errors, the caller who goes away.

A face turns a body into a ``GenerateRequest`` and an answer into its own shape; the rest is here. Status codes and
headers are those of Azure ML's managed online endpoints.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import Any, TypeVar

import orjson
from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from tunesmith.endpoints.gateway import Gateway, Generation
from tunesmith.endpoints.routing import DEPLOYMENT_HEADER
from tunesmith.endpoints.service import EndpointService
from tunesmith.endpoints.trace import RequestTrace
from tunesmith.endpoints.trace import current as current_trace
from tunesmith.errors import Failure, ModelFailed, TooLarge, TunesmithError, ValidationFailed

T = TypeVar("T")
Endpoint = Callable[[Request], Coroutine[Any, Any, Response]]

logger = logging.getLogger(__name__)

BODY_LIMIT = 8 * 1024 * 1024
"""Bytes of one request. A context of 128,000 tokens is below 1 MiB of text."""
CLIENT_GONE = 499
WATCH_AFTER_SECONDS = 0.1
"""Whether the caller is still there is looked at from then on: most quick answers need no watcher."""

_HEADERS = "tunesmith.headers"
_BELOW = "/endpoints/{endpoint}/"
_OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class ClientGone(Exception):
    """The caller closed its connection; nobody waits for an answer."""


class Face:
    """The common part of the faces of one gateway."""

    def __init__(self, gateway: Gateway, endpoints: EndpointService, *, body_limit: int = BODY_LIMIT) -> None:
        self.gateway = gateway
        self.endpoints = endpoints
        self._body_limit = body_limit

    def guarded(self, handler: Callable[[Request, str], Awaitable[Response]]) -> Endpoint:
        """``handler`` with the endpoint's key checked, errors shaped and headers set. It gets the endpoint's name."""

        async def answer(request: Request) -> Response:
            headers = _identity(request)
            endpoint = request.path_params["endpoint"]
            below = request.scope["path"].removeprefix(f"/endpoints/{endpoint}/")
            trace = RequestTrace(endpoint, headers["x-request-id"], below)
            current_trace.set(trace)
            refusal: str | None = None
            try:
                caller = request.client.host if request.client else ""
                self.endpoints.authenticate(endpoint, header(request, "authorization"), caller)
                response = await handler(request, endpoint)
            except TunesmithError as error:
                refusal = error.code
                response = error_response(error)
            except (ClientGone, ClientDisconnect):
                response = Response(status_code=CLIENT_GONE)
            except Exception as error:
                logger.exception("request %s", headers["x-request-id"])
                response = error_response(Failure(f"the server failed: {type(error).__name__}"))
            self.gateway.note_refusal(trace, response.status_code, refusal)
            response.raw_headers += [(name.encode(), value.encode()) for name, value in headers.items()]
            return response

        return answer

    async def body(self, request: Request) -> bytes:
        """The body, refused as soon as it is known to be too large. Raises ``TooLarge``."""
        limit = self._body_limit
        declared = header(request, "content-length") or ""
        if declared.isdigit() and int(declared) > limit:
            raise _too_large(limit)
        parts: list[bytes] = []
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise _too_large(limit)
            parts.append(chunk)
        return b"".join(parts)


def header(request: Request, name: str) -> str | None:
    """A header of the request, the first of that name (in small letters).

    From a table that is made once: half a dozen are asked for, and each search would go through the whole list.
    """
    table: dict[bytes, bytes] | None = request.scope.get(_HEADERS)
    if table is None:
        table = request.scope[_HEADERS] = dict(reversed(request.scope["headers"]))
    found = table.get(name.encode("ascii"))
    return None if found is None else found.decode("latin-1")


def deployment_header(request: Request) -> str | None:
    """The deployment that the caller names past the traffic split."""
    return header(request, DEPLOYMENT_HEADER) or None


def answer_headers(generation: Generation) -> dict[str, str]:
    """Who answered."""
    return {DEPLOYMENT_HEADER: generation.deployment, "x-tunesmith-model": generation.model}


def json_response(body: Mapping[str, Any], headers: Mapping[str, str] | None = None, status: int = 200) -> Response:
    """A JSON answer."""
    return Response(orjson.dumps(body), status, headers, "application/json")


def error_body(error: TunesmithError) -> dict[str, Any]:
    """The wire form of an error, with the keys that OpenAI's clients read beside our own."""
    body = error.to_dict()
    inner = body["error"]
    inner["type"] = _OPENAI_TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    inner["param"] = error.target or (error.details[0].target if error.details else None)
    if error.details:
        # OpenAI's clients show the message alone.
        inner["message"] = f"{error.message}: " + "; ".join(str(fault) for fault in error.details)
    return body


def error_response(error: TunesmithError) -> Response:
    """An error with its status and Azure's headers."""
    headers = error.http_headers
    deployment = error.extra.get("deployment")
    if deployment is not None:
        headers[DEPLOYMENT_HEADER] = str(deployment)
    if isinstance(error, ModelFailed):
        headers["ms-azureml-model-error-statuscode"] = str(error.extra.get("model_status", 500))
        headers["ms-azureml-model-error-reason"] = _header_text(error.extra.get("model_reason", error.code))
    return json_response(error_body(error), headers, error.status)


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``; if the caller goes away first, ``work`` is cancelled and ``ClientGone`` raised.

    The body must have been read.
    """
    task = asyncio.current_task()
    assert task is not None
    gone = False
    watcher: asyncio.Task[None] | None = None

    async def watch() -> None:
        nonlocal gone
        await _until_gone(request.receive)
        gone = True
        task.cancel()

    def begin_watching() -> None:
        nonlocal watcher
        watcher = asyncio.ensure_future(watch())

    timer = asyncio.get_running_loop().call_later(WATCH_AFTER_SECONDS, begin_watching)
    try:
        return await work
    except asyncio.CancelledError:
        if gone and task.uncancel() == 0:
            raise ClientGone from None
        raise
    finally:
        timer.cancel()
        if watcher is not None:
            watcher.cancel()


class FaceDispatch:
    """ASGI middleware: a request to an endpoint goes to its face at once, past the routing of everything else.

    The routes are in the application as well: there they are described, and there a path or a method that no face has
    finds its answer. Through it a request took the server half as long again.

    Args:
        routers: with routes ``/endpoints/{endpoint}/…``, whose handlers answer their own errors (``Face.guarded``).
    """

    def __init__(self, app: ASGIApp, *, routers: Iterable[APIRouter]) -> None:
        self._app = app
        self._handlers: dict[tuple[str, str], Endpoint] = {
            (method, route.path.removeprefix(_BELOW)): route.endpoint
            for router in routers
            for route in router.routes
            if isinstance(route, APIRoute)
            for method in route.methods or ()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or hand on what no face has."""
        if scope["type"] == "http" and not scope.get("root_path"):
            parts = scope["path"].split("/", 3)  # "", "endpoints", the endpoint's name, what is below it
            named = len(parts) == 4 and parts[1] == "endpoints" and parts[2]
            handler = self._handlers.get((scope["method"], parts[3])) if named else None
            if handler is not None:
                scope["path_params"] = {"endpoint": parts[2]}
                response = await handler(Request(scope, receive, send))
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)


class EventStream(Response):
    """Server-sent events from ``events``, which are whole ``data: …`` lines.

    When the caller goes away the iterator is closed, which cancels the generation behind it.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], headers: Mapping[str, str]) -> None:
        self._events = events
        self.background = None
        self.status_code = 200
        self.init_headers({"cache-control": "no-store", "x-accel-buffering": "no", **headers})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until they end or the caller goes away."""
        sending = asyncio.ensure_future(self._send(send))
        gone = asyncio.ensure_future(_until_gone(receive))
        try:
            await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            for task in (sending, gone):
                if not task.done():
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await task

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async for event in self._events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except OSError:
            logger.info("a caller went away while its answer was streamed")
        finally:
            close = getattr(self._events, "aclose", None)
            if close is not None:
                await close()


def server_sent(body: Mapping[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + orjson.dumps(body) + b"\n\n"


def parse_json(body: bytes) -> Any:
    """The JSON value of a body. Raises ``ValidationFailed``."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ValidationFailed(f"the body is not JSON: {error}", target="body") from None


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _identity(request: Request) -> dict[str, str]:
    given = _sane(header(request, "x-request-id"))
    headers = {"x-request-id": given or request.scope.get("state", {}).get("request_id") or str(uuid.uuid4())}
    theirs = _sane(header(request, "x-ms-client-request-id"))
    if theirs:
        headers["x-ms-client-request-id"] = theirs
    return headers


def _sane(value: str | None) -> str | None:
    return value if value and len(value) <= 128 and value.isascii() and value.isprintable() else None


def _header_text(value: object) -> str:
    return "".join(c for c in str(value) if c.isascii() and c.isprintable())[:200]


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"the body is larger than {limit:,} bytes", target="body", way_out="send fewer or shorter messages")
