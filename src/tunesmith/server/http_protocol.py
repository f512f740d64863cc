"""HTTP/1.1 by httptools' compiled parser, with limits for those who send slowly or without an end.

httptools sets none: a head without an end would be kept in memory for as long as it is sent, and a sender who stops in
the middle would be waited for for ever. Here a head may have ``HEAD_BYTES`` and take ``HEAD_SECONDS``, and a body may
pause for ``BODY_PAUSE_SECONDS``. Who exceeds them gets 400 or is closed, and nobody else notices. How large a body may
be is decided where it is read.
"""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES = 64 * 1024
"""As much as h11, the slower parser, takes, and more than clients send."""
HEAD_SECONDS = 30.0
BODY_PAUSE_SECONDS = 60.0
LOOK_SECONDS = 5.0
"""Between two looks at a connection's clock."""


class LimitedHttp(HttpToolsProtocol):
    """uvicorn's protocol over httptools, with the limits above."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._awaits: Literal["head", "body", "nothing"] = "head"
        self._since = self.loop.time()
        """When the head began, or the body's last piece came."""
        self._head_bytes = 0
        self._look: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a first head."""
        super().connection_made(transport)
        self._look = self.loop.call_later(LOOK_SECONDS, self._check_clock)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop looking."""
        if self._look is not None:
            self._look.cancel()
            self._look = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on, unless the head grows too large."""
        super().data_received(data)
        if self._awaits == "head":
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES and not self.transport.is_closing():
                self.send_400_response(f"The head of the request is larger than {HEAD_BYTES} bytes.")
        else:
            self._since = self.loop.time()

    def on_message_begin(self) -> None:
        """A head begins: the first, or one after an answer."""
        self._awaits, self._since, self._head_bytes = "head", self.loop.time(), 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._awaits = "body"
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._awaits = "nothing"
        super().on_message_complete()

    def _check_clock(self) -> None:
        if self.transport.is_closing():
            return
        waited = self.loop.time() - self._since
        if self.flow.read_paused:  # it is we who do not read on
            self._since = self.loop.time()
        elif waited > {"head": HEAD_SECONDS, "body": BODY_PAUSE_SECONDS, "nothing": float("inf")}[self._awaits]:
            self.transport.close()
            return
        self._look = self.loop.call_later(LOOK_SECONDS, self._check_clock)
