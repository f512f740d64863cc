from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.tiny import tiny_model
from tests.support.workspace import add_job, temporary_workspace
from tunesmith.pipelines.graph import Graph
from tunesmith.tracking.rest import MlflowRest
from tunesmith.workspace import Services


@pytest.fixture(scope="package")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """One workspace, and so one MLflow server, for the tests of jobs and models: each uses names of its own.

    Its MLflow waited to be asked while the job ``unasked`` was there already.
    """
    with temporary_workspace(tmp_path_factory.mktemp("tracked") / "home", mlflow="asked") as services:
        add_job(services, "unasked")
        (services.paths.job("unasked") / "graph.json").write_text(Graph(steps=[]).model_dump_json())
        services.tracking.mirror()
        status = services.tracking.status()
        assert (status.running, status.behind) == (False, 1)
        services.tracking.ensure_running()
        yield services


@pytest.fixture(scope="package")
def rest(workspace: Services) -> Iterator[MlflowRest]:
    """MLflow, asked as the mirror asks it."""
    rest = MlflowRest(workspace.tracking.ensure_running(), workspace.tracking.map_path(""))
    yield rest
    rest.close()


@pytest.fixture(scope="session")
def made_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tunesmith.models import import_model

    folder = tmp_path_factory.mktemp("package")
    source = tiny_model("llama", folder / "source")
    import_model(str(source), folder / "package", downloads=folder / "downloads", name="tiny-llama")
    return folder / "package"


@pytest.fixture
def package(made_package: Path, tmp_path: Path) -> Path:
    """A copy of a small model package."""
    return Path(shutil.copytree(made_package, tmp_path / "package"))
