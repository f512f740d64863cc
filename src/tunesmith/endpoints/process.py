"""Instance processes as the operating system sees them: start, recognise again, end.

A process is named by its pid and start time, so a pid that was given out again is never taken for the instance. It
knows nothing of what the process serves.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil

from tunesmith.compute.processes import ProcessId, signal_group
from tunesmith.endpoints.documents import CONFIG_FILE, LOG_FILE

_MODULE = "tunesmith.endpoints.instance"
_KEPT_FROM_INSTANCES = ("TUNESMITH_TOKEN", "TUNESMITH_DATABASE_URL", "TUNESMITH_ARTIFACT_URL")


_ALWAYS = {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
# Waiting threads sleep (OMP_WAIT_POLICY) unless the server was told otherwise: spinning ones would take the cores from
# a job that trains beside the instance.


MARK = "TUNESMITH_INSTANCE"
"""In the environment of an instance and of all that it starts: its folder."""


class InstanceProcess:
    """A living or dead process of an instance."""

    def __init__(self, pid: int, started: float, child: subprocess.Popen[bytes] | None = None) -> None:
        self.pid = pid
        self.started = started
        self._child = child
        self._exit: int | None = None

    @property
    def _identity(self) -> ProcessId:
        return ProcessId(self.pid, self.started)

    @classmethod
    def start(cls, folder: Path, environment: Mapping[str, str]) -> InstanceProcess:
        """Start the instance configured in ``folder``, in a session of its own, its output in ``log.txt``."""
        inherited = {name: value for name, value in os.environ.items() if name not in _KEPT_FROM_INSTANCES}
        with (folder / LOG_FILE).open("ab") as log:
            os.chmod(folder / LOG_FILE, 0o600)  # noqa: PTH101
            child = subprocess.Popen(
                [sys.executable, "-m", _MODULE, "--config", str(folder / CONFIG_FILE)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=folder,
                env={"OMP_WAIT_POLICY": "PASSIVE", **inherited, **_ALWAYS, **environment, MARK: str(folder)},
            )
        identity = ProcessId.of(child.pid)
        return cls(child.pid, identity.started if identity else 0.0, child)

    @classmethod
    def find(cls, pid: int, started: float) -> InstanceProcess | None:
        """The living process that has ``pid`` and began at ``started`` (Unix seconds), if it is still there."""
        found = cls(pid, started)
        return found if found.alive() else None

    @classmethod
    def find_by_config(cls, folder: Path) -> InstanceProcess | None:
        """The living process whose command line names the configuration in ``folder``."""
        config = str(folder / CONFIG_FILE)
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                command = process.cmdline()
                if config in command and _MODULE in command:
                    return cls(process.pid, process.create_time())
        return None

    def alive(self) -> bool:
        """Whether it runs; a dead child is reaped on the way."""
        if self._child is not None:
            self._exit = self._child.poll()
            return self._exit is None
        return self._identity.alive

    def let_go(self) -> None:
        """It goes on when this process ends, and nobody here waits for it any more."""
        if self._child is not None and self._child.poll() is None:
            self._child.returncode = 0  # nobody will know; without one, the object complains when it goes
        self._child = None

    def describe_end(self) -> str:
        """How it ended, in words: the exit status or the signal, where that is known."""
        if self._exit is None:
            return "ended while nobody watched"
        if self._exit < 0:
            name = signal.Signals(-self._exit).name
            hint = "; the machine may be out of memory" if name == "SIGKILL" else ""
            return f"was ended by {name}{hint}"
        return f"ended with exit status {self._exit}"

    def terminate(self) -> None:
        """Ask it to finish what is in flight and end."""
        if self.alive():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End it and what it started, now; what outlived it as well, such as the server of an engine."""
        if self.alive():
            signal_group(self.pid, signal.SIGKILL)
            return
        for process in self._left():
            with contextlib.suppress(psutil.Error):
                process.kill()

    def _left(self) -> list[psutil.Process]:
        """What the dead one had started and is still there.

        Its number may have become another program's since: only who carries an instance's mark is taken.
        """
        if self._identity.number_taken:
            return []
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if os.getpgid(process.pid) == self.pid and MARK in process.environ():
                    found.append(process)
        return found
