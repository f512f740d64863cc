"""Processes of steps that have their imports behind them: the runner's side of the nursery.

A step of the product's own names in its component's property ``preload`` what it will import. The first one waits
for the nursery as long as it would have taken itself; the others begin at once. Where a step cannot come from there
it is started as any other: not on Linux, with a GPU (its driver does not survive a fork), or with variables of its own
that count when a library is loaded.
"""

from __future__ import annotations

import json
import os
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from tunesmith.compute import processes
from tunesmith.compute.processes import ProcessId
from tunesmith.pipelines.nursery import GO

PRELOAD = "preload"
"""Property of a component: the modules that its step imports first, with spaces between."""
PATIENCE_S = 120.0
"""How long the nursery may take to import."""
_OF_ONE_STEP = "TUNESMITH_"
"""Variables that are read when the step runs, and so may differ from step to step."""
_GPUS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")

Record = Callable[[ProcessId], None]


class Process(Protocol):
    """A process as a step needs it; ``subprocess.Popen`` is one."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the exit code. Raises ``subprocess.TimeoutExpired``."""


class Nursery:
    """Starts the processes of one job's steps, from a nursery where it can.

    Args:
        folder: the job's.
        modules: what the job's steps name in ``preload``; empty where none names any.
    """

    def __init__(self, folder: Path, modules: Sequence[str]) -> None:
        self._folder = folder
        self._modules = [*modules] if possible() else []
        self._child: subprocess.Popen[bytes] | None = None
        self._loaded_with: dict[str, str] = {}

    def wake(self, environment: Mapping[str, str]) -> None:
        """Begin to import, for steps with this environment."""
        if self._child is not None or not self._modules:
            return
        self._loaded_with = _when_loaded(environment)
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-m", "tunesmith.pipelines.nursery", *self._modules],
            cwd=self._folder,
            env=self._loaded_with,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            bufsize=0,
        )

    def start(
        self,
        command: str,
        *,
        preload: bool,
        cwd: Path,
        environment: Mapping[str, str],
        log: Path,
        record: Record,
        interrupted: Callable[[], bool],
    ) -> Process:
        """Start a step as ``processes.start`` does; from the nursery if its component says ``preload``.

        ``interrupted`` ends the wait for imports.
        """
        if preload and self._modules:
            self.wake(environment)
            words = shlex.split(command)
            if words[:2] == ["python", "-m"] and _when_loaded(environment) == self._loaded_with:
                order = {
                    "module": words[2],
                    "arguments": words[3:],
                    "cwd": str(cwd),
                    "environment": dict(environment),
                    "log": str(log),
                }
                process = self._order(order, record, interrupted)
                if process is not None:
                    return process
        return processes.start(command, cwd=cwd, environment=environment, log=log, record=record)

    def close(self) -> None:
        """End the nursery; nothing that came from it runs any more, or else it ends after that."""
        child, self._child = self._child, None
        if child is None:
            return
        assert child.stdin is not None and child.stdout is not None
        with suppress(OSError):
            child.stdin.close()
        if child.poll() is None:
            child.kill()  # it may be in the middle of its imports; its children have sessions of their own
        child.wait()
        child.stdout.close()

    def _order(self, order: Mapping[str, object], record: Record, interrupted: Callable[[], bool]) -> Process | None:
        """A process for ``order``, or None where there is no nursery to have it from."""
        child = self._child
        if child is None:
            return None
        assert child.stdin is not None and child.stdout is not None
        deadline = time.monotonic() + PATIENCE_S
        with suppress(OSError):
            child.stdin.write(json.dumps(order).encode() + b"\n")
            while time.monotonic() < deadline and not interrupted():
                body = _answer(child, 0.1)
                if body is not None and "pid" in body:
                    identity = ProcessId.of(body["pid"])
                    if identity is None:
                        break
                    record(identity)
                    child.stdin.write(GO)
                    return _FromNursery(identity, child)
                if child.poll() is not None:
                    break
        # Without it the job goes on as it would have gone.
        print("the nursery gave no process: steps import for themselves", flush=True)
        self.close()
        self._modules = []
        return None


class _FromNursery:
    """A process whose parent is the nursery, which tells its exit code."""

    def __init__(self, identity: ProcessId, nursery: subprocess.Popen[bytes]) -> None:
        self.pid = identity.pid
        self.returncode: int | None = None
        self._identity = identity
        self._nursery = nursery

    def poll(self) -> int | None:
        """See ``Process``."""
        return self._look(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """See ``Process``."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            code = self._look(0.05)
            if code is not None:
                return code
            if deadline is not None and time.monotonic() >= deadline:
                assert timeout is not None
                raise subprocess.TimeoutExpired("step", timeout)

    def _look(self, timeout: float) -> int | None:
        if self.returncode is None:
            body = _answer(self._nursery, timeout)
            if body is not None and "code" in body:
                self.returncode = body["code"]
            elif self._nursery.poll() is not None:
                if not self._identity.alive:
                    # The nursery was killed, and nobody heard how its child ended: not well, as far as is known.
                    self.returncode = -signal.SIGKILL
                time.sleep(timeout)
        return self.returncode


def possible() -> bool:
    """Whether processes that imported torch can be forked here."""
    return sys.platform == "linux" and not any(os.path.exists(path) for path in _GPUS)  # noqa: PTH110


def _when_loaded(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if not name.startswith(_OF_ONE_STEP)}


def _answer(child: subprocess.Popen[bytes], timeout: float) -> dict[str, int] | None:
    """The next answer, if one comes within ``timeout`` seconds."""
    assert child.stdout is not None
    if not select.select([child.stdout], [], [], timeout)[0]:
        return None
    line = child.stdout.readline()  # written in one piece
    body: dict[str, int] | None = json.loads(line) if line else None
    return body
