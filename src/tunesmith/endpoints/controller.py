"""Makes wanted deployments real.

A loop in the server compares what is wanted with what is and takes the next steps: start, roll, scale, end. It is
woken by every change and looks by itself every 0.2 s, more often while an instance comes up, so a dead instance is
seen, with its cause, well within a second. When the server goes away the instances go on; the next server's controller
finds them by their folders, pids and start times, and adopts them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.endpoints.autoscale import Autoscaler, Load
from tunesmith.endpoints.documents import read_config
from tunesmith.endpoints.handle import Handle, Stage
from tunesmith.endpoints.pool import InstancePool
from tunesmith.endpoints.service import EndpointService
from tunesmith.endpoints.store import DeploymentDocument
from tunesmith.errors import Failure, NotFound, TunesmithError
from tunesmith.records.endpoints import Instance

if TYPE_CHECKING:
    import aiohttp

logger = logging.getLogger(__name__)

TICK_S = 0.2
STARTING_TICK_S = 0.05
"""While an instance comes up: it is ready that much sooner."""
DELETE_GRACE_S = 2.0
"""How long requests in flight may go on when their deployment is deleted."""


class EndpointController:
    """See the module's docstring. Runs on one event loop; ``instances`` may be called from any thread.

    Args:
        service: says what is wanted.
        pool: gets the ready instances.
        exports: the folder where engines keep what they make of packages, for the instances to come.
    """

    def __init__(self, service: EndpointService, pool: InstancePool, *, exports: Path | None = None) -> None:
        self._service = service
        self._pool = pool
        self._exports = exports
        self._handles: dict[tuple[str, str], list[Handle]] = {}
        self._unwanted: list[Handle] = []
        self._autoscalers: dict[tuple[str, str], Autoscaler] = {}
        self._wake = asyncio.Event()
        self._lock = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Adopt what an earlier server left, and begin."""
        self._loop = asyncio.get_running_loop()
        self._service.watch_instances(self.instances)
        self._service.subscribe(self._wake_from_any_thread)
        await asyncio.to_thread(self._adopt)
        await self.reconcile()
        self._task = asyncio.create_task(self._run(), name="endpoint-controller")

    async def stop(self, *, end_instances: bool = False) -> None:
        """Stop watching. Instances go on serving nobody until the next server adopts them, unless ``end_instances``."""
        loop, self._loop = self._loop, None
        if loop is None:
            return
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        everyone = [handle for handles in self._handles.values() for handle in handles] + self._unwanted
        if end_instances:
            for handle in everyone:
                handle.end(DELETE_GRACE_S, self._wake.set)
            while not all(handle.gone for handle in everyone):
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(TICK_S):
                        await self._wake.wait()
        for handle in everyone:
            await handle.let_go()
        if self._session is not None:
            await self._session.close()

    async def reconcile(self) -> None:
        """Look once at everything and take the next steps. Never raises for one deployment's sake."""
        async with self._lock:
            wanted = {document.key: document for document in self._service.wanted()}
            for key in list(self._handles):
                if key not in wanted:
                    self._unwanted += self._handles.pop(key)
            for handle in self._unwanted:
                handle.end(DELETE_GRACE_S, self._wake.set)
            self._unwanted = [handle for handle in self._unwanted if not handle.gone]
            for key, document in wanted.items():
                try:
                    await self._converge(document)
                except TunesmithError as error:
                    await self._report(document, "Failed", error=error.to_dict()["error"])
                except Exception as error:
                    logger.exception("deployment %s of endpoint %s", key[1], key[0])
                    failure = Failure(f"{type(error).__name__}: {error}")
                    await self._report(document, "Failed", error=failure.to_dict()["error"])
            for name in self._service.deleting_endpoints():
                if not any(key[0] == name for key in self._handles):
                    await asyncio.to_thread(shutil.rmtree, self._service.folder / name, True)
                    await asyncio.to_thread(self._service.outcomes.forget_endpoint, name)

    def instances(self, endpoint: str, deployment: str) -> list[Instance]:
        """The instances of a deployment as they are now."""
        return [handle.record() for handle in list(self._handles.get((endpoint, deployment), ()))]

    # Inside

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STARTING_TICK_S if self._any_starting() else TICK_S):
                    await self._wake.wait()
            self._wake.clear()
            try:
                await self.reconcile()
            except Exception:
                logger.exception("reconciling endpoints")

    def _any_starting(self) -> bool:
        return any(handle.stage is Stage.STARTING for handles in self._handles.values() for handle in handles)

    def _wake_from_any_thread(self) -> None:
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closing
                loop.call_soon_threadsafe(self._wake.set)

    def _adopt(self) -> None:
        wanted = {document.key: document for document in self._service.wanted()}
        for folder in sorted(self._service.folder.glob("*/*/*")):
            handle = Handle.adopt(folder, self._pool) if folder.is_dir() else None
            if handle is None:
                if folder.is_dir() and read_config(folder) is None:
                    shutil.rmtree(folder, ignore_errors=True)
                continue
            document = wanted.get(handle.key)
            lives = handle.process is not None
            if document is None or (handle.generation != document.generation and not lives):
                self._unwanted.append(handle)
                continue
            if handle.stage is Stage.FAILED and document.state != "Failed":
                handle.stage = Stage.FAILING
            self._handles.setdefault(handle.key, []).append(handle)
            logger.info("found instance %s, %s", handle.config.instance, "alive" if lives else "dead")

    async def _converge(self, document: DeploymentDocument) -> None:
        handles = self._handles.setdefault(document.key, [])
        handles[:] = [handle for handle in handles if not handle.gone]
        if document.state == "Deleting":
            for handle in handles:
                handle.end(DELETE_GRACE_S, self._wake.set)
            if not handles:
                await self._forget(document)
            return
        for handle in handles:
            await handle.observe(document, self._connections(), self._wake.set)
        if await self._autoscale(document):
            return  # what is wanted has changed: the next round, which comes at once, sees it
        await self._swap_adapters(document, handles)
        # One that takes other adapters counts as what is wanted until it has refused them.
        active = [handle for handle in handles if handle.active]
        current = [handle for handle in active if handle.swapping or handle.generation == document.generation]
        old = [handle for handle in active if handle not in current]
        self._drop_surplus(document, current, old)
        await self._start_missing(document, current, old)
        await self._tell(document, current, old)

    async def _autoscale(self, document: DeploymentDocument) -> bool:
        """Ask for another number of instances where the load needs it; whether it did."""
        limits = document.spec.autoscale
        if limits is None or document.state == "Failed":
            self._autoscalers.pop(document.key, None)
            return False
        now = time.monotonic()
        scaler = self._autoscalers.setdefault(document.key, Autoscaler(now))
        load = Load(
            in_flight=self._pool.in_flight(document.key),
            queued=self._pool.queued(document.key),
            slots=document.spec.request_settings.max_concurrent_requests_per_instance,
        )
        decision = scaler.decide(limits, document.spec.instance_count, load, now)
        if decision is not None:
            await asyncio.to_thread(
                self._service.outcomes.scale, document.key, document.generation, decision.count, decision.reason
            )
        return decision is not None

    async def _swap_adapters(self, document: DeploymentDocument, handles: list[Handle]) -> None:
        """Ask ready instances for other adapters where those are all that changed."""
        asked = [handle for handle in handles if handle.may_swap(document) and not handle.swapping]
        if asked and document.state != "Failed":
            adapters = await asyncio.to_thread(self._service.outcomes.adapter_folders, document)
            for handle in asked:
                handle.swap(document.generation, adapters, self._connections(), self._wake.set)

    def _drop_surplus(self, document: DeploymentDocument, current: list[Handle], old: list[Handle]) -> None:
        grace = document.spec.request_settings.request_timeout_ms / 1000
        count = document.spec.instance_count
        # Ready ones stay before those that are not, elders before the young.
        current.sort(key=lambda handle: handle.stage is not Stage.READY)
        for handle in current[count:]:
            handle.end(grace, self._wake.set)
        del current[count:]
        ready = sum(handle.stage is Stage.READY for handle in current)
        keep = max(0, count - ready)
        old.sort(key=lambda handle: handle.stage is not Stage.READY)
        for handle in old[keep:]:
            handle.end(grace, self._wake.set)
        del old[keep:]

    async def _start_missing(self, document: DeploymentDocument, current: list[Handle], old: list[Handle]) -> None:
        missing = document.spec.instance_count - len(current)
        if document.state == "Failed" or any(handle.stage is Stage.FAILED for handle in current):
            return
        if old and any(handle.stage is not Stage.READY for handle in current):
            return  # a roll goes one by one: the next starts when this one is ready
        for _ in range(min(missing, 1) if old else missing):
            model, probes = await asyncio.to_thread(self._service.outcomes.model_files, document)
            adapters = await asyncio.to_thread(self._service.outcomes.adapter_folders, document)
            handle = await asyncio.to_thread(
                Handle.create,
                self._service.folder,
                document,
                model,
                probes,
                self._pool,
                adapters=adapters,
                exports=self._exports,
            )
            self._handles[document.key].append(handle)
            current.append(handle)
            await handle.observe(document, self._connections(), self._wake.set)

    def _connections(self) -> aiohttp.ClientSession:
        """To the instances; a server without any does not load what makes them."""
        if self._session is None:
            import aiohttp

            self._session = aiohttp.ClientSession(trust_env=False)
        return self._session

    async def _tell(self, document: DeploymentDocument, current: list[Handle], old: list[Handle]) -> None:
        failed = next((handle for handle in current if handle.stage is Stage.FAILED), None)
        if failed is not None:
            if document.state != "Failed":
                await self._report(document, "Failed", error=failed.error, log_tail=failed.log_tail())
            return
        ready = sum(handle.stage is Stage.READY and not handle.swapping for handle in current)
        if document.state in ("Creating", "Updating") and ready >= document.spec.instance_count and not old:
            notices = [note for handle in current if handle.state for note in handle.state.notices]
            await self._report(document, "Succeeded", notices=notices, instance_count=document.spec.instance_count)

    async def _report(self, document: DeploymentDocument, state: str, **details: object) -> None:
        await asyncio.to_thread(self._service.outcomes.report, document.key, document.generation, state, **details)  # type: ignore[arg-type]

    async def _forget(self, document: DeploymentDocument) -> None:
        endpoint, deployment = document.key
        self._handles.pop(document.key, None)
        self._autoscalers.pop(document.key, None)
        self._pool.forget(document.key, NotFound(f"deployment {deployment!r} of endpoint {endpoint!r} was deleted"))
        folder: Path = self._service.folder / endpoint / deployment
        await asyncio.to_thread(shutil.rmtree, folder, True)
        await asyncio.to_thread(self._service.outcomes.forget_deployment, document.key)
