"""The gateway's own HTTP client against a real server that answers as written here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from tunesmith.endpoints import instance_client
from tunesmith.endpoints.instance_client import READ_AHEAD_BYTES, InstanceClient, InstanceGone
from tunesmith.endpoints.pool import Target

Answer = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]

pytestmark = pytest.mark.asyncio


class Instance:
    """Counts what it gets; ``answer`` is given each whole request."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.connections = 0
        self.open = 0
        self.requests: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
                request = head + await reader.readexactly(length)
                self.requests.append(request)
                await self._answer(request, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open -= 1
            writer.close()


@asynccontextmanager
async def instance(answer: Answer) -> AsyncIterator[tuple[Instance, Target, InstanceClient]]:
    there = Instance(answer)
    server = await asyncio.start_server(there.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    target = Target(key=("e", "d"), instance="i", url=f"http://127.0.0.1:{port}", secret="hush", model="m")
    client = InstanceClient()
    try:
        yield there, target, client
    finally:
        await client.close()
        server.close()
        await server.wait_closed()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.005)


def whole(body: bytes, status: str = "200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\ncontent-length: %d\r\n\r\n%b" % (status.encode(), len(body), body)


def chunk(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body)


CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


async def test_one_connection_serves_one_request_after_the_other() -> None:
    async def answer(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(whole(request.partition(b"\r\n\r\n")[2].upper(), "422 No"))

    async with instance(answer) as (there, target, client):
        assert await client.ask(target, "/generate", b'{"a":1}') == (422, b'{"A":1}')
        assert await client.ask(target, "/tokenize", b"") == (422, b"")
        assert there.connections == 1
        port = target.url.rpartition(":")[2]
        assert (
            there.requests[0]
            == (
                b"POST /generate HTTP/1.1\r\nhost: 127.0.0.1:%b\r\ncontent-type: application/json\r\n"
                b'x-tunesmith-secret: hush\r\ncontent-length: 7\r\n\r\n{"a":1}'
            )
            % port.encode()
        )


async def test_requests_at_the_same_time_have_connections_of_their_own() -> None:
    both = asyncio.Event()

    async def answer(request: bytes, writer: asyncio.StreamWriter) -> None:
        if len(there.requests) == 2:
            both.set()
        await both.wait()
        writer.write(whole(request[-1:]))

    async with instance(answer) as (there, target, client):
        assert await asyncio.gather(*(client.ask(target, "/generate", body) for body in (b"a", b"b"))) == [
            (200, b"a"),
            (200, b"b"),
        ]
        assert there.connections == 2


async def test_a_stream_comes_piece_by_piece() -> None:
    more = asyncio.Event()

    async def answer(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED + chunk(b"one"))
        await more.wait()
        writer.write(chunk(b"two") + chunk(b"three") + chunk(b""))

    async with instance(answer) as (there, target, client):
        reply = await client.post(target, "/generate", b"{}")
        assert await reply.readany() == b"one"
        more.set()
        assert await reply.readany() == b"twothree"
        assert await reply.readany() == b""
        reply.close()
        assert await client.ask(target, "/generate", b"{}") == (200, b"onetwothree")
        assert there.connections == 1


async def test_closing_a_stream_before_its_end_closes_the_connection() -> None:
    async def answer(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED + chunk(b"one"))

    async with instance(answer) as (there, target, client):
        reply = await client.post(target, "/generate", b"{}")
        assert await reply.readany() == b"one"
        reply.close()
        await until(lambda: there.open == 0)


async def test_giving_up_closes_the_connection() -> None:
    async def answer(request: bytes, writer: asyncio.StreamWriter) -> None:
        pass

    async with instance(answer) as (there, target, client):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await client.post(target, "/generate", b"{}")
        await until(lambda: there.connections == 1 and there.open == 0)


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"HTTP/1.1 200 OK\r\ncontent-le",
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
        CHUNKED + chunk(b"one"),
        b"SSH-2.0-OpenSSH_9.6\r\n",
    ],
)
async def test_an_answer_that_is_cut_or_none_says_that_the_instance_is_gone(said: bytes) -> None:
    async def answer(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await writer.drain()
        writer.close()

    async with instance(answer) as (_, target, client):
        with pytest.raises(InstanceGone):
            await client.ask(target, "/generate", b"{}")


async def test_nobody_there_is_gone_too() -> None:
    async def answer(request: bytes, writer: asyncio.StreamWriter) -> None:
        raise AssertionError

    async with instance(answer) as (_, target, _):
        pass
    client = InstanceClient()
    with pytest.raises(InstanceGone, match=target.url.rpartition(":")[2]):
        await client.ask(target, "/generate", b"{}")


async def test_a_connection_that_its_instance_closed_is_not_used_again() -> None:
    async def answer(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(whole(b"ok"))
        await writer.drain()
        writer.close()

    async with instance(answer) as (there, target, client):
        assert await client.ask(target, "/generate", b"{}") == (200, b"ok")
        await until(lambda: not any(client._idle.values()))
        assert await client.ask(target, "/generate", b"{}") == (200, b"ok")
        assert there.connections == 2


async def test_who_says_that_it_closes_is_believed() -> None:
    async def answer(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok")

    async with instance(answer) as (there, target, client):
        assert await client.ask(target, "/generate", b"{}") == (200, b"ok")
        await until(lambda: there.open == 0)


async def test_a_connection_that_nobody_needs_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instance_client, "IDLE_SECONDS", 0.02)

    async def answer(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(whole(b"ok"))

    async with instance(answer) as (there, target, client):
        assert await client.ask(target, "/generate", b"{}") == (200, b"ok")
        await until(lambda: there.open == 0)
        assert client._idle == {}


async def test_a_caller_who_reads_slowly_makes_the_instance_wait() -> None:
    piece = b"x" * 65536
    count = 256
    written = 0

    async def answer(request: bytes, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(CHUNKED)
        for _ in range(count):
            writer.write(chunk(piece))
            await writer.drain()
            written += 1
        writer.write(chunk(b""))

    async with instance(answer) as (_, target, client):
        reply = await client.post(target, "/generate", b"{}")
        await until(lambda: reply._connection._paused)
        assert written < count
        assert READ_AHEAD_BYTES < sum(map(len, reply._connection.parts)) < 4 * READ_AHEAD_BYTES
        assert await reply.read() == piece * count
        reply.close()
