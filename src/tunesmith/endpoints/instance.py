"""One instance: a process that holds a model and answers the gateway (``python -m tunesmith.endpoints.instance
--config FILE``).

It comes up in measured phases: copy (open the package and verify its hashes), load (the engine), warm-up (a first
generation), contract check (recorded ids and recorded answers). Only then is it ready. ``instance.json`` in its
folder tells how far it is, and, if it fails, why. It needs no server: when the server goes away it goes on, and it
ends by SIGTERM (after the requests in flight) or when its folder is gone.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypeVar

import psutil
from aiohttp import web

from tunesmith.endpoints.documents import CONFIG_FILE, PHASES, STATE_FILE, InstanceConfig, InstanceState, read_config
from tunesmith.endpoints.instance_app import InstanceApp
from tunesmith.errors import Failure, TunesmithError
from tunesmith.records.endpoints import Phase
from tunesmith.starting import starting
from tunesmith.storage.atomic import write_json

T = TypeVar("T")

FOLDER_CHECK_S = 5.0
WARM_UP_TOKENS = 2
"""One out of reading the prompt, one out of going on: both passes have been made once."""


class Instance:
    """The life of one instance."""

    def __init__(self, folder: Path, config: InstanceConfig) -> None:
        self._folder = folder
        self._config = config
        self._stop = asyncio.Event()
        self._error: TunesmithError | None = None
        self._state = InstanceState(
            instance=config.instance,
            pid=os.getpid(),
            process_started=psutil.Process().create_time(),
        )
        self._app = InstanceApp(
            config.secret, lambda: self._state.model_dump(mode="json"), self._broken, self._tell_engine
        )

    async def run(self) -> int:
        """Come up, serve until told to stop; the exit status."""
        self._tell()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        # The client going away must cancel its generation: hence handler_cancellation.
        runner = web.AppRunner(
            self._app.application(), access_log=None, handler_cancellation=True, shutdown_timeout=1.0
        )
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
        await site.start()
        self._tell(port=runner.addresses[0][1])
        bring_up = asyncio.create_task(self._bring_up())
        stopped = asyncio.create_task(self._stop.wait())
        watch = asyncio.create_task(self._watch_folder())
        await asyncio.wait({bring_up, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not bring_up.done():
            # A load cannot be interrupted: its thread would keep the process alive.
            self._tell(state="Stopped")
            sys.stdout.flush()
            _end_children()
            os._exit(0)
        error = bring_up.result()
        if error is None:
            await stopped
            error = self._error
        await self._drain(error)
        watch.cancel()
        await runner.cleanup()
        if self._app.engine is not None:
            self._app.engine.close()
        return 0 if error is None else 1

    async def _bring_up(self) -> TunesmithError | None:
        try:
            with starting():
                await self._phases()
        except TunesmithError as error:
            traceback.print_exc()
            return error
        except Exception as error:
            traceback.print_exc()
            return Failure(f"{type(error).__name__}: {error}")
        self._app.accepting = True
        self._tell(state="Ready")
        total = sum(phase.seconds or 0.0 for phase in self._state.phases)
        print(f"ready after {total:.2f} s on port {self._state.port}", flush=True)
        return None

    async def _phases(self) -> None:
        from tunesmith.endpoints.contract_check import check_greedy, find_greedy_probes
        from tunesmith.generate.types import GenerateRequest, collect

        config = self._config
        async with self._phase("copy"):
            package = await asyncio.to_thread(_open_package, config)
        async with self._phase("load"):
            engine = await asyncio.to_thread(_open_engine, package, config)
        self._app.engine = engine
        self._tell_engine()
        async with self._phase("warm-up"):
            from tunesmith.chat.messages import Message

            for adapter in (None, *config.adapters):
                hello = (Message("user", "Hello"),)
                request = GenerateRequest(hello, temperature=0, max_tokens=WARM_UP_TOKENS, adapter=adapter)
                await collect(engine.generate(request))
        async with self._phase("contract check"):
            await asyncio.to_thread(engine.tokenizer.check_probes)
            probes = find_greedy_probes(config.greedy_probes, config.model_path, package.path)
            said = await check_greedy(engine, probes)
            self._tell(notices=[*self._state.notices, *said])

    @contextlib.asynccontextmanager
    async def _phase(self, name: str) -> AsyncIterator[None]:
        assert name in PHASES
        before = self._state.phases
        self._tell(phases=[*before, Phase(name=name)])
        print(f"phase: {name}", flush=True)
        start = time.perf_counter()
        yield
        self._tell(phases=[*before, Phase(name=name, seconds=round(time.perf_counter() - start, 4))])

    def _broken(self, error: TunesmithError) -> None:
        self._error = error
        self._stop.set()

    async def _drain(self, error: TunesmithError | None) -> None:
        self._app.accepting = False
        self._tell(state="Stopping" if error is None else "Failed", error=error.to_dict()["error"] if error else None)
        if error is not None:
            print(f"failed: {error}", file=sys.stderr, flush=True)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._config.drain_s):
                await self._app.idle.wait()
        self._tell(state="Stopped")

    async def _watch_folder(self) -> None:
        while (self._folder / CONFIG_FILE).exists():
            await asyncio.sleep(FOLDER_CHECK_S)
        print("the folder of this instance is gone: ending", flush=True)
        self._stop.set()

    def _tell_engine(self) -> None:
        engine = self._app.engine
        assert engine is not None
        print(f"engine: {engine.description.to_dict()}", flush=True)
        self._tell(engine=engine.description.to_dict(), capabilities=engine.capabilities().to_dict())

    def _tell(self, **changes: Any) -> None:
        self._state = self._state.model_copy(update=changes)
        if self._folder.is_dir():
            write_json(self._folder / STATE_FILE, self._state)


def _end_children() -> None:
    """End what the load started: an engine's server, an export."""
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


def _open_package(config: InstanceConfig) -> Any:
    from tunesmith.models.package import ModelPackage

    # Every byte is compared with the manifest, about a second per GB: weights that rotted must not answer.
    return ModelPackage.open(config.model_path, full=True)


def _open_engine(package: Any, config: InstanceConfig) -> Any:
    from tunesmith.generate import open_engine

    return open_engine(
        package,
        engine=config.engine,
        precision=config.precision,
        exports=config.exports,
        adapters=config.adapters or None,
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the instance that ``--config`` describes; the exit status."""
    parser = argparse.ArgumentParser(prog="tunesmith.endpoints.instance", description="One instance of a deployment.")
    parser.add_argument("--config", type=Path, required=True, help="config.json of the instance's folder")
    path: Path = parser.parse_args(arguments).config
    config = read_config(path.parent)
    if config is None:
        print(f"{path}: not the configuration of an instance", file=sys.stderr)
        return 2
    return asyncio.run(_run(path.parent, config))


async def _run(folder: Path, config: InstanceConfig) -> int:
    return await Instance(folder, config).run()


if __name__ == "__main__":
    sys.exit(main())
