"""Callers who send too much, too slowly, the wrong keys or nonsense: they get their answer, and others theirs."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import psutil
import pytest

from tests.support.backend import Backend
from tests.support.house import House, Rooms, free_port, until
from tests.support.scripted import scripted_house
from tunesmith.records.endpoints import CreateEndpoint, RequestSettings, UpdateDeployment

ROOT = Path(__file__).parents[2]
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[House, Backend]]:
    with scripted_house(tmp_path_factory.mktemp("hostile")) as made:
        yield made


def body(text: str = "say hello", **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **more}


def limits(house: House, **settings: int) -> None:
    changed = RequestSettings(**{"request_timeout_ms": 5000, **settings})
    house.service.update_deployment("chat", "blue", UpdateDeployment(request_settings=changed))


def test_slow_senders_of_heads_and_of_bodies_do_not_block_others(scripted: tuple[House, Backend]) -> None:
    house, backend = scripted
    backend.requests.clear()
    with house.client("chat") as client, ExitStack() as stack:
        key = client.headers["authorization"]
        head = f"POST /endpoints/chat{CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: {key}\r\n"
        for number in range(200):
            raw = stack.enter_context(socket.create_connection(("127.0.0.1", house.port), timeout=20))
            whole = head + 'content-type: application/json\r\ncontent-length: 5000\r\n\r\n{"messages": ['
            raw.sendall((head[: 20 + number % 40] if number % 2 else whole).encode())
        for _ in range(20):
            assert client.post(CHAT, json=body()).status_code == 200
        assert len(backend.requests) == 20
        assert house.pool.in_flight(("chat", "blue")) == 0, "a body that is not whole holds no slot"


def test_a_full_queue_answers_at_once_and_tells_when_to_come_again(scripted: tuple[House, Backend]) -> None:
    house, backend = scripted
    limits(house, max_concurrent_requests_per_instance=2, max_queue_wait_ms=30_000)
    house.run(closed(backend))
    statuses: list[int] = []

    def ask() -> None:
        with house.client("chat") as client:
            statuses.append(client.post(CHAT, json=body()).status_code)

    callers = [threading.Thread(target=ask) for _ in range(4)]
    for caller in callers:
        caller.start()
    try:
        until(lambda: backend.running == 2 and house.pool.queued(("chat", "blue")) == 2, "slots and queue to be full")
        with house.client("chat") as client:
            refused = client.post(CHAT, json=body())
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert "2 requests are running and 2 wait" in refused.json()["error"]["message"]
    finally:
        house.run(opened(backend))
        for caller in callers:
            caller.join(30)
    assert statuses == [200] * 4
    limits(house, max_concurrent_requests_per_instance=64)


async def closed(backend: Backend) -> None:
    backend.gate.clear()


async def opened(backend: Backend) -> None:
    backend.gate.set()


def test_a_slow_model_is_a_408_and_its_only_slot_serves_the_next(scripted: tuple[House, Backend]) -> None:
    house, backend = scripted
    limits(house, max_concurrent_requests_per_instance=1, request_timeout_ms=200)
    before = backend.cancelled
    with house.client("chat") as client:
        slow = client.post(CHAT, json=body("slow"))
        assert slow.status_code == 408
        assert "request_timeout_ms" in slow.json()["error"]["target"]
        until(lambda: backend.cancelled == before + 1, "the generation to be cancelled")
        stalled = client.post(CHAT, json=body("stall", stream=True))
        event = stalled.text.strip().rpartition("data: ")[2]
        assert json.loads(event)["error"]["code"] == "RequestTimeout"
        limits(house, max_concurrent_requests_per_instance=1)
        assert client.post(CHAT, json=body()).status_code == 200
    limits(house, max_concurrent_requests_per_instance=64)


def test_a_storm_of_wrong_keys_is_slowed_and_the_right_one_is_not(scripted: tuple[House, Backend]) -> None:
    house, _ = scripted
    with house.client("chat") as client:
        wrong = {"authorization": "Bearer nonsense"}
        statuses = [client.post(CHAT, json=body(), headers=wrong).status_code for _ in range(40)]
        assert statuses == sorted(statuses)
        assert set(statuses) == {401, 429}
        last = client.post(CHAT, json=body(), headers=wrong)
        assert 1 <= int(last.headers["retry-after"]) <= 60
        assert client.post(CHAT, json=body()).status_code == 200


@pytest.mark.heavy
@pytest.mark.parametrize("count", [1_000, pytest.param(10_000, marks=pytest.mark.long)])
def test_malformed_bodies_are_refused_and_leave_no_memory_behind(tmp_path: Path, count: int) -> None:
    rooms = Rooms(tmp_path / "home", {}, "", controller=False)
    rooms.service.create_or_update(CreateEndpoint(name="chat"))
    key = rooms.service.keys("chat").primary_key
    rooms.database.close()
    port = free_port()
    with (tmp_path / "server.log").open("wb") as log:
        arguments = [sys.executable, "-m", "tests.support.house", str(tmp_path / "home"), str(port)]
        server = subprocess.Popen(arguments, cwd=ROOT, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}/endpoints/chat"
        until(lambda: answers(f"{url}/v1/models"), "the server to answer")
        process = psutil.Process(server.pid)
        statuses = asyncio.run(send_nonsense(url, key, count * 4 // 10, seed=1))
        before = process.memory_info().rss
        statuses += asyncio.run(send_nonsense(url, key, count * 6 // 10, seed=2))
        growth = process.memory_info().rss - before
    finally:
        server.terminate()
        server.wait(30)
    assert statuses.total() == count
    assert all(400 <= status < 500 for status in statuses), statuses
    assert growth < 8 * 2**20, f"{growth / 2**20:.1f} MiB"
    assert key not in (tmp_path / "server.log").read_text("utf-8")


def answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).status_code == 401
    except httpx.TransportError:
        return False


async def send_nonsense(url: str, key: str, count: int, *, seed: int) -> Counter[int]:
    """Malformed bodies of many kinds, 16 at a time; how often each status came."""
    dice = random.Random(seed)
    statuses: Counter[int] = Counter()
    left = iter(range(count))

    async def caller(session: aiohttp.ClientSession) -> None:
        for _ in left:
            path = dice.choice([CHAT, "/v1/completions", "/score", "/invocations"])
            async with session.post(url + path, data=nonsense(dice)) as response:
                await response.read()
                statuses[response.status] += 1

    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    async with aiohttp.ClientSession(headers=headers, trust_env=False) as session:
        await asyncio.gather(*[caller(session) for _ in range(16)])
    return statuses


def nonsense(dice: random.Random) -> bytes:
    """A body that no protocol here takes: bytes, JSON of another shape, or a request with one thing wrong."""
    kind = dice.randrange(4)
    if kind == 0:
        return dice.randbytes(dice.randrange(300))
    if kind == 1:
        return json.dumps(dice.choice([None, 7, "text", [], {}, {"messages": {}}, {"input_data": 3}])).encode()
    if kind == 2:
        unknown = "".join(dice.choices("abcdefghij", k=12))
        return json.dumps({**body(), "prompt": "x", "input_data": ["x"], unknown: dice.random()}).encode()
    return json.dumps({**body("x" * dice.randrange(2000)), "temperature": dice.choice(["hot", [], 99, -1])}).encode()
