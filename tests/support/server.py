"""A real server process over a real workspace, on a free port of loopback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from tunesmith.client.discovery import find_server, read_token

START_SECONDS = 60.0


@dataclass
class RunningServer:
    """A server process that answers."""

    home: Path
    url: str
    token: str
    process: subprocess.Popen[bytes]
    output: Path

    @property
    def http(self) -> httpx.Client:
        """A client with the token."""
        return httpx.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {self.token}"}, timeout=60, trust_env=False
        )

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        self.process.kill()
        self.process.wait(30)

    def stop(self) -> int:
        """Ask it to end; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def start_server(home: Path, *arguments: str, environment: dict[str, str] | None = None) -> RunningServer:
    """Start ``python -m tunesmith.server`` over ``home`` and wait until it answers."""
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    output = home / "test-output.txt"
    command = [sys.executable, "-m", "tunesmith.server", "--workspace", str(home), *arguments]
    if "--port" not in arguments:
        command += ["--port", "0"]
    with output.open("ab") as file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **(environment or {})},
        )
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        found = find_server(home)
        if found is not None and found.pid == process.pid:
            return RunningServer(home, found.url, read_token(home), process, output)
        if process.poll() is not None:
            raise AssertionError(f"the server ended with {process.returncode}:\n{output.read_text()}")
        time.sleep(0.1)
    process.kill()
    raise AssertionError(f"the server did not answer:\n{output.read_text()}")


@contextmanager
def running_server(home: Path, *arguments: str, environment: dict[str, str] | None = None) -> Iterator[RunningServer]:
    """A server for the length of a ``with``; its instances and jobs end with it."""
    server = start_server(home, *arguments, environment=environment)
    try:
        yield server
    finally:
        end_server(server)


def end_server(server: RunningServer) -> None:
    """End a server with everything that it started. MLflow, which may be starting, ends by itself when it is gone."""
    if server.process.poll() is not None:
        return
    with suppress(httpx.HTTPError, subprocess.TimeoutExpired):
        with server.http as http:
            http.post("/api/v1/shutdown", json={"everything": True})
        server.process.wait(2)
    server.kill()
