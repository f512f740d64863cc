"""One place for an instance: its folder, its process, its probes and its restarts.

A handle outlives the processes in it: when one dies, the next is started in the same folder under the same name. It
watches and decides about its own process only; how many handles there are and which go is for the controller.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import shutil
import time
from collections.abc import Awaitable, Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.endpoints.adapter_swap import ask_to_swap, only_adapters_differ
from tunesmith.endpoints.documents import (
    CONFIG_FILE,
    LOG_FILE,
    SECRET_HEADER,
    STATE_FILE,
    InstanceConfig,
    InstanceState,
    read_config,
    read_state,
)
from tunesmith.endpoints.pool import InstancePool, Target
from tunesmith.endpoints.process import InstanceProcess
from tunesmith.endpoints.store import DeploymentDocument
from tunesmith.endpoints.tails import tail
from tunesmith.errors import DeploymentFailed, TunesmithError, UserError, error_from_dict
from tunesmith.records.endpoints import Instance, ProbeSettings
from tunesmith.storage.atomic import write_json

if TYPE_CHECKING:
    import aiohttp

logger = logging.getLogger(__name__)

LOG_TAIL_LINES = 40
STARTS_BEFORE_FAILED = 3
"""Starts that may die without a cause of their own before an instance that was never ready counts as failed."""
LONGEST_BACK_OFF_S = 60.0
KILL_AFTER_S = 10.0
"""How long an instance may take to end after its drain."""
SHORTEST_STARTUP_S = 600.0


class Stage(StrEnum):
    """Where the process in a handle is."""

    STARTING = "Starting"
    READY = "Ready"
    FAILING = "Failing"
    """Not answering its readiness probe, or dead and waiting to be started again."""
    FAILED = "Failed"
    """It cannot come up; only a change of the deployment helps."""
    STOPPING = "Stopping"


class _Probe:
    """Counts one probe's answers and knows when it is due."""

    def __init__(self) -> None:
        self.due = 0.0
        self.successes = 0
        self.failures = 0

    def count(self, ok: bool) -> None:
        self.successes = self.successes + 1 if ok else 0
        self.failures = 0 if ok else self.failures + 1


