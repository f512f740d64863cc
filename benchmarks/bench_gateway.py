"""What the gateway costs: ``python benchmarks/bench_gateway.py [--requests N] [--memory N]`` (``make bench-gateway``).

Three processes: an instance that answers at once with what it has ready, the server with the gateway and the faces,
pinned to one core where the system allows, and this one, the client. Every number through the gateway stands beside
the same call made to the instance directly, in the same run. The request log is on, as it is in the real server.

What is wanted: p50 under 2 ms and p99 under 8 ms more than the instance's own; 1,500 requests a second and more on one
core; at most 0.3 ms more for each chunk of a stream; memory that stays where it is (``--memory 200000`` for the long
run: between the first quarter and the last it grows by less than 8 MiB).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httptools
import psutil
import uvloop

SECRET = "benchmark"
CHUNKS = 200
ROUNDS = 5
MOST_GROWTH_MIB = 8.0
"""Between the first and the last quarter of the memory's run: below it, memory counts as flat."""
ASK = {"messages": [{"role": "user", "content": "Tell me a short story about a robot that learns to paint."}]}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Canned(asyncio.Protocol):
    """One connection of the trivial instance: one canned answer, or a stream of ``CHUNKS`` canned events.

    As little as HTTP needs, so that what is measured is the gateway and not what stands behind it.
    """

    def __init__(self) -> None:
        usage = {"prompt_tokens": 20, "completion_tokens": CHUNKS, "total_tokens": 20 + CHUNKS}
        choice = {"index": 0, "text": "Once upon a time.", "token_ids": [1, 2, 3, 4], "finish_reason": "stop"}
        whole = json.dumps({"choices": [choice], "usage": usage}).encode()
        self._whole = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
            len(whole),
            whole,
        )
        event = json.dumps({"index": 0, "text": " word", "token_ids": [5]}).encode() + b"\n"
        last = json.dumps({"index": 0, "finish_reason": "stop", "usage": usage}).encode() + b"\n"
        self._event, self._last = (b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in (event, last))
        self._body = b""
        self._streams: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        body, self._body = self._body, b""
        if b'"stream":true' not in body:
            self._transport.write(self._whole)
            return
        task = asyncio.create_task(self._stream())
        self._streams.add(task)
        task.add_done_callback(self._streams.discard)

    async def _stream(self) -> None:
        self._transport.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(CHUNKS):
            self._transport.write(self._event)
            await asyncio.sleep(0)
        self._transport.write(self._last + b"0\r\n\r\n")


def run_instance(port: int) -> None:
    """The trivial instance."""

    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(Canned, "127.0.0.1", port)
        await server.serve_forever()

    uvloop.run(serve())


