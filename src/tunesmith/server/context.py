"""What every request gets: an id in and out, headers that keep browsers careful, a limit for its body."""

from __future__ import annotations

import re
import secrets

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
MAX_BODY_BYTES = 32_000_000
UNLIMITED = ("/api/v1/uploads", "/mlflow/", "/endpoints/")
"""Where bodies are streamed on rather than held in memory, or limited by the face itself."""

HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
)
_NOT_KEPT = ((b"cache-control", b"no-store"),)


class RequestContext:
    """ASGI middleware, the outermost one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application below."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"").decode("latin-1")
        identity = given if REQUEST_ID.fullmatch(given) else secrets.token_hex(16)
        scope.setdefault("state", {})["request_id"] = identity

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                # Of bytes, as they are sent: this is done for every answer of an endpoint, too.
                given_back = [*message.get("headers", ())]
                there = {name for name, _ in given_back}
                ours = (*HEADERS, *(_NOT_KEPT if scope["path"].startswith("/api/") else ()))
                more = ((b"x-request-id", identity.encode("ascii")), *ours)
                message["headers"] = given_back + [header for header in more if header[0] not in there]
            await send(message)

        limited = receive if scope["path"].startswith(UNLIMITED) else _limited(receive)
        await self._app(scope, limited, with_headers)


def _limited(receive: Receive) -> Receive:
    received = 0

    async def count() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > MAX_BODY_BYTES:
            raise HTTPException(413, f"the body is over {MAX_BODY_BYTES:,} bytes")
        return message

    return count