class Handle:
    """See the module's docstring."""

    def __init__(self, folder: Path, config: InstanceConfig, pool: InstancePool) -> None:
        self.folder = folder
        self.config = config
        self.key = (config.endpoint, config.deployment)
        self.generation = config.generation
        self.stage = Stage.FAILING
        self.restarts = 0
        self.error: dict[str, Any] | None = None
        self.state: InstanceState | None = None
        self.process: InstanceProcess | None = None
        self.target: Target | None = None
        self.ever_ready = False
        self._pool = pool
        self._starts = 0
        self._crashes = 0
        self._next_start = 0.0
        self._launched_at = 0.0
        self._ready_at = 0.0
        self._kill_cause: str | None = None
        self._liveness = _Probe()
        self._readiness = _Probe()
        self._probing: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._swapping: asyncio.Task[None] | None = None
        self._swap_refused = 0

    @classmethod
    def create(
        cls,
        root: Path,
        document: DeploymentDocument,
        model: Path,
        greedy_probes: Path | None,
        pool: InstancePool,
        *,
        adapters: dict[str, Path] | None = None,
        exports: Path | None = None,
    ) -> Handle:
        """A new handle with its folder and configuration."""
        endpoint, deployment = document.key
        instance = f"i{document.generation}-{secrets.token_hex(4)}"
        folder = root / endpoint / deployment / instance
        folder.mkdir(parents=True, mode=0o700)
        config = InstanceConfig(
            endpoint=endpoint,
            deployment=deployment,
            instance=instance,
            generation=document.generation,
            model=document.spec.model,
            model_path=model,
            greedy_probes=greedy_probes,
            engine=document.spec.engine,
            precision=document.spec.precision,
            instance_type=document.spec.instance_type,
            adapters=adapters or {},
            exports=exports,
            secret=secrets.token_urlsafe(32),
            environment=document.spec.environment_variables,
            drain_s=document.spec.request_settings.request_timeout_ms / 1000,
        )
        # The secret must be in the file, and pydantic keeps it there: only its repr is hidden.
        write_json(folder / CONFIG_FILE, config, mode=0o600)
        return cls(folder, config, pool)

    @classmethod
    def adopt(cls, folder: Path, pool: InstancePool) -> Handle | None:
        """The handle of a folder that an earlier server left, with its process if that lives; None without a
        configuration."""
        config = read_config(folder)
        if config is None:
            return None
        handle = cls(folder, config, pool)
        handle.state = state = read_state(folder)
        handle.process = (
            InstanceProcess.find(state.pid, state.process_started) if state else InstanceProcess.find_by_config(folder)
        )
        handle.ever_ready = state is not None and state.state in ("Ready", "Stopping", "Stopped")
        if handle.process is None and state is not None:
            InstanceProcess(state.pid, state.process_started).kill()  # what a dead one had started
        if handle.process is not None:
            handle.stage = Stage.STARTING
            handle._launched_at = time.monotonic()
        elif state is not None and state.state == "Failed" and not handle.ever_ready:
            handle.stage = Stage.FAILED
            handle.error = state.error
        return handle

    # Read by the controller

    @property
    def active(self) -> bool:
        """Whether it is meant to serve."""
        return self.stage is not Stage.STOPPING

    @property
    def gone(self) -> bool:
        """Whether its process has ended for good and its folder is removed."""
        return self._ending is not None and self._ending.done()

    def log_tail(self) -> list[str]:
        """The last lines of its log."""
        return tail(self.folder / LOG_FILE, LOG_TAIL_LINES)

    def record(self) -> Instance:
        """Itself, as others see it."""
        return Instance(
            id=self.config.instance,
            state=self.stage.value,
            pid=self.process.pid if self.process else None,
            port=self.state.port if self.state else None,
            phases=self.state.phases if self.state else [],
            restarts=self.restarts,
            in_flight=self.target.in_flight if self.target else 0,
            engine=self.state.engine if self.state else None,
            error=self.error,
        )

    # Driven by the controller

    async def observe(
        self, document: DeploymentDocument, session: aiohttp.ClientSession, wake: Callable[[], None]
    ) -> None:
        """Look at the process; start it when it is due; start the probes that are due."""
        if self.stage in (Stage.FAILED, Stage.STOPPING):
            return
        now = time.monotonic()
        if self.process is None:
            if now >= self._next_start:
                await asyncio.to_thread(self._launch)
            return
        if not self.process.alive():
            self._died(now)
            return
        if self.state is None or self.state.state == "Starting" or self.state.pid != self.process.pid:
            fresh = read_state(self.folder)
            if fresh is not None and fresh.pid == self.process.pid:
                self.state = fresh
        ready = self.state is not None and self.state.pid == self.process.pid and self.state.state == "Ready"
        if not ready:
            self._check_startup(document.spec.liveness_probe, now)
            return
        if self.stage is Stage.READY and self.target is not None and not self.target.open:
            self.stage = Stage.FAILING  # the gateway could not reach it
            self._readiness.due = 0.0
        if self._ready_at == 0.0:
            self._ready_at = now
            # The startup phase was measured, so readiness is asked at once; liveness keeps Azure's delay.
            self._readiness.due = now
            self._liveness.due = max(now, self._launched_at + document.spec.liveness_probe.initial_delay)
        if (self._probing is None or self._probing.done()) and min(self._readiness.due, self._liveness.due) <= now:
            self._probing = asyncio.create_task(self._probe(document, session, wake))

    def may_swap(self, document: DeploymentDocument) -> bool:
        """Whether it is ready, needs other adapters at most to be what is wanted, and did not refuse those before."""
        return (
            self.stage is Stage.READY
            and self.generation != document.generation != self._swap_refused
            and only_adapters_differ(self.config, document.spec)
        )

    @property
    def swapping(self) -> bool:
        """Whether it is taking other adapters now."""
        return self._swapping is not None and not self._swapping.done()

    def swap(
        self, generation: int, adapters: dict[str, Path], session: aiohttp.ClientSession, wake: Callable[[], None]
    ) -> None:
        """Ask it for ``adapters``; if it takes them it belongs to ``generation``."""
        if adapters == self.config.adapters:
            self._swap_refused = generation  # it was asked for again: a new process may be what is wanted
        elif not self.swapping:
            self._swapping = asyncio.create_task(self._swap(generation, adapters, session, wake))

    def end(self, grace_s: float, wake: Callable[[], None]) -> None:
        """Take it out of traffic, let requests in flight finish for ``grace_s``, end the process, remove the folder."""
        if self._ending is None:
            self.stage = Stage.STOPPING
            if self.target is not None:
                self._pool.remove(self.target)
            if self._swapping is not None:
                self._swapping.cancel()
            self._ending = asyncio.create_task(self._end(grace_s, wake))

    async def let_go(self) -> None:
        """Stop watching; the process goes on."""
        for task in (self._probing, self._swapping, self._ending):
            if task is not None and not task.done():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        if self.process is not None:
            self.process.let_go()

    # Inside

    def _launch(self) -> None:
        (self.folder / STATE_FILE).unlink(missing_ok=True)
        self.state = None
        self._kill_cause = None
        self._ready_at = 0.0
        self._liveness, self._readiness = _Probe(), _Probe()
        self._launched_at = time.monotonic()
        if self._starts or self.ever_ready:
            self.restarts += 1
        self._starts += 1
        self.process = InstanceProcess.start(self.folder, self.config.environment)
        self.stage = Stage.STARTING

    def _died(self, now: float) -> None:
        assert self.process is not None
        state = read_state(self.folder)
        ours = state is not None and state.pid == self.process.pid
        end = self.process.describe_end()
        self.process.kill()  # what it had started would stand beside the next one's
        if self.target is not None:
            self._pool.remove(self.target)
            self.target = None
        if ours and state is not None and state.error:
            self.error = state.error
        elif self._kill_cause is not None:
            self.error = DeploymentFailed(self._kill_cause).to_dict()["error"]
        else:
            phase = state.phases[-1].name if ours and state is not None and state.phases else "start"
            when = "while it served" if self.stage is not Stage.STARTING else f"in the phase {phase!r}"
            self.error = DeploymentFailed(
                f"the instance's process {end} {when}", target=str(self.folder / LOG_FILE)
            ).to_dict()["error"]
        if ours:
            self.state = state
        self.process = None
        served = self._ready_at > 0
        lasting = served and now - self._ready_at > LONGEST_BACK_OFF_S
        self._crashes = 1 if lasting else self._crashes + 1
        own_fault = ours and state is not None and state.error is not None and _is_final(state.error)
        if not self.ever_ready and (own_fault or self._crashes >= STARTS_BEFORE_FAILED):
            self.stage = Stage.FAILED
            return
        self.stage = Stage.FAILING
        # The first restart of one that served is at once: most deaths do not repeat.
        wait = 0.0 if self._crashes == 1 and self.ever_ready else min(LONGEST_BACK_OFF_S, 2.0 ** (self._crashes - 2))
        self._next_start = now + wait

    def _check_startup(self, liveness: ProbeSettings, now: float) -> None:
        longest = max(SHORTEST_STARTUP_S, liveness.initial_delay + liveness.period * liveness.failure_threshold)
        if now - self._launched_at > longest and self.process is not None:
            phase = self.state.phases[-1].name if self.state and self.state.phases else "start"
            self._kill_cause = f"the instance was not ready after {longest:.0f} s; its last phase was {phase!r}"
            self.process.kill()

    async def _probe(
        self, document: DeploymentDocument, session: aiohttp.ClientSession, wake: Callable[[], None]
    ) -> None:
        assert self.state is not None and self.process is not None
        process = self.process
        now = time.monotonic()
        liveness, readiness = document.spec.liveness_probe, document.spec.readiness_probe
        asks_live, asks_ready = self._liveness.due <= now, self._readiness.due <= now
        timeout = max([liveness.timeout] * asks_live + [readiness.timeout] * asks_ready)
        answered, status, said = await self._ask(session, timeout)
        if self.process is not process or self.stage in (Stage.STOPPING, Stage.FAILED):
            return
        if asks_live:
            self._liveness.due = now + liveness.period
            self._liveness.count(answered)
            if self._liveness.failures >= liveness.failure_threshold:
                self._kill_cause = f"the liveness probe failed {self._liveness.failures} times in a row: {said}"
                process.kill()
                return
        if asks_ready:
            self._readiness.due = now + readiness.period
            self._readiness.count(status == 200)
            self._judge(readiness, said)
        wake()

    def _judge(self, readiness: ProbeSettings, said: str) -> None:
        assert self.state is not None
        if self.stage is not Stage.READY and self._readiness.successes >= readiness.success_threshold:
            if self.target is None:
                self.target = Target(
                    key=self.key,
                    instance=self.config.instance,
                    url=f"http://127.0.0.1:{self.state.port}",
                    secret=self.config.secret,
                    model=self.config.model,
                )
            self.stage = Stage.READY
            self.ever_ready = True
            self._pool.add(self.target)
        elif self.stage is not Stage.READY and self._readiness.successes:
            self._readiness.due = time.monotonic() + min(1.0, readiness.period)
        elif self.stage is Stage.READY and self._readiness.failures >= readiness.failure_threshold:
            self.stage = Stage.FAILING
            self.error = DeploymentFailed(f"the readiness probe failed: {said}").to_dict()["error"]
            if self.target is not None:
                self._pool.remove(self.target)

    async def _swap(
        self, generation: int, adapters: dict[str, Path], session: aiohttp.ClientSession, wake: Callable[[], None]
    ) -> None:
        assert self.target is not None
        process = self.process
        refusal = await ask_to_swap(session, self.target.url, self.config.secret, adapters)
        if refusal is None and self.process is process:
            self.config = self.config.model_copy(update={"generation": generation, "adapters": adapters})
            await asyncio.to_thread(write_json, self.folder / CONFIG_FILE, self.config, mode=0o600)
            self.state = await asyncio.to_thread(read_state, self.folder) or self.state
            self.generation = generation
        else:
            self._swap_refused = generation
            logger.info("instance %s rolls for its adapters: %s", self.config.instance, refusal or "it was restarted")
        wake()

    async def _ask(self, session: aiohttp.ClientSession, timeout_s: float) -> tuple[bool, int | None, str]:
        import aiohttp

        assert self.state is not None
        try:
            async with session.get(
                f"http://127.0.0.1:{self.state.port}/health",
                headers={SECRET_HEADER: self.config.secret},
                timeout=aiohttp.ClientTimeout(total=timeout_s),
            ) as response:
                await response.read()
                return response.status in (200, 503), response.status, f"status {response.status}"
        except TimeoutError:
            return False, None, f"no answer in {timeout_s:g} s"
        except (aiohttp.ClientError, OSError) as error:
            return False, None, str(error) or type(error).__name__

    async def _end(self, grace_s: float, wake: Callable[[], None]) -> None:
        if self.target is not None and self.target.in_flight:
            await _at_most(self.target.idle.wait(), grace_s)
        if self.process is not None:
            self.process.terminate()
            await _at_most(self._ended(), KILL_AFTER_S)
            self.process.kill()
            await _at_most(self._ended(), KILL_AFTER_S)
        await asyncio.to_thread(shutil.rmtree, self.folder, True)
        wake()

    async def _ended(self) -> None:
        while self.process is not None and self.process.alive():
            await asyncio.sleep(0.02)


def _is_final(error: dict[str, Any]) -> bool:
    """Whether starting again cannot help: the model or the request is wrong."""
    kind: TunesmithError = error_from_dict(error)
    return isinstance(kind, UserError | DeploymentFailed)


async def _at_most(wait: Awaitable[Any], seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await wait