def run_server(port: int, instance_port: int, home: str, key: Any) -> None:
    """The server: service, pool, gateway, faces; no controller, the instance is put into the pool."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import uvicorn
    from fastapi import FastAPI

    from tunesmith.endpoints.gateway import Gateway
    from tunesmith.endpoints.journal import Journal
    from tunesmith.endpoints.pool import InstancePool, Target
    from tunesmith.endpoints.service import EndpointService
    from tunesmith.records.assets import ModelVersion
    from tunesmith.records.base import utcnow
    from tunesmith.records.endpoints import CreateDeployment, CreateEndpoint, RequestSettings, UpdateEndpoint
    from tunesmith.server.app import add_faces, add_locks
    from tunesmith.server.auth import HostRule, Sessions
    from tunesmith.server.http_protocol import LimitedHttp
    from tunesmith.server.memory import settle
    from tunesmith.storage.database import Database
    from tunesmith.storage.paths import WorkspacePaths
    from tunesmith.storage.secrets import Secrets

    paths = WorkspacePaths(Path(home))
    paths.make()

    def resolve(reference: str) -> ModelVersion:
        return ModelVersion(
            registry="workspace", name="m", version="1", id="azureml:m:1", created_at=utcnow(), path=home
        )

    service = EndpointService(Database(paths.database_file), Secrets(paths), resolve, folder=paths.endpoints)
    service.create_or_update(CreateEndpoint(name="bench"))
    limits = RequestSettings(max_concurrent_requests_per_instance=256)
    service.create_or_update_deployment(
        CreateDeployment(name="blue", endpoint="bench", model="m", request_settings=limits)
    )
    service.update("bench", UpdateEndpoint(traffic={"blue": 100}))
    pool = InstancePool()
    gateway = Gateway(service, pool, journal=Journal(paths.request_log, paths.collected))

    @contextlib.asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        url = f"http://127.0.0.1:{instance_port}"
        pool.add(Target(key=("bench", "blue"), instance="i", url=url, secret=SECRET, model="azureml:m:1"))
        settle()
        key.put(service.keys("bench").primary_key)
        yield
        await gateway.close()

    app = FastAPI(lifespan=life, telemetry={"tracing": False, "metrics": False, "logs": False})
    # All that a request to an endpoint passes in the real server.
    add_faces(app, gateway, service)
    add_locks(app, "t", HostRule.of("127.0.0.1"), Sessions("t", "benchmark"), paths.server_log)
    # As the real server is started.
    options: dict[str, Any] = {
        "http": LimitedHttp,
        "proxy_headers": False,
        "access_log": False,
        "timeout_keep_alive": 75,
    }
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error", **options)


@dataclass(frozen=True)
class Side:
    """Where to send requests, and as what."""

    name: str
    port: int
    path: str
    headers: str = ""

    @property
    def whole(self) -> bytes:
        """A request for a whole answer."""
        return self._request(ASK)

    @property
    def stream(self) -> bytes:
        """A request for a stream."""
        return self._request({**ASK, "stream": True})

    def _request(self, ask: dict[str, Any]) -> bytes:
        body = json.dumps(ask, separators=(",", ":"))
        head = f"POST {self.path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nContent-Type: application/json\r\n"
        return f"{head}{self.headers}Content-Length: {len(body)}\r\n\r\n{body}".encode()


class Connection(asyncio.Protocol):
    """One connection of the client, as little as HTTP needs: the client shares the machine with what it measures."""

    def __init__(self) -> None:
        self._done: asyncio.Future[int] | None = None
        self._parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(exc or ConnectionError("the connection was closed"))

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        assert self._done is not None
        self._done.set_result(self._parser.get_status_code())

    async def ask(self, request: bytes) -> None:
        """Send a request and wait for the whole answer, which must be a success."""
        self._done = asyncio.get_running_loop().create_future()
        self._body = b""
        self._parser = httptools.HttpResponseParser(self)
        self._transport.write(request)
        status = await self._done
        assert status == 200, self._body

    def close(self) -> None:
        self._transport.close()


async def connect(side: Side) -> Connection:
    """A connection to the side's port."""
    _, connection = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", side.port)
    return connection


async def latencies(connection: Connection, request: bytes, count: int) -> list[float]:
    """Milliseconds of ``count`` answers, one after the other."""
    taken = []
    for _ in range(count):
        start = time.perf_counter()
        await connection.ask(request)
        taken.append((time.perf_counter() - start) * 1000)
    return taken


async def throughput(side: Side, count: int, concurrency: int) -> float:
    """Seconds for ``count`` whole answers, ``concurrency`` at a time."""
    left = iter(range(count))
    connections = [await connect(side) for _ in range(concurrency)]

    async def work(connection: Connection) -> None:
        for _ in left:
            await connection.ask(side.whole)

    start = time.perf_counter()
    await asyncio.gather(*[work(connection) for connection in connections])
    taken = time.perf_counter() - start
    for connection in connections:
        connection.close()
    return taken


def percentile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100)[percent - 1]


