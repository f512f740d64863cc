"""A temporary workspace, open: what the tests of the first floor stand on."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from tunesmith.records.jobs import JobStatus, Output
from tunesmith.settings import load_settings
from tunesmith.storage.tables import JobRow
from tunesmith.workspace import Services, open_workspace


@cache
def _template() -> Path:
    """A new workspace's folder, made once: its database is migrated already."""
    home = Path(tempfile.mkdtemp(prefix="tunesmith-template-")) / "home"
    open_workspace(load_settings(home)).close()
    return home


@contextmanager
def temporary_workspace(home: Path, **settings: Any) -> Iterator[Services]:
    """Open a new workspace at ``home``, and close it at the end."""
    if not home.exists():
        shutil.copytree(_template(), home)
    services = open_workspace(load_settings(home, **settings))
    try:
        yield services
    finally:
        services.close()


def add_job(services: Services, name: str, *, status: JobStatus = JobStatus.COMPLETED, **columns: Any) -> None:
    """Put a job into the database as if it had run; its folder is made as well."""
    services.paths.job(name).mkdir(parents=True, exist_ok=True)
    row: dict[str, Any] = {
        "name": name,
        "type": "pipeline",
        "display_name": name,
        "experiment_name": "Default",
        "status": status.value,
        **columns,
    }
    with services.database.session() as session:
        session.add(JobRow(**row))


def add_output(services: Services, job: str, output: str, source: Path, type: str = "mlflow_model") -> Path:
    """Put a folder where the output of a job lies, and name it in the job's row. The path."""
    path = services.paths.job_output(job, output)
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, path)
    entry = Output(type=type, uri=f"azureml://jobs/{job}/outputs/{output}", path=str(path))
    with services.database.session() as session:
        row = session.get_one(JobRow, job)
        row.outputs = {**row.outputs, output: entry.model_dump(mode="json")}
    return path


def until(condition: Callable[[], object], what: str, *, seconds: float = 60.0) -> None:
    """Wait until ``condition`` holds; a failure that names ``what`` when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"after {seconds:g} s it still does not hold that {what}")
        time.sleep(0.05)
