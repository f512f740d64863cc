"""What the workspace asks of MLflow: that it runs, where it is, and that it shows what happens here."""

from __future__ import annotations

from tunesmith.storage.database import Database
from tunesmith.storage.paths import WorkspacePaths
from tunesmith.tracking.process import MlflowProcess


class Tracking:
    """MLflow of one workspace. Nothing is started before it is needed."""

    def __init__(self, paths: WorkspacePaths, database: Database) -> None:
        self._process = MlflowProcess(paths)

    @property
    def running(self) -> bool:
        """Whether MLflow's server runs now."""
        return self._process.running

    def ensure_running(self) -> str:
        """Start MLflow's server where it does not run; its address.

        Raises:
            Unavailable: it does not come up.
        """
        return self._process.ensure_running()

    def map_path(self, path: str) -> str:
        """The path to ask MLflow's server for, for a path that begins with ``/mlflow``."""
        return self._process.map_path(path)

    def mirror(self) -> None:
        """Copy what is new."""

    def stop(self) -> None:
        """End MLflow's server."""
        self._process.stop()
