"""A client's connection to the proxy: until it is handed on, or for as long as a tunnel lasts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

from tunesmith.azure.upstream import HEAD_BYTES

PIPE_BYTES = 262_144


class Near(asyncio.Protocol):
    """A client's connection to the proxy, until it is handed on.

    asyncio's own stream writer is no use here: one closes its connection when it is collected as garbage, also where
    TLS has taken that connection over by then.
    """

    transport: asyncio.Transport

    def __init__(self, connected: Callable[[Near], None]) -> None:
        self.reader = asyncio.StreamReader(limit=HEAD_BYTES)
        self._begin = connected
        self._writable = asyncio.Event()
        self._writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Hand the connection to whoever serves it."""
        # Not every loop's transports are of asyncio's own classes.
        self.transport = cast(asyncio.Transport, transport)
        self.reader.set_transport(self.transport)
        self._begin(self)

    def data_received(self, data: bytes) -> None:
        """Keep it."""
        self.reader.feed_data(data)

    def eof_received(self) -> bool:
        """Tell the reader."""
        self.reader.feed_eof()
        return True  # the other direction goes on

    def connection_lost(self, exc: Exception | None) -> None:
        """Remember it."""
        self.reader.feed_eof()
        self._writable.set()

    def pause_writing(self) -> None:
        """Let writers wait."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Let writers go on."""
        self._writable.set()

    async def write(self, data: bytes) -> None:
        """Write, and wait while the client is slower than we are. Raises ``OSError`` when it is gone."""
        if self.transport.is_closing():
            raise ConnectionResetError("the client is gone")
        self.transport.write(data)
        await self._writable.wait()

    def answer(self, status: int, body: Any) -> None:
        """A whole answer of the proxy's own; the last one on this connection."""
        if not self.transport.is_closing():
            self.transport.write(_answer(status, body))


class Held(asyncio.Protocol):
    """Keeps what arrives between the end of the handshake and the HTTP server's start."""

    def __init__(self) -> None:
        self.data: list[bytes] = []
        self.lost = False

    def data_received(self, data: bytes) -> None:
        """Keep it."""
        self.data.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Remember it."""
        self.lost = True


async def forth(near: Near, far: asyncio.StreamWriter) -> None:
    """Everything from the client to the host, with its end."""
    with suppress(OSError):
        while data := await near.reader.read(PIPE_BYTES):
            far.write(data)
            await far.drain()
        if far.can_write_eof():
            far.write_eof()
        else:  # TLS has no half of a connection to close
            far.close()


async def back(far: asyncio.StreamReader, near: Near) -> None:
    """Everything from the host to the client, with its end."""
    with suppress(OSError):
        while data := await far.read(PIPE_BYTES):
            await near.write(data)
        if not near.transport.is_closing():
            near.transport.write_eof()


def _answer(status: int, body: Any) -> bytes:
    code = {400: "BadRequest", 401: "Unauthorized", 405: "NotAllowed", 407: "ProxyAuthenticationRequired"}
    content = {"error": {"code": code.get(status, "Unreachable"), "message": body}} if isinstance(body, str) else body
    text = json.dumps(content).encode()
    lines = [f"HTTP/1.1 {status} {'OK' if status == 200 else 'Refused'}", "Content-Type: application/json"]
    if status == 407:
        lines.append('Proxy-Authenticate: Basic realm="tunesmith"')
    lines += [f"Content-Length: {len(text)}", "Connection: close", "", ""]
    return "\r\n".join(lines).encode() + text
