"""Steady streams while everything around them is changed, broken and restarted."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.house import House, has_ended, until
from tunesmith.records.endpoints import RequestSettings, UpdateDeployment, UpdateEndpoint

STREAMS = 16
ASK = {"messages": [{"role": "user", "content": "Tell me a story."}], "max_tokens": 24, "stream": True, "seed": 1}


class Streams:
    """``STREAMS`` callers, each asking again as soon as its stream has ended.

    ``outcomes`` counts: ok, the code of an error event, the status of a refusal, ``cut`` for a stream that just
    stops. A connection that the server did not take (it is restarting) is tried again, as every HTTP client does.
    """

    def __init__(self, url: str, key: str) -> None:
        self._url, self._headers = url, {"authorization": f"Bearer {key}"}
        self._stopping = False
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self.outcomes: Counter[str] = Counter()
        self.deployments: Counter[str] = Counter()

    def __enter__(self) -> Streams:
        self._thread.start()
        self.more(STREAMS)
        return self

    def __exit__(self, *_: Any) -> None:
        self._stopping = True
        self._thread.join(120)

    def more(self, count: int) -> None:
        """Wait for ``count`` more streams to end well."""
        goal = self.outcomes["ok"] + count
        until(lambda: self.outcomes["ok"] >= goal, f"{count} more streams")

    async def _run(self) -> None:
        async with aiohttp.ClientSession(headers=self._headers, trust_env=False) as session:
            await asyncio.gather(*[self._caller(session) for _ in range(STREAMS)])

    async def _caller(self, session: aiohttp.ClientSession) -> None:
        while not self._stopping:
            try:
                async with session.post(self._url, json=ASK) as response:
                    self.outcomes[await self._read(response)] += 1
            except (aiohttp.ClientConnectionError, ConnectionError):
                await asyncio.sleep(0.05)

    async def _read(self, response: aiohttp.ClientResponse) -> str:
        if response.status != 200:
            return f"{response.status} {await response.text()}"
        self.deployments[response.headers["azureml-model-deployment"]] += 1
        last = b""
        try:
            async for line in response.content:
                last = line.strip() or last
        except aiohttp.ClientPayloadError:
            return "cut"
        if last == b"data: [DONE]":
            return "ok"
        event = json.loads(last.removeprefix(b"data: "))
        return str(event["error"]["code"]) if "error" in event else "cut"


@pytest.mark.heavy
def test_nothing_fails_but_the_streams_that_a_kill_cuts(tmp_path: Path, models: dict[str, Path]) -> None:
    home = tmp_path / "home"
    house = House(home, models).start()
    streams = None
    try:
        limits = RequestSettings(max_queue_wait_ms=60_000, max_concurrent_requests_per_instance=16)
        house.deploy("busy", "green", "azureml:tiny-phi3:1", request_settings=limits, wait=False)
        house.deploy("busy", "blue", "azureml:tiny-llama:1", instance_count=2, request_settings=limits)
        house.ready("busy", "green")
        house.service.update("busy", UpdateEndpoint(traffic={"blue": 100}))
        key = house.service.keys("busy").primary_key
        streams = Streams(f"{house.url}/endpoints/busy/v1/chat/completions", key)
        with streams:
            cut = kill_one_and_roll(house, streams)
            move_the_traffic(house, streams)
            house.service.regenerate_key("busy", "secondary")
            streams.more(STREAMS)
            house.stop()
            house = House(home, models, port=house.port).start()
            streams.more(STREAMS)
        failures = streams.outcomes.total() - streams.outcomes["ok"]
        assert failures == streams.outcomes["ModelFailed"] == cut, streams.outcomes
        assert house.pool.in_flight(("busy", "green")) == house.pool.queued(("busy", "green")) == 0
        assert [one.restarts for one in house.service.get_deployment("busy", "green").instances] == [0]
    finally:
        house.close()


def kill_one_and_roll(house: House, streams: Streams) -> int:
    """One of two instances dies, then both are replaced. The number of streams that the death cut."""
    victim = house.service.get_deployment("busy", "blue").instances[0]
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGKILL)
    until(lambda: has_ended(victim.pid), "the instance to die")
    streams.more(STREAMS)
    cut = streams.outcomes.total() - streams.outcomes["ok"]
    assert cut == streams.outcomes["ModelFailed"] <= STREAMS, streams.outcomes

    def back() -> bool:
        there = house.service.get_deployment("busy", "blue").instances
        return sum(one.restarts for one in there) == 1 and all(one.state == "Ready" for one in there)

    until(back, "the dead one to be back")
    house.service.update_deployment("busy", "blue", UpdateDeployment(environment_variables={"ROLLED": "1"}))
    house.ready("busy", "blue")

    def rolled() -> bool:
        there = house.service.get_deployment("busy", "blue").instances
        return len(there) == 2 and all(one.id.startswith("i2-") for one in there)

    until(rolled, "the old instances to drain and go")
    return cut


def move_the_traffic(house: House, streams: Streams) -> None:
    """From blue to both to green; new requests follow at once."""
    assert set(streams.deployments) == {"blue"}
    house.service.update("busy", UpdateEndpoint(traffic={"blue": 50, "green": 50}))
    until(lambda: {"blue", "green"} == set(streams.deployments), "both to answer")
    house.service.update("busy", UpdateEndpoint(traffic={"blue": 0, "green": 100}))
    streams.more(STREAMS)  # those that had begun before
    streams.deployments.clear()
    streams.more(STREAMS)
    assert set(streams.deployments) == {"green"}
