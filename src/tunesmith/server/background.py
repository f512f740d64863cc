"""What the server does while nobody asks: follow jobs, keep endpoints as they are wanted, mirror metrics to MLflow.

Each part says what went wrong and goes on: a fault in one round must not end the others, nor the server.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
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
    """The parts, from the application's start to its end."""

    def __init__(
        self, services: Services, lifecycle: Lifecycle, gateway: Gateway, controller: EndpointController
    ) -> None:
        self._services = services
        self._lifecycle = lifecycle
        self._gateway = gateway
        self._controller = controller
        self._mirroring: asyncio.Task[None] | None = None
        self._ending = asyncio.Event()

    async def __aenter__(self) -> Background:
        await self._controller.start()
        await asyncio.to_thread(self._services.jobs.start)
        self._mirroring = asyncio.create_task(self._mirror())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ending.set()
        await asyncio.to_thread(self._services.jobs.stop)
        await self._controller.stop(end_instances=self._lifecycle.end_instances)
        await self._gateway.close()
        # Last, because MLflow may take some seconds. The database closes after this: no round of copying may go on.
        await asyncio.to_thread(self._services.tracking.stop)
        if self._mirroring is not None:
            await self._mirroring

    async def _mirror(self) -> None:
        while not self._ending.is_set():
            pause = MIRROR_SECONDS
            try:
                await asyncio.to_thread(self._services.tracking.mirror)
            except Exception:
                log.exception("copying to MLflow met a fault; it goes on")
                pause = AFTER_FAULT_SECONDS
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._ending.wait()
