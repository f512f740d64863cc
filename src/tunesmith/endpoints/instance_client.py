"""The gateway's connections to the instances: HTTP/1.1 by httptools' compiled parser, kept open between requests.

It sends a POST to loopback and reads the answer: no redirects, cookies, proxies or encodings. With aiohttp's client,
which knows those as well, a request took the gateway a third longer.
"""

from __future__ import annotations

import asyncio
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import httptools

from tunesmith.endpoints.documents import SECRET_HEADER
from tunesmith.endpoints.pool import Target
from tunesmith.errors import ModelFailed, TunesmithError, Unavailable, UserError, error_from_dict

IDLE_SECONDS = 30.0
"""How long a connection is kept that no request uses."""
READ_AHEAD_BYTES = 256 * 1024
"""What is kept of an answer that its caller takes slowly; beyond it the instance has to wait."""


class InstanceGone(ConnectionError):
    """The instance cannot be reached, or closed its connection before its answer was whole."""


GONE = (ConnectionError,)
"""What says that an instance is not there any more."""


class Reply:
    """An instance's answer on its way. To be closed, whatever came of it."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self._connection.status

    async def read(self) -> bytes:
        """All that is still to come. Raises ``InstanceGone``."""
        parts = []
        while part := await self.readany():
            parts.append(part)
        return b"".join(parts)

    async def readany(self) -> bytes:
        """What came since the last call, at least one byte; nothing at the end. Raises ``InstanceGone``."""
        connection = self._connection
        while not connection.parts:
            if connection.whole:
                return b""
            await connection.progress()
        return connection.take()

    def close(self) -> None:
        """Let the connection serve again if the answer was read to its end; else close it, and so stop the instance."""
        self._connection.finish()


class InstanceClient:
    """The connections to all instances, opened when needed. For one event loop."""

    def __init__(self) -> None:
        self._idle: dict[tuple[str, int], list[_Connection]] = {}
        self._open: set[_Connection] = set()
        self._sweep: asyncio.TimerHandle | None = None

    async def post(self, target: Target, path: str, body: bytes) -> Reply:
        """Send ``body`` to an instance and wait for the head of its answer. Raises ``InstanceGone``."""
        address, head = _head(target.url, path, target.secret)
        connection = self._take(address) or await self._connect(address)
        try:
            connection.send(b"%b%d\r\n\r\n%b" % (head, len(body), body))
            while not connection.status:
                await connection.progress()
        except BaseException:
            connection.drop()
            raise
        return Reply(connection)

    async def ask(self, target: Target, path: str, body: bytes) -> tuple[int, bytes]:
        """Send ``body`` and wait for the whole answer: its status and body. Raises ``InstanceGone``."""
        reply = await self.post(target, path, body)
        try:
            return reply.status, await reply.read()
        finally:
            reply.close()

    async def close(self) -> None:
        """Close the connections."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for connection in list(self._open):
            connection.drop()
        self._open.clear()
        self._idle.clear()
        await asyncio.sleep(0)  # the transports close in the loop's next turn

    def _take(self, address: tuple[str, int]) -> _Connection | None:
        waiting = self._idle.get(address)
        while waiting:
            connection = waiting.pop()
            if connection.usable:
                return connection
        return None

    async def _connect(self, address: tuple[str, int]) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(lambda: _Connection(loop, address, self), *address)
        except OSError as error:
            raise InstanceGone(f"no connection to the instance at port {address[1]}: {error}") from None
        self._open.add(connection)
        return connection

    # Called by connections

    def keep(self, connection: _Connection) -> None:
        """Take back a connection that may serve again."""
        self._idle.setdefault(connection.address, []).append(connection)
        if self._sweep is None:
            self._sweep = connection.loop.call_later(IDLE_SECONDS, self._close_idle)

    def forget(self, connection: _Connection) -> None:
        """A connection was closed."""
        self._open.discard(connection)
        waiting = self._idle.get(connection.address)
        if waiting is not None and connection in waiting:
            waiting.remove(connection)

    def _close_idle(self) -> None:
        self._sweep = None
        for address, waiting in list(self._idle.items()):
            for connection in list(waiting):
                if connection.loop.time() - connection.idle_since >= IDLE_SECONDS:
                    connection.drop()
            if not waiting:
                del self._idle[address]
            elif self._sweep is None:
                self._sweep = waiting[0].loop.call_later(IDLE_SECONDS, self._close_idle)


