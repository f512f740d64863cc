"""The limits for slow and endless senders, with the clock's limits made short."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn

from tunesmith.server import http_protocol
from tunesmith.server.http_protocol import HEAD_BYTES, LimitedHttp


async def echo(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer with the number of bytes of the body."""
    count = 0
    while (message := await receive())["type"] == "http.request":
        count += len(message["body"])
        if not message.get("more_body"):
            break
    else:
        return  # the sender is gone
    text = str(count).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(text))]})
    await send({"type": "http.response.body", "body": text})


@pytest.fixture
async def port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.2)
    monkeypatch.setattr(http_protocol, "BODY_PAUSE_SECONDS", 2.0)
    monkeypatch.setattr(http_protocol, "LOOK_SECONDS", 0.05)
    config = uvicorn.Config(echo, http=LimitedHttp, host="127.0.0.1", port=0, lifespan="off", log_level="error")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.005)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await serving


async def test_a_head_is_limited_in_size_and_time(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"y" * HEAD_BYTES)
    assert (await reader.readline()).startswith(b"HTTP/1.1 400 ")
    writer.close()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nhost")
    assert await asyncio.wait_for(reader.read(), 20) == b""
    writer.close()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    assert await asyncio.wait_for(reader.read(), 20) == b"", "nothing sent at all"
    writer.close()


async def test_a_body_may_be_slow_but_not_stop(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(2):  # the connection is kept
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 6\r\n\r\n")
        for _ in range(6):  # longer than a head may take, each pause shorter than a body's may be
            await asyncio.sleep(0.06)
            writer.write(b"z")
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n6"), 20)
        assert answer.startswith(b"HTTP/1.1 200 ")
    writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 6\r\n\r\nzz")
    assert await asyncio.wait_for(reader.read(), 20) == b""
    writer.close()
