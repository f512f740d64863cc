"""Starting and stopping processes, so that none is ever lost.

A process is known by its pid and its start time: a pid alone may be given out again. It leads a session and process
group of its own, so stopping it reaches what it started.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

# The shell waits until its pid is on disk: if the runner is killed in between, the pipe closes and nothing was started
# that nobody knows of.
_GATE = 'IFS= read -r go || exit 125; exec "$1" -c "$2" </dev/null'


_SAME_S = 0.05
"""Start times closer than this are the same: they are read from clocks of different grain."""


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process that can be told from any other."""

    pid: int
    started: float
    """Unix seconds."""

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        """The process that has ``pid`` now, or ``None``."""
        try:
            return cls(pid, psutil.Process(pid).create_time())
        except psutil.NoSuchProcess:
            return None

    @property
    def alive(self) -> bool:
        """Whether it runs (a zombie does not)."""
        try:
            return self.same_as(ProcessId.of(self.pid)) and psutil.Process(self.pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    @property
    def number_taken(self) -> bool:
        """Whether its pid belongs to another process by now."""
        now = ProcessId.of(self.pid)
        return now is not None and not self.same_as(now)

    def same_as(self, other: ProcessId | None) -> bool:
        """Whether both are one process."""
        return other is not None and other.pid == self.pid and abs(other.started - self.started) < _SAME_S


def shell() -> str:
    """The shell that runs commands: bash where there is one, as on Azure ML."""
    return shutil.which("bash") or shutil.which("sh") or "/bin/sh"


def start(
    command: str,
    *,
    cwd: Path,
    environment: Mapping[str, str],
    log: Path,
    record: Callable[[ProcessId], None],
) -> subprocess.Popen[bytes]:
    """Start ``command`` in a shell, a session of its own, with output appended to ``log``.

    ``record`` must put the process on disk; the command runs only after it returned.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            [shell(), "-c", _GATE, "step", shell(), command],
            cwd=cwd,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    assert process.stdin is not None
    identity = ProcessId.of(process.pid)
    with suppress(BrokenPipeError):  # the shell died already: its exit code tells
        if identity is not None:
            record(identity)
            process.stdin.write(b"go\n")
        process.stdin.close()
    return process


def spawn_detached(arguments: Sequence[str], *, environment: Mapping[str, str], log: Path) -> int:
    """Start a process that leads a session of its own and lives on when this one ends; its pid.

    Its output is appended to ``log``, and it gets no other open file of this process: a lock or a pipe of whoever
    called would be held for as long as it lives. Whoever started it reaps it with ``reap``, so that it does not stay
    a zombie.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    return os.posix_spawn(
        arguments[0],
        list(arguments),
        dict(environment),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
            *((os.POSIX_SPAWN_CLOSE, handle) for handle in _inheritable()),
        ],
        setsid=True,
    )


def _inheritable() -> Iterator[int]:
    """The open files, beyond the three standard ones, that a child would get."""
    for entry in list(Path("/dev/fd").iterdir()):
        with suppress(OSError):  # the handle of this very listing is closed by now
            if int(entry.name) > 2 and os.get_inheritable(int(entry.name)):
                yield int(entry.name)


def reap(pid: int) -> bool:
    """Take the exit code of a child that ended. Whether it is gone (or was never a child of this process)."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


def stop(process: ProcessId, *, grace_s: float) -> bool:
    """Ask a process group to stop, wait, then kill what is left of it. Whether it stopped by itself.

    For a process that is not a child of this one (the orphan of a runner that was killed) as well.
    """
    if not process.alive:
        kill_leftovers(process)
        return True
    signal_group(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while process.alive and time.monotonic() < deadline:
        time.sleep(0.05)
    stopped = not process.alive
    if not stopped:
        signal_group(process.pid, signal.SIGKILL)
    kill_leftovers(process)
    return stopped


def kill_leftovers(process: ProcessId) -> None:
    """Kill what a process that ended left behind in its group.

    The group keeps its number from being given out again as long as anything is in it; a process that has the number
    with another start time shows that the group is empty.
    """
    if not process.number_taken:
        signal_group(process.pid, signal.SIGKILL)


def end_group(process: subprocess.Popen[Any], grace_s: float) -> None:
    """Wait up to ``grace_s`` seconds for a child that was told to end, then kill all that is left of its group.

    A child may have started a server that outlives it when it crashes.
    """
    try:
        with suppress(subprocess.TimeoutExpired):
            process.wait(grace_s)
    finally:  # when the wait is interrupted, too
        signal_group(process.pid, signal.SIGKILL)
        process.wait()


def signal_group(pid: int, number: int) -> None:
    """Send a signal to a process group; nothing when it is gone."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
