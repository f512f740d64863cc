"""What the server does while nobody asks: follow jobs, keep endpoints as they are wanted, mirror metrics to MLflow.

Each loop says what went wrong and goes on: a fault in one round must not end the others, nor the server.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING

from tunesmith.endpoints.controller import EndpointController
from tunesmith.endpoints.gateway import Gateway
from tunesmith.server.lifecycle import Lifecycle

if TYPE_CHECKING:
    from tunesmith.workspace import Services

log = logging.getLogger("tunesmith.server")

MIRROR_SECONDS = 1.0
"""Between two rounds of copying metrics to MLflow."""
AFTER_FAULT_SECONDS = 5.0


class Background:
    """The loops, from the application's start to its end."""

    def __init__(
        self, services: Services, lifecycle: Lifecycle, gateway: Gateway, controller: EndpointController
    ) -> None:
        self._services = services
        self._lifecycle = lifecycle
        self._gateway = gateway
        self._controller = controller
        self._mirroring: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Background:
        await self._controller.start()
        await asyncio.to_thread(self._services.jobs.start)
        self._mirroring = asyncio.create_task(_forever("mirror", self._mirror, MIRROR_SECONDS))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._mirroring is not None:
            self._mirroring.cancel()
            await asyncio.gather(self._mirroring, return_exceptions=True)
        await asyncio.to_thread(self._services.jobs.stop)
        await self._controller.stop(end_instances=self._lifecycle.end_instances)
        await self._gateway.close()

    async def _mirror(self) -> None:
        await asyncio.to_thread(self._services.tracking.mirror)


async def _forever(name: str, work: Callable[[], Awaitable[None]], seconds: float) -> None:
    while True:
        pause = seconds
        try:
            await work()
        except Exception:
            log.exception("the background work %r met a fault; it goes on", name)
            pause = AFTER_FAULT_SECONDS
        await asyncio.sleep(pause)
