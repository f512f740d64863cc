"""What the workspace asks of MLflow: that it runs, where it is, and that it shows what happens here."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tunesmith.errors import TunesmithError
from tunesmith.storage.artifacts import ArtifactStore
from tunesmith.storage.database import Database
from tunesmith.storage.paths import WorkspacePaths
from tunesmith.tracking.jobs import JobMirror
from tunesmith.tracking.models import ModelMirror
from tunesmith.tracking.process import MlflowProcess

if TYPE_CHECKING:
    from tunesmith.tracking.rest import MlflowRest

log = logging.getLogger("tunesmith.tracking")

LONGEST_PAUSE_S = 60.0
"""Between two tries while MLflow does not take anything."""
START_RUN_S = 2.0
"""How long the start of a job may wait for its run in MLflow."""


@dataclass(frozen=True, slots=True)
class TrackingStatus:
    """How MLflow stands."""

    running: bool
    pid: int | None
    behind: int
    """Jobs and models that it does not have wholly."""
    problem: str | None
    """Why it takes nothing at the moment; it is tried again."""


class Tracking:
    """MLflow of one workspace. Nothing is started before it is needed; no job waits for it or fails with it.

    Args:
        when_asked: start MLflow's server only when somebody asks it, not already when there is something to show.
    """

    def __init__(
        self, paths: WorkspacePaths, database: Database, store: ArtifactStore, *, when_asked: bool = False
    ) -> None:
        self._process = MlflowProcess(paths)
        self._jobs = JobMirror(database, paths)
        self._models = ModelMirror(database, paths, store)
        self._needed = not when_asked
        self._lock = threading.Lock()
        self._rest: tuple[str, MlflowRest] | None = None
        self._problem: str | None = None
        self._pause = 0.0
        self._not_before = 0.0

    def status(self) -> TrackingStatus:
        """How MLflow stands now; starts nothing."""
        behind = len(self._jobs.pending()) + len(self._models.pending())
        return TrackingStatus(self._process.running, self._process.pid, behind, self._problem)

    def ensure_running(self) -> str:
        """Start MLflow's server where it does not run; its address, such as ``http://127.0.0.1:41234``.

        Where nobody asked before and it waited for that, what there is to show is copied first.

        Raises:
            Unavailable: it does not come up; the message has the last lines it wrote.
        """
        address = self._process.ensure_running()
        if not self._needed:
            # Nothing was copied until now, and who asks wants to see it.
            self._needed = True
            self.mirror()
        return address

    def map_path(self, path: str) -> str:
        """The path to ask MLflow's server for, for a path that begins with ``/mlflow``."""
        return self._process.map_path(path)

    def mirror(self) -> None:
        """Copy what is new; start MLflow when there is something. Faults are said once and tried again later."""
        if not self._needed or time.monotonic() < self._not_before:
            return
        with self._lock:
            jobs, models = self._jobs.pending(), self._models.pending()
            if not jobs and not models:
                return
            import httpx

            from tunesmith.tracking.rest import MlflowError

            try:
                rest = self._connect()
                for name in jobs:
                    self._jobs.copy(rest, name)
                for key in models:
                    self._models.copy(rest, key)
            except (httpx.HTTPError, MlflowError, TunesmithError, OSError) as error:
                self._later(error)
            else:
                self._well()

    def start_run(self, job: str) -> str | None:
        """The run of a job that is about to start, where MLflow runs and answers at once; ``None`` otherwise.

        Then the mirror makes it a little later, and code in the job's steps logs to runs of its own.
        """
        if not self._process.running or not self._lock.acquire(timeout=START_RUN_S):
            return None
        import httpx

        from tunesmith.tracking.rest import MlflowError, MlflowRest

        try:
            rest = MlflowRest(self.ensure_running(), self.map_path(""), timeout=START_RUN_S)
            try:
                return self._jobs.start_run(rest, job)
            finally:
                rest.close()
        except (httpx.HTTPError, MlflowError, TunesmithError):
            return None
        finally:
            self._lock.release()

    def unlink_model(self, name: str, version: str) -> None:
        """Take away MLflow's links to the files of a model that is about to be deleted."""
        self._models.unlink(name, version)

    def stop(self) -> None:
        """End MLflow's server."""
        self._process.stop()
        with self._lock:
            if self._rest is not None:
                self._rest[1].close()
                self._rest = None

    def _connect(self) -> MlflowRest:
        from tunesmith.tracking.rest import MlflowRest

        address = self._process.ensure_running()
        if self._rest is None or self._rest[0] != address:
            if self._rest is not None:
                self._rest[1].close()
            self._rest = (address, MlflowRest(address, self.map_path("")))
        return self._rest[1]

    def _later(self, error: Exception) -> None:
        if self._problem is None:
            log.warning("MLflow takes nothing at the moment; jobs go on, and it gets their metrics later: %s", error)
        self._problem = str(error)
        self._pause = min(LONGEST_PAUSE_S, max(1.0, self._pause * 2))
        self._not_before = time.monotonic() + self._pause

    def _well(self) -> None:
        if self._problem is not None:
            log.info("MLflow takes everything again")
        self._problem, self._pause = None, 0.0
