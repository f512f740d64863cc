"""Finds the running server of a workspace folder, or starts one.

A server is known by ``server.json`` in the folder and believed only when its process is the one that wrote it and
``/healthz`` answers with the workspace's own id.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import httpx
from pydantic import ValidationError

from tunesmith.compute.processes import reap, spawn_detached
from tunesmith.errors import NotFound, Unavailable, Unreachable
from tunesmith.records.workspace import Health, ServerAddress

START_SECONDS = 60.0
"""How long a started server may take until it answers. It needs about two; a busy machine needs more."""
POLL_SECONDS = 0.05


def read_token(home: Path) -> str:
    """The token of the workspace in ``home``.

    Raises:
        NotFound: the folder holds no workspace yet.
    """
    try:
        return (home / "token").read_text(encoding="ascii").strip()
    except FileNotFoundError:
        raise NotFound(
            f"{home} has no token",
            target=str(home / "token"),
            way_out="start the server once (`tunesmith up -d`), which makes the workspace",
        ) from None


def find_server(home: Path) -> ServerAddress | None:
    """The server that runs over ``home`` now, if one does."""
    address = _read_address(home)
    if address is None or not _alive(address) or _health(address.url, address.workspace_id) is None:
        return None
    return address


def start_server(home: Path, *, arguments: Sequence[str] = (), timeout: float = START_SECONDS) -> ServerAddress:
    """Start a server over ``home`` in a session of its own, and wait until it answers.

    ``arguments`` are further command-line options of ``python -m tunesmith.server``. When another server is there
    first (two callers at once), that one is returned.

    Raises:
        Unavailable: it ended instead; the message has the last lines it wrote.
        Unreachable: it did not answer within ``timeout`` seconds.
    """
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    logs = home / "logs"
    logs.mkdir(exist_ok=True, mode=0o700)
    output = logs / "server.out"
    output.unlink(missing_ok=True)
    pid = spawn_detached(
        [sys.executable, "-m", "tunesmith.server", "--workspace", str(home), *arguments],
        environment=os.environ,
        log=output,
    )
    deadline = time.monotonic() + timeout
    ended = False
    while time.monotonic() < deadline:
        ended = ended or reap(pid)
        if found := find_server(home):
            return found
        if ended and not _someone_starts(home):
            raise Unavailable(
                f"the server of {home} did not start: {_tail(output)}",
                target=str(output),
                way_out="run `tunesmith doctor`, or start it in the foreground with `tunesmith up` to see why",
            )
        time.sleep(POLL_SECONDS)
    raise Unreachable(
        f"the server of {home} did not answer within {timeout:g} s",
        target=str(output),
        way_out="look at the file named above; if the machine is busy, try again",
    )


def _read_address(home: Path) -> ServerAddress | None:
    try:
        return ServerAddress.model_validate_json((home / "server.json").read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def _alive(address: ServerAddress) -> bool:
    import psutil

    try:
        process = psutil.Process(address.pid)
        # The kernel's clock ticks and a step of the system clock leave some room.
        return abs(process.create_time() - address.process_started) < 2 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _health(url: str, workspace_id: str) -> Health | None:
    try:
        response = httpx.get(f"{url}/healthz", timeout=5, trust_env=False, verify=False)
        health = Health.model_validate(response.json())
    except (httpx.HTTPError, json.JSONDecodeError, ValidationError):
        return None
    return health if health.workspace_id == workspace_id else None


def _someone_starts(home: Path) -> bool:
    """Whether another process holds the server's lock: a server that starts, and will answer soon."""
    import fcntl

    try:
        with (home / "server.lock").open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return True
            fcntl.flock(file, fcntl.LOCK_UN)
    except FileNotFoundError:
        return False
    return False


def _tail(path: Path, lines: int = 5) -> str:
    with path.open(encoding="utf-8", errors="replace") as file:
        return " / ".join(line.strip() for line in deque(file, lines) if line.strip()) or "it wrote nothing"
