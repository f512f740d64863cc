"""What stands behind the TLS of Azure's hosts: the Azure application, and a sink for telemetry."""

from __future__ import annotations

import json
from collections import Counter
from email.utils import formatdate

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tunesmith.azure.hosts import SUNK, matches

SUNK_ANSWER = json.dumps({"itemsReceived": 0, "itemsAccepted": 0, "errors": []}).encode()
"""What Application Insights answers when it took nothing; other senders do not look."""


class Front:
    """ASGI application: hands on to the Azure application, or swallows."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.sunk: Counter[str] = Counter()
        """Requests with telemetry, by host."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        host = Headers(scope=scope).get("host", "").partition(":")[0]
        if matches(host, SUNK):
            await self._sink(host, receive, send)
            return

        async def dated(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", ()))
                if all(name != b"date" for name, _ in headers):
                    headers.append((b"date", formatdate(usegmt=True).encode("ascii")))
                message = {**message, "headers": headers}
            await send(message)

        await self._app(scope, receive, dated)

    async def _sink(self, host: str, receive: Receive, send: Send) -> None:
        self.sunk[host.lower()] += 1
        while True:
            message = await receive()
            if message["type"] != "http.request" or not message.get("more_body"):
                break
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(SUNK_ANSWER)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": SUNK_ANSWER})
