"""Registered models in MLflow's model registry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.workspace import add_job, add_output
from tunesmith.pipelines.graph import Graph
from tunesmith.records.assets import RegisterModel
from tunesmith.storage.tables import MirrorRow
from tunesmith.tracking.rest import MlflowError, MlflowRest
from tunesmith.workspace import Services


def versions(rest: MlflowRest, name: str) -> list[dict[str, Any]]:
    answer = rest.call("GET", "model-versions/search", {"filter": f"name = '{name}'", "max_results": "100"})
    found: list[dict[str, Any]] = answer.get("model_versions", [])
    return found


def mirror(workspace: Services) -> None:
    workspace.tracking.mirror()
    assert workspace.tracking.status().problem is None


def test_a_model_from_a_folder_is_shown_with_its_files(
    workspace: Services, rest: MlflowRest, package: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "mlflow"
    folder.mkdir()
    (folder / "MLmodel").write_text("flavors: {}\n")
    package.rename(folder / "model")
    made = workspace.models.register(
        RegisterModel(name="shown", path=str(folder), version="2026.1", description="why", tags={"team": "blue"})
    )
    mirror(workspace)
    (version,) = versions(rest, "shown")
    tags = {tag["key"]: tag["value"] for tag in version["tags"]}
    assert (version["version"], version["description"]) == ("1", "why")
    assert tags == {
        "team": "blue",
        "tunesmith.key": f"model:shown:2026.1:{(made.sha256 or '')[:12]}",
        "tunesmith.id": "azureml:shown:2026.1",
        "tunesmith.version": "2026.1",
        "tunesmith.sha256": made.sha256,
    }
    assert rest.get_run(version["run_id"]).artifact_uri + "/registered/shown/2026.1" == version["source"]
    # The files can be fetched as MLflow's client does it, and cost no room.
    place = version["source"].removeprefix("mlflow-artifacts:/")
    address, secret = workspace.tracking.ensure_running(), workspace.tracking.map_path("")
    url = f"{address}{secret}/mlflow/api/2.0/mlflow-artifacts/artifacts/{place}/MLmodel"
    assert httpx.get(url, trust_env=False).text == "flavors: {}\n"
    assert made.path is not None
    assert (Path(made.path) / "model" / "model.safetensors").stat().st_nlink == 2
    # Deleted here, it is gone there, and its bytes come back at once.
    assert workspace.models.delete("shown", "2026.1") == made.size_bytes
    mirror(workspace)
    assert versions(rest, "shown") == []
    with pytest.raises(MlflowError, match="RESOURCE_DOES_NOT_EXIST"):
        rest.call("GET", "registered-models/get", {"name": "shown"})


def test_a_model_from_a_job_stands_under_the_jobs_run(workspace: Services, rest: MlflowRest, package: Path) -> None:
    add_job(workspace, "trained")
    folder = workspace.paths.job("trained")
    (folder / "graph.json").write_text(Graph(steps=[]).model_dump_json())
    (folder / "lineage.json").write_text(json.dumps({"job": "trained", "step": "s", "items": []}))
    add_output(workspace, "trained", "trained_model", package)
    for _ in range(2):
        workspace.models.register(RegisterModel(name="tuned", path="azureml://jobs/trained/outputs/trained_model"))
    mirror(workspace)
    found = versions(rest, "tuned")
    assert sorted(version["version"] for version in found) == ["1", "2"]
    assert {version["run_id"] for version in found} == {workspace.jobs.get("trained").mlflow_run_id}
    workspace.models.delete("tuned", "1")
    mirror(workspace)
    (left,) = versions(rest, "tuned")
    assert {"key": "tunesmith.version", "value": "2"} in left["tags"]


def test_a_model_is_shown_once_whatever_was_noted(workspace: Services, rest: MlflowRest, package: Path) -> None:
    workspace.models.register(RegisterModel(name="once", path=str(package)))
    mirror(workspace)
    with workspace.database.session() as session:  # killed before it was noted
        for row in session.query(MirrorRow).filter(MirrorRow.job.startswith("model:once:1:")):
            session.delete(row)
    mirror(workspace)
    assert len(versions(rest, "once")) == 1


def test_a_model_that_is_replaced_under_its_version_is_replaced_there(
    workspace: Services, rest: MlflowRest, package: Path, tmp_path: Path
) -> None:
    (tmp_path / "any").mkdir()
    (tmp_path / "any" / "a.txt").write_text("other")
    workspace.models.register(RegisterModel(name="again", path=str(package), version="1"))
    mirror(workspace)
    workspace.models.delete("again", "1")
    made = workspace.models.register(
        RegisterModel(name="again", path=str(tmp_path / "any"), version="1", type="custom_model")
    )
    mirror(workspace)
    (version,) = versions(rest, "again")
    assert {"key": "tunesmith.sha256", "value": made.sha256} in version["tags"]


def test_the_same_model_registered_again_has_its_files_there_again(
    workspace: Services, rest: MlflowRest, package: Path
) -> None:
    workspace.models.register(RegisterModel(name="back", path=str(package), version="1"))
    mirror(workspace)
    workspace.models.delete("back", "1")
    made = workspace.models.register(RegisterModel(name="back", path=str(package), version="1"))
    mirror(workspace)
    assert len(versions(rest, "back")) == 1
    assert made.path is not None
    assert (Path(made.path) / "model.safetensors").stat().st_nlink == 2
