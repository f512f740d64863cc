"""Models over the wire, call by call; what the SDK makes of them is in ``test_sdk``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.azure.wire import W, Wire, azure_wire
from tests.support.workspace import add_job, add_output
from tunesmith.models import import_model
from tunesmith.models.mlflow_format import write_mlflow_model
from tunesmith.records.jobs import JobStatus


@pytest.fixture(scope="module")
def mlflow_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow model folder around a tiny Phi-3."""
    from tests.support.tiny import tiny_model

    folder = tmp_path_factory.mktemp("model")
    source = tiny_model("phi3", folder / "source")
    package = import_model(str(source), folder / "package", downloads=folder / "downloads", name="tiny")
    return write_mlflow_model(package, folder / "mlflow")


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[Wire]:
    with azure_wire(tmp_path / "home") as found:
        yield found


def body(uri: str, **more: Any) -> dict[str, Any]:
    """What the SDK sends for a model."""
    properties = {"modelType": "mlflow_model", "modelUri": uri, "isAnonymous": False, "isArchived": False, **more}
    return {"properties": {"tags": {}, "properties": {}, "description": None, "stage": None, **properties}}


def folder_of(wire: Wire, source: Path, name: str = "folder") -> str:
    """Upload a folder as the SDK does; its path in the datastore."""
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        relative = file.relative_to(source).as_posix()
        assert wire.put(f"LocalUpload/abc/{name}/{relative}", file.read_bytes()).status_code == 201
    return (
        f"azureml://subscriptions/sub/resourcegroups/rg/workspaces/ws/datastores/workspaceblobstore"
        f"/paths/LocalUpload/abc/{name}"
    )


def test_a_jobs_output_becomes_a_model_that_knows_its_job(wire: Wire, mlflow_model: Path) -> None:
    add_job(wire.services, "tune")
    add_output(wire.services, "tune", "trained_model", mlflow_model)
    assert wire.arm("GET", "models/m/versions?$orderBy=createdtime desc&$top=1") == {"value": [], "nextLink": None}
    uri = "azureml://jobs/tune/outputs/trained_model"
    made = wire.arm("PUT", "models/m/versions/7", body(uri, description="d", tags={"a": "b"}), 201)
    assert (made["id"], made["name"]) == (f"{W}/models/m/versions/7", "7")
    properties = made["properties"]
    assert properties["jobName"] == "tune" and properties["tags"] == {"a": "b"} and properties["description"] == "d"
    assert properties["modelUri"].endswith("/datastores/workspaceblobstore/paths/models/m/7/")
    assert {"transformers", "python_function"} <= set(properties["flavors"])
    assert all(isinstance(value, str) for value in properties["flavors"]["transformers"]["data"].values())
    assert wire.arm("GET", "models/m/versions/7") == made
    assert wire.arm("GET", "models/m/versions?$top=1")["value"] == [made]
    # The same path again, in any spelling, changes nothing but what describes the model.
    in_datastore = "azureml://datastores/workspaceblobstore/paths/jobs/tune/trained_model/"
    for again in (uri, in_datastore, properties["modelUri"]):
        changed = wire.arm("PUT", "models/m/versions/7", body(again, description=again))
        assert changed["properties"]["description"] == again and changed["properties"]["tags"] == {}
    assert wire.services.models.get("m").lineage.job == "tune"  # type: ignore[union-attr]


def test_an_output_named_by_its_path_in_the_datastore_is_still_the_jobs(wire: Wire, mlflow_model: Path) -> None:
    add_job(wire.services, "tune")
    add_output(wire.services, "tune", "trained_model", mlflow_model)
    uri = "azureml://datastores/workspaceblobstore/paths/jobs/tune/trained_model/"
    assert wire.arm("PUT", "models/m/versions/1", body(uri), 201)["properties"]["jobName"] == "tune"


def test_an_uploaded_folder_becomes_a_model_whose_files_can_be_read(wire: Wire, mlflow_model: Path) -> None:
    uri = folder_of(wire, mlflow_model)
    made = wire.arm("PUT", "models/m/versions/1", body(uri), 201)
    wire.arm("PUT", "models/m/versions/10", body(uri), 201)
    path = made["properties"]["modelUri"].partition("/paths/")[2]
    listed = wire.blob("GET", "", query=f"restype=container&comp=list&prefix={path}").text
    names = re.findall("<Name>(.*?)</Name>", listed)
    assert f"{path}MLmodel" in names and all(name.startswith("models/m/1/") for name in names)
    assert wire.blob("GET", f"{path}MLmodel").content == (mlflow_model / "MLmodel").read_bytes()
    assert wire.blob("PUT", f"{path}MLmodel", b"x", x_ms_blob_type="BlockBlob").status_code == 403


def test_a_file_keeps_its_name(wire: Wire) -> None:
    made = wire.arm("PUT", "models/m/versions/1", body(wire.upload("a.bin", b"weights"), modelType="custom_model"), 201)
    path = made["properties"]["modelUri"].partition("/paths/")[2]
    assert path == "models/m/1/a.bin" and wire.blob("GET", path).content == b"weights"
    made["properties"]["description"] = "other"
    assert wire.arm("PUT", "models/m/versions/1", made)["properties"]["modelUri"] == made["properties"]["modelUri"]


