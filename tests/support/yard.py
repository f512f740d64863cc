"""A gateway between wanted endpoints and scripted instances, without a controller or an HTTP face."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.backend import Backend
from tests.support.house import Rooms
from tunesmith.chat.messages import Message
from tunesmith.endpoints.gateway import Gateway
from tunesmith.endpoints.journal import Journal
from tunesmith.generate.types import GenerateRequest
from tunesmith.records.endpoints import (
    CreateDeployment,
    CreateEndpoint,
    DataCollector,
    RequestSettings,
    UpdateEndpoint,
)


class Yard:
    """A service, a pool and a gateway without a controller; scripted instances stand in the pool."""

    def __init__(self, home: Path, **options: Any) -> None:
        (home / "model").mkdir(parents=True)
        self.rooms = Rooms(home, {"m": home / "model", "other": home / "model"}, "")
        self.service, self.pool = self.rooms.service, self.rooms.pool
        self.draws: list[float] = []
        self.journal = Journal(self.rooms.paths.request_log, self.rooms.paths.collected)
        self.gateway = Gateway(
            self.service,
            self.pool,
            journal=self.journal,
            draw=lambda: self.draws.pop(0) if self.draws else 0.0,
            **options,
        )
        self.backends: list[Backend] = []
        self.service.create_or_update(CreateEndpoint(name="chat"))

    async def deployment(
        self,
        name: str,
        instances: int = 1,
        *,
        model: str = "m",
        collector: DataCollector | None = None,
        **settings: Any,
    ) -> list[Backend]:
        self.service.create_or_update_deployment(
            CreateDeployment(
                name=name,
                endpoint="chat",
                model=model,
                instance_count=instances,
                data_collector=collector or DataCollector(),
                request_settings=RequestSettings(**{"max_queue_wait_ms": 5000, **settings}),
            )
        )
        made = [await Backend(f"{name}{number}").start() for number in range(instances)]
        self.backends += made
        for backend in made:
            self.pool.add(backend.target("chat", name))
        return made

    def traffic(self, **shares: int) -> None:
        self.service.update("chat", UpdateEndpoint(traffic=shares))

    async def close(self) -> None:
        await self.gateway.close()
        for backend in self.backends:
            await backend.stop()
        self.rooms.database.close()


def ask(text: str, **changes: Any) -> GenerateRequest:
    return GenerateRequest(messages=(Message("user", text),), **changes)


async def eventually(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)
