"""Starts, watches, restarts and stops MLflow's process. Knows nothing of what is in MLflow, and never imports it."""

from __future__ import annotations

import json
import logging
import os
import secrets
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path

from tunesmith.errors import Unavailable
from tunesmith.storage.paths import WorkspacePaths

log = logging.getLogger("tunesmith.tracking")

START_SECONDS = 120.0
"""How long MLflow may take: some seconds, more the first time (it makes its database) and on a busy machine."""
STOP_SECONDS = 10.0
POLL_SECONDS = 0.05
CRASHES = 3
CRASH_SECONDS = 60.0
"""After this many ends within this time it is not started again until that time is over."""
HEALTH_SECONDS = 10.0


class MlflowProcess:
    """MLflow's tracking server over the store in the workspace's folder; safe to use from several threads."""

    def __init__(self, paths: WorkspacePaths) -> None:
        self._paths = paths
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._port: int | None = None
        self._secret = secrets.token_urlsafe(24)
        self._ends: deque[float] = deque(maxlen=CRASHES)
        self._closed = False

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended; starts nothing, waits for nothing."""
        process, port = self._process, self._port
        return process is not None and port is not None and process.poll() is None

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def ensure_running(self) -> str:
        """Start it if it does not run, wait until it answers; its address, such as ``http://127.0.0.1:41234``.

        Raises:
            Unavailable: it does not come up; the message has the last lines it wrote.
        """
        with self._lock:
            if not self.running:
                self._start()
            return f"http://127.0.0.1:{self._port}"

    def map_path(self, path: str) -> str:
        """The path to ask MLflow for, for a ``path`` that begins with ``/mlflow``."""
        return f"/{self._secret}{path}"

    def stop(self) -> None:
        """End it; it is not started again."""
        self._closed = True  # before the lock: a start that goes on sees it and gives up
        with self._lock:
            self._end()

    def _start(self) -> None:
        if self._closed:
            raise Unavailable("the workspace is closing", target="mlflow")
        if self._process is not None:
            self._ends.append(time.monotonic())
            log.warning("MLflow's server ended (exit code %s); starting it again", self._process.poll())
            self._end()
        if len(self._ends) == CRASHES and time.monotonic() - self._ends[0] < CRASH_SECONDS:
            raise Unavailable(
                f"MLflow's server ended {CRASHES} times within a minute: {self._tail()}",
                target=str(self._paths.mlflow_log),
                way_out="look into its log; it is tried again in a minute",
            )
        folder = self._paths.mlflow
        (folder / "artifacts").mkdir(parents=True, exist_ok=True)
        self._paths.logs.mkdir(parents=True, exist_ok=True)
        place = folder / "child.json"
        place.unlink(missing_ok=True)
        with self._paths.mlflow_log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "tunesmith.tracking.child", str(folder)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                # A session of its own, so that Ctrl-C at a terminal reaches our server first, which then ends this.
                start_new_session=True,
                env=_environment(),
            )
        self._process = process
        try:
            assert process.stdin is not None
            process.stdin.write(f"{self._secret}\n".encode())
            process.stdin.flush()
            self._port = self._wait(process, place)
        except BaseException as error:
            self._ends.append(time.monotonic())
            self._end()
            if isinstance(error, BrokenPipeError):
                raise self._not_up("ended at once") from None
            raise

    def _wait(self, process: subprocess.Popen[bytes], place: Path) -> int:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise self._not_up(f"ended with exit code {process.returncode}")
            if self._closed:
                raise Unavailable("the workspace is closing", target="mlflow")
            port = _port(place, process.pid)
            if port is not None and self._healthy(port):
                return port
            time.sleep(POLL_SECONDS)
        raise self._not_up(f"did not answer within {START_SECONDS:.0f} s")

    def _healthy(self, port: int) -> bool:
        import httpx

        try:
            url = f"http://127.0.0.1:{port}{self.map_path('/mlflow/health')}"
            return httpx.get(url, timeout=HEALTH_SECONDS, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    def _end(self) -> None:
        process, self._process, self._port = self._process, None, None
        if process is None:
            return
        if process.stdin is not None:
            with suppress(BrokenPipeError):
                process.stdin.close()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _not_up(self, how: str) -> Unavailable:
        return Unavailable(
            f"MLflow's server {how}: {self._tail()}",
            target=str(self._paths.mlflow_log),
            way_out="look into its log; everything but MLflow works meanwhile, and metrics are copied later",
        )

    def _tail(self) -> str:
        try:
            lines = self._paths.mlflow_log.read_text("utf-8", "replace").splitlines()
        except OSError:
            lines = []
        return " / ".join(line.strip() for line in lines[-3:] if line.strip()) or "it wrote nothing"


def _environment() -> dict[str, str]:
    """This process's environment without what is meant for MLflow's clients, and with its telemetry off."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "_MLFLOW_"))}
    return {**kept, "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}


def _port(place: Path, pid: int) -> int | None:
    try:
        body = json.loads(place.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return int(body["port"]) if body.get("pid") == pid else None