def test_names_and_versions_are_listed_archived_and_restored(wire: Wire, mlflow_model: Path) -> None:
    uri = folder_of(wire, mlflow_model)
    for name, version in (("m", "1"), ("m", "2"), ("other", "1")):
        wire.arm("PUT", f"models/{name}/versions/{version}", body(uri), 201)

    def names(view: str = "ActiveOnly") -> list[str]:
        return [one["name"] for one in wire.arm("GET", f"models?listViewType={view}")["value"]]

    def versions(view: str = "ActiveOnly") -> list[str]:
        return [one["name"] for one in wire.arm("GET", f"models/m/versions?listViewType={view}")["value"]]

    assert (names(), versions()) == (["other", "m"], ["2", "1"])
    container = wire.arm("GET", "models/m")
    assert container["properties"]["latestVersion"] == "2" and container["properties"]["nextVersion"] == "3"
    two = wire.arm("GET", "models/m/versions/2")
    two["properties"]["isArchived"] = True
    wire.arm("PUT", "models/m/versions/2", two)
    assert (versions(), versions("ArchivedOnly"), versions("All")) == (["1"], ["2"], ["2", "1"])
    assert wire.arm("GET", "models/m")["properties"]["latestVersion"] == "1"
    container["properties"]["isArchived"] = True
    assert wire.arm("PUT", "models/m", container)["properties"]["isArchived"] is True
    assert (names(), names("ArchivedOnly"), versions()) == (["other"], ["m"], [])
    container["properties"]["isArchived"] = False
    wire.arm("PUT", "models/m", container)
    assert (names("All"), versions()) == (["other", "m"], ["2", "1"])
    page = wire.arm("GET", "models/m/versions?$top=1")
    assert [one["name"] for one in wire.call("GET", page["nextLink"])["value"]] == ["1"]
    wire.arm("DELETE", "models/m/versions/1")
    assert versions() == ["2"]
    wire.arm("GET", "models/m/versions/1", status=404)


def test_a_stage_and_tags_are_kept_and_asked_for(wire: Wire, mlflow_model: Path) -> None:
    uri = folder_of(wire, mlflow_model)
    wire.arm("PUT", "models/m/versions/1", body(uri, stage="Production", tags={"a": "1"}), 201)
    wire.arm("PUT", "models/m/versions/2", body(uri, isAnonymous=True), 201)
    one, two = (wire.arm("GET", f"models/m/versions/{version}")["properties"] for version in "12")
    assert one["stage"] == "Production" and one["properties"] == {} and not one["isAnonymous"]
    assert two["isAnonymous"] and "stage" not in two

    def found(query: str) -> list[str]:
        return [one["name"] for one in wire.arm("GET", f"models/m/versions?{query}")["value"]]

    assert found("stage=Production") == found("tags=a") == found("tags=a=1") == found("version=1") == ["1"]
    assert found("tags=a=2") == found("stage=None") == []


def refused(wire: Wire, version: str, sent: dict[str, Any], status: int = 400) -> dict[str, Any]:
    error: dict[str, Any] = wire.arm("PUT", f"models/m/versions/{version}", sent, status)["error"]
    return error


def test_what_cannot_be_registered_is_refused_by_its_field(wire: Wire, mlflow_model: Path) -> None:
    uri = folder_of(wire, mlflow_model)
    wire.arm("PUT", "models/m/versions/1", body(uri), 201)
    moved = refused(wire, "1", body("azureml://datastores/workspaceblobstore/paths/LocalUpload/other"))
    assert moved["code"] == "UserError" and moved["message"].startswith("Asset paths cannot be updated")
    assert refused(wire, "1", body(uri, properties={"p": "q"}))["target"] == "properties.properties"
    assert refused(wire, "1", body(uri, modelType="custom_model"))["target"] == "properties.modelType"
    assert refused(wire, "2", body("/etc/passwd"))["target"] == "properties.modelUri"
    assert refused(wire, "2", body("https://example.org/m"))["target"] == "properties.modelUri"
    triton = refused(wire, "2", body(uri, modelType="triton_model"))
    assert (triton["code"], triton["target"]) == ("NotImplementedByTunesmith", "properties.modelType")
    assert "onnx_model" in refused(wire, "2", body(uri, modelType="onnx_model"))["message"]
    assert "modelUri" in refused(wire, "2", {"properties": {}})["message"]
    assert "speed" in refused(wire, "2", body(uri, speed=1))["message"]
    add_job(wire.services, "running", status=JobStatus.RUNNING, outputs={"o": {"type": "mlflow_model", "uri": "x"}})
    assert "is Running" in refused(wire, "2", body("azureml://jobs/running/outputs/o"), 409)["message"]
    assert "no job" in refused(wire, "2", body("azureml://jobs/none/outputs/o"), 404)["message"]
    assert [one["name"] for one in wire.arm("GET", "models/m/versions")["value"]] == ["1"]
    assert "no model" in wire.arm("GET", "models/none", status=404)["error"]["message"]