class _Connection(asyncio.Protocol):
    """One connection, which has at most one request at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, address: tuple[str, int], client: InstanceClient) -> None:
        self.loop = loop
        self.address = address
        self.status = 0
        """Of the answer that comes; 0 until its head is there."""
        self.whole = False
        """Whether the answer has come to its end."""
        self.parts: list[bytes] = []
        """What came of its body and was not taken."""
        self.idle_since = 0.0
        self._client = client
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self._asked = False
        self._failure: InstanceGone | None = None
        self._size = 0
        self._paused = False
        self._keep_alive = False

    @property
    def usable(self) -> bool:
        """Whether a request can be sent on it."""
        return self._failure is None and self._transport is not None and not self._transport.is_closing()

    def send(self, request: bytes) -> None:
        """Begin a request."""
        self.status, self.whole, self._asked = 0, False, True
        assert self._transport is not None
        self._transport.write(request)

    async def progress(self) -> None:
        """Wait until more of the answer is there. Raises ``InstanceGone``."""
        if self._failure is not None:
            raise self._failure
        self._waiter = self.loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def take(self) -> bytes:
        """The parts, joined."""
        parts = self.parts
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        self.parts = []
        self._size = 0
        if self._paused:
            self._paused = False
            assert self._transport is not None
            self._transport.resume_reading()
        return body

    def finish(self) -> None:
        """End the request."""
        if not self._asked:
            return
        self._asked = False
        if self.whole and not self.parts and self._keep_alive and self.usable:
            self.idle_since = self.loop.time()
            self._client.keep(self)
        else:
            self.drop()

    def drop(self) -> None:
        """Close it."""
        self._asked = False
        self._failure = self._failure or InstanceGone("the connection to the instance was closed")
        if self._transport is not None:
            self._transport.abort()
        self._client.forget(self)

    # Called by the event loop

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if not self._asked or self.whole:  # nothing was asked, or more came than was
            self._fail("the instance spoke out of turn")
            self.drop()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"the instance's answer is no HTTP: {error}")
            self.drop()
            return
        if self._size > READ_AHEAD_BYTES and not self._paused and not self.whole:
            self._paused = True
            assert self._transport is not None
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(f"the instance closed the connection{f': {error}' if error else ''}")
        self._client.forget(self)

    # Called by the parser

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()

    def on_body(self, part: bytes) -> None:
        self.parts.append(part)
        self._size += len(part)

    def on_message_complete(self) -> None:
        self.whole = True
        self._keep_alive = self._parser.should_keep_alive()

    # Inside

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, why: str) -> None:
        if self._failure is None:
            self._failure = InstanceGone(why)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(self._failure)


@lru_cache(maxsize=256)
def _head(url: str, path: str, secret: str) -> tuple[tuple[str, int], bytes]:
    """The address of an instance, and the head of a request to it as far as its body's length."""
    parts = urlsplit(url)
    lines = (
        f"POST {path} HTTP/1.1",
        f"host: {parts.netloc}",
        "content-type: application/json",
        f"{SECRET_HEADER}: {secret}",
        "content-length: ",
    )
    return (parts.hostname or "127.0.0.1", parts.port or 80), "\r\n".join(lines).encode("ascii")


def instance_error(body: Any, status: int) -> TunesmithError:
    """An instance's error as the caller gets it: what the request did wrong as it is, what the model did wrong as
    424."""
    error = error_from_dict(body if isinstance(body, dict) else {}, status=status)
    if isinstance(error, UserError) and status != 401:
        return error
    if isinstance(error, Unavailable):
        return error
    return ModelFailed(
        error.message,
        target=error.target,
        way_out=error.way_out or "look at the deployment's log",
        details=error.details,
        extra={**error.extra, "model_status": error.status, "model_reason": error.code},
    )