async def measure(direct: Side, through: Side, server: psutil.Process, requests: int, memory: int) -> bool:
    """Print the figures; whether all are as wanted."""
    connections = {side.name: await connect(side) for side in (direct, through)}
    for side in (direct, through):
        await latencies(connections[side.name], side.whole, 200)
    # Taken in turns, so that a busy moment of the machine falls on both.
    taken: dict[str, list[float]] = {direct.name: [], through.name: []}
    for _ in range(max(1, requests // 500)):
        for side in (direct, through):
            taken[side.name] += await latencies(connections[side.name], side.whole, 250)
    print(f"{'':24}{'p50 ms':>10}{'p99 ms':>10}")
    for name, values in taken.items():
        print(f"{name:24}{percentile(values, 50):10.2f}{percentile(values, 99):10.2f}")
    overhead = [
        percentile(taken[through.name], percent) - percentile(taken[direct.name], percent) for percent in (50, 99)
    ]
    print(f"{'overhead':24}{overhead[0]:10.2f}{overhead[1]:10.2f}")

    await throughput(through, 500, 32)
    rates, rates_of_core = [], []
    for _ in range(ROUNDS):
        before = sum(server.cpu_times()[:2])
        seconds = await throughput(through, requests, 32)
        rates.append(requests / seconds)
        rates_of_core.append(requests / (sum(server.cpu_times()[:2]) - before))
    rate = statistics.median(rates_of_core)
    print(f"requests/s at concurrency 32, median of {ROUNDS} rounds: {statistics.median(rates):,.0f}; ", end="")
    print(f"for each second of the server's core: {rate:,.0f} ({min(rates_of_core):,.0f} to {max(rates_of_core):,.0f})")

    streams = {side.name: await latencies(connections[side.name], side.stream, 30) for side in (direct, through)}
    chunk = (statistics.median(streams[through.name]) - statistics.median(streams[direct.name])) / CHUNKS
    print(f"streaming adds {chunk:.3f} ms a chunk ({CHUNKS} chunks, sent as fast as they are taken)")

    print(f"memory over {memory:,} requests, after each quarter, MiB: ", end="", flush=True)
    sizes = []
    for _ in range(4):
        await throughput(through, memory // 4, 32)
        sizes.append(server.memory_info().rss / 2**20)
        print(f"{sizes[-1]:.1f} ", end="", flush=True)
    growth = sizes[-1] - sizes[0]
    print()
    verdicts = [
        (f"overhead p50 {overhead[0]:.2f} ms", overhead[0] < 2),
        (f"p99 {overhead[1]:.2f} ms", overhead[1] < 8),
        (f"{rate:,.0f} requests/s on one core", rate >= 1500),
        (f"{chunk:.3f} ms a chunk", chunk <= 0.3),
        (f"memory {growth:+.1f} MiB over {memory * 3 // 4:,} requests", growth < MOST_GROWTH_MIB),
    ]
    print("; ".join(f"{text} ({'as wanted' if good else 'NOT as wanted'})" for text, good in verdicts))
    return all(good for _, good in verdicts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--memory", type=int, default=20_000, help="requests over which the memory is watched")
    chosen = parser.parse_args()
    instance_port, port = free_port(), free_port()
    context = multiprocessing.get_context("spawn")
    key: Any = context.Queue()
    with tempfile.TemporaryDirectory(prefix="tunesmith-bench-") as home:
        instance = context.Process(target=run_instance, args=(instance_port,), daemon=True)
        server = context.Process(target=run_server, args=(port, instance_port, home, key), daemon=True)
        instance.start()
        server.start()
        try:
            direct = Side("instance directly", instance_port, "/generate")
            through = Side(
                "through the gateway",
                port,
                "/endpoints/bench/v1/chat/completions",
                f"Authorization: Bearer {key.get(timeout=60)}\r\n",
            )
            for side in (direct, through):
                wait_for(side.port)
            good = uvloop.run(measure(direct, through, psutil.Process(server.pid), chosen.requests, chosen.memory))
        finally:
            for process in (server, instance):
                process.terminate()
                process.join(10)
    return 0 if good else 1


def wait_for(port: int) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with contextlib.closing(socket.socket()) as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise SystemExit(f"nothing listens on port {port}")


if __name__ == "__main__":
    sys.exit(main())
