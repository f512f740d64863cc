"""Jobs as the SDK sends them: over command components of the user, and as commands; run for real."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request

from tests.azure.wire import API, W, Wire, azure_wire
from tunesmith.azure.code_assets import code_folder
from tunesmith.azure.context import AzureContext
from tunesmith.azure.identity import AzureKeys
from tunesmith.azure.jobs_answers import _node
from tunesmith.azure.paths import AzureTarget
from tunesmith.azure.run_files import run_files
from tunesmith.errors import NotFound, ValidationFailed
from tunesmith.pipelines.layout import JobFolder
from tunesmith.records.assets import RegisterComponent

ADD = """
import argparse, os, pathlib
p = argparse.ArgumentParser()
p.add_argument("--data"); p.add_argument("--by", type=float); p.add_argument("--word"); p.add_argument("--out")
a = p.parse_args()
print("adding", a.by, a.word, os.environ.get("EXTRA"), flush=True)
total = float(pathlib.Path(a.data, "n.txt").read_text()) + a.by
pathlib.Path(a.out, "n.txt").write_text(str(total))
pathlib.Path("outputs").mkdir(exist_ok=True)
pathlib.Path("outputs/note.txt").write_text(f"{total}")
"""
COMMAND = (
    "python add.py --data ${{inputs.data}} --by ${{inputs.by}} $[[--word ${{inputs.word}}]] --out ${{outputs.out}}"
)


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    with azure_wire(tmp_path_factory.mktemp("jobs") / "home") as wire:
        number = wire.upload("n.txt", b"1")
        folder = number.rsplit("/", 1)[0]
        code = wire.code({"add.py": ADD})
        wire.services.components.register(
            RegisterComponent(
                spec={
                    "type": "command",
                    "name": "adder",
                    "version": "1",
                    "inputs": {
                        "data": {"type": "uri_folder"},
                        "by": {"type": "number", "default": "1.0", "min": "0.0", "max": "10.0"},
                        "word": {"type": "string", "optional": True, "enum": ["yes", "no"]},
                    },
                    "outputs": {"out": {"type": "uri_folder"}},
                    "code": str(folder_of(wire, code)),
                    "environment": "azureml://registries/azureml/environments/sklearn-1.5/labels/latest",
                    "command": COMMAND,
                }
            )
        )
        wire.folder = folder  # type: ignore[attr-defined]
        wire.snapshot = code  # type: ignore[attr-defined]
        yield wire


def folder_of(wire: Wire, code: str) -> Path:
    context = AzureContext(wire.services, None, AzureKeys("x", wire.services.id))  # type: ignore[arg-type]
    return code_folder(context, code, target="codeId")


def literal(value: object) -> dict[str, Any]:
    return {"job_input_type": "literal", "value": str(value)}


def pipeline(wire: Wire, **changes: Any) -> dict[str, Any]:
    """Two nodes, the second on what the first made."""
    component = f"{W}/components/adder/versions/1"
    properties: dict[str, Any] = {
        "jobType": "Pipeline",
        "displayName": "two adders",
        "experimentName": "adding",
        "tags": {"a": "b"},
        "properties": {},
        "isArchived": False,
        "settings": {"force_rerun": True, "continue_on_step_failure": False, "_source": "DSL"},
        "inputs": {
            "data": {"jobInputType": "uri_folder", "uri": f"{wire.folder}/", "mode": "ReadOnlyMount"},  # type: ignore[attr-defined]
            "by": {"jobInputType": "literal", "value": "2.5"},
        },
        "outputs": {"total": {"jobOutputType": "uri_folder", "mode": "ReadWriteMount"}},
        "jobs": {
            "first": {
                "name": "first",
                "type": "command",
                "_source": "YAML.COMPONENT",
                "componentId": component,
                "environment_variables": {"EXTRA": "more"},
                "inputs": {"data": literal("${{parent.inputs.data}}"), "by": literal("${{parent.inputs.by}}")},
            },
            "second": {
                "name": "second",
                "type": "command",
                "componentId": component,
                "resources": {"instance_count": 2, "instance_type": "Standard_NC6s_v3"},
                "inputs": {
                    "data": literal("${{parent.jobs.first.outputs.out}}"),
                    "by": literal("5"),
                    "word": literal("yes"),
                },
                "outputs": {"out": {"type": "literal", "value": "${{parent.outputs.total}}"}},
            },
        },
        **changes,
    }
    return {"properties": properties}


def test_a_pipeline_of_the_users_components_runs(wire: Wire) -> None:
    body = wire.arm("PUT", "jobs/sum_1", pipeline(wire), status=201)
    assert body["id"] == f"{W}/jobs/sum_1"
    asked = body["properties"]
    assert (asked["jobType"], asked["displayName"], asked["experimentName"]) == ("Pipeline", "two adders", "adding")
    assert asked["jobs"]["second"]["componentId"] == f"{W}/components/adder/versions/1"
    assert asked["jobs"]["second"]["type"] == "command"
    assert asked["jobs"]["second"]["inputs"]["data"] == literal("${{parent.jobs.first.outputs.out}}")
    details = wire.finish("sum_1")
    assert (details["status"], details["error"]) == ("Completed", None)
    log = wire.log(details["logFiles"]["logs/azureml/executionlogs.txt"])
    assert "the job is Completed" in log
    assert "second: instance_count 2 has no effect" in log
    first = wire.log(details["logFiles"]["user_logs/first/std_log.txt"]).splitlines()
    assert first[0].startswith("python is ")
    assert "sklearn-1.5" in first[2]
    assert first[-1] == "adding 2.5 None more"
    done = wire.arm("GET", "jobs/sum_1")["properties"]
    assert done["status"] == "Completed"
    assert done["outputs"]["total"]["uri"].endswith("/datastores/workspaceblobstore/paths/jobs/sum_1/total/")
    assert wire.blob("GET", "jobs/sum_1/total/n.txt").content == b"8.5"
    # What a step wrote is shown; where a link of its leads out, what is there is not.
    step = JobFolder(wire.services.paths.job("sum_1")).step("first")
    folder = next(root / "outputs" for root in (step.loose, step.work) if (root / "outputs" / "note.txt").exists())
    (folder / "inner").symlink_to("note.txt")
    (folder / "away").symlink_to("/etc/hostname")
    shown = {name for name in run_files(wire.services, "sum_1") if name.startswith("first/outputs/")}
    assert shown == {"first/outputs/note.txt", "first/outputs/inner"}


def test_its_log_grows_only_at_its_end(wire: Wire) -> None:
    wire.arm("PUT", "jobs/sum_2", pipeline(wire), status=201)
    texts: list[str] = []
    while True:
        details = wire.api("GET", "history/v1.0", "runs/sum_2/details")
        texts.append(wire.log(details["logFiles"]["logs/azureml/executionlogs.txt"]))
        if details["status"] == "Completed":
            break
    assert all(later.startswith(earlier) for earlier, later in pairwise(texts))


def test_children_are_runs_of_their_own(wire: Wire) -> None:
    wire.arm("PUT", "jobs/sum_3", pipeline(wire), status=201)
    wire.finish("sum_3")
    found = wire.api("GET", "history/v1.0", "runs/sum_3/children")["value"]
    assert [(run["runId"], run["status"], run["parentRunId"]) for run in found] == [
        ("sum_3--first", "Completed", "sum_3"),
        ("sum_3--second", "Completed", "sum_3"),
    ]
    assert wire.api("GET", "history/v1.0", "runs/sum_3/children?$top=1")["value"] == found[:1]
    wire.api("GET", "history/v1.0", "runs/sum_3/children?$top=x", status=400)
    refused = wire.api("GET", "history/v1.0", "runs/sum_3/children?$filter=x", status=400)["error"]
    assert refused["target"] == "$filter"
    child = wire.arm("GET", "jobs/sum_3--second")
    assert (child["name"], child["properties"]) == ("sum_3--second", None)
    run = wire.api("GET", "history/v1.0", "runs/sum_3--second")
    assert (run["displayName"], run["status"]) == ("second", "Completed")
    details = wire.api("GET", "history/v1.0", "runs/sum_3--second/details")
    assert wire.log(details["logFiles"]["user_logs/std_log.txt"]).endswith("adding 5.0 yes None\n")


def test_outputs_and_logs_are_found_for_a_download(wire: Wire) -> None:
    wire.arm("PUT", "jobs/sum_4", pipeline(wire), status=201)
    wire.finish("sum_4")
    metadata = wire.api("POST", "history/v1.0", "rundata", {"runId": "sum_4", "selectRunMetadata": True})["runMetadata"]
    assert metadata["outputs"] == {"total": {"assetId": "azureml://jobs/sum_4/outputs/total", "type": "uri_folder"}}
    ids = [metadata["outputs"]["total"]["assetId"]]
    found = wire.api("POST", "data/v1.0", "dataversion/batchGetResolvedUris", {"values": ids})["values"]
    assert found[ids[0]]["uri"].endswith("/datastores/workspaceblobstore/paths/jobs/sum_4/total/")
    sas = wire.account.sas.container_token("azureml")
    listed = wire.client.get(
        f"{wire.blobs}/azureml?restype=container&comp=list&prefix=ExperimentRun/dcid.sum_4/&{sas}"
    ).text
    for name in ("logs/azureml/executionlogs.txt", "user_logs/first/std_log.txt", "first/outputs/note.txt"):
        assert f"<Name>ExperimentRun/dcid.sum_4/{name}</Name>" in listed
    note = wire.client.get(f"{wire.blobs}/azureml/ExperimentRun/dcid.sum_4/second/outputs/note.txt?{sas}")
    assert note.text == "8.5"


@pytest.mark.parametrize(
    ("where", "value", "target", "words"),
    [
        ("by", "x", "jobs.second.inputs.by", "must be a number"),
        ("by", "11", "jobs.second.inputs.by", "must be at most 10"),
        ("word", "maybe", "jobs.second.inputs.word", "must be one of yes, no"),
        ("other", "1", "jobs.second.inputs.other", "has no input 'other'"),
        ("data", None, "jobs.second.inputs.data", "is required"),
    ],
)
def test_faults_are_told_by_their_field(wire: Wire, where: str, value: str | None, target: str, words: str) -> None:
    body = pipeline(wire)
    inputs = body["properties"]["jobs"]["second"]["inputs"]
    if value is None:
        del inputs[where]
    else:
        inputs[where] = literal(value)
    error = wire.arm("PUT", "jobs/faulty", body, status=400)["error"]
    assert error["code"] == "ValidationFailed"
    assert [detail["target"] for detail in error["details"]] == [target]
    assert words in error["message"]
    wire.arm("GET", "jobs/faulty", status=404)


def test_every_fault_of_the_shape_is_told_at_once(wire: Wire) -> None:
    body = pipeline(wire, settings={"force_rerun": "yes", "odd": 1}, notificationSetting={"emails": ["a@b"]})
    body["properties"]["jobs"]["first"]["type"] = "sweep"
    body["properties"]["jobs"]["second"]["strange"] = 1
    body["properties"]["jobs"]["third"] = {"type": "odd", "componentId": "azureml:c:1"}
    body["properties"]["outputs"]["total"]["mode"] = "Direct"
    body["properties"]["inputs"]["data"]["pathOnCompute"] = "/data"
    error = wire.arm("PUT", "jobs/faulty", body, status=400)["error"]
    assert sorted(detail["target"] for detail in error["details"]) == [
        "inputs.data.pathOnCompute",
        "jobs.first.type",
        "jobs.second.strange",
        "jobs.third.type",
        "notificationSetting",
        "outputs.total.mode",
        "settings.force_rerun",
        "settings.odd",
    ]
    error = wire.arm("PUT", "jobs/faulty", {"properties": {"jobType": "AutoML"}}, status=400)["error"]
    assert (error["code"], error["target"]) == ("NotImplementedByTunesmith", "jobType")


def command(wire: Wire, line: str, **changes: Any) -> dict[str, Any]:
    properties: dict[str, Any] = {
        "jobType": "Command",
        "displayName": "one command",
        "experimentName": "commands",
        "command": line,
        "codeId": wire.snapshot,  # type: ignore[attr-defined]
        "environmentId": f"{W}/environments/mine/versions/1",
        "environmentVariables": {"EXTRA": "set"},
        "computeId": "",
        "isArchived": False,
        "tags": {},
        "properties": {},
        "inputs": {
            "data": {"jobInputType": "uri_folder", "uri": f"{wire.folder}/"},  # type: ignore[attr-defined]
            "by": {"jobInputType": "literal", "value": "3"},
            "word": {"jobInputType": "literal", "value": "True"},
        },
        "outputs": {"out": {"jobOutputType": "uri_folder"}},
        "distribution": {"distributionType": "PyTorch", "processCountPerInstance": 2},
        "limits": {"jobLimitsType": "Command", "timeout": "PT1M40S"},
        "resources": {"instanceCount": 2, "properties": {}, "shmSize": "2g"},
        **changes,
    }
    return {"properties": properties}


def test_a_command_runs_in_its_code_and_says_what_it_does_not_get(wire: Wire) -> None:
    spec = {
        "image": "mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu20.04",
        "condaFile": "dependencies:\n  - python=2.7\n  - pip:\n    - pyyaml>=1\n    - surely-not-here==1.0\n",
    }
    wire.services.environments.register("mine", spec, version="1")
    wire.arm("PUT", "jobs/cmd_1", command(wire, COMMAND), status=201)
    details = wire.finish("cmd_1")
    assert (details["status"], details["error"]) == ("Completed", None)
    assert list(details["logFiles"]) == ["user_logs/std_log.txt"]
    log = wire.log(details["logFiles"]["user_logs/std_log.txt"])
    assert log.splitlines()[-1] == "adding 3.0 True set"
    for said in (
        "python is ",
        "distribution has no effect",
        "limits has no effect",
        "instance_count 2 has no effect",
        "shm_size has no effect",
        "stay offline",
        "image mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu20.04 is not used",
        "of its 3 packages 2 differ here: python==2.7.*",
        "surely-not-here==1.0 (not installed)",
    ):
        assert said in log
    job = wire.arm("GET", "jobs/cmd_1")["properties"]
    assert job["jobType"] == "Command"
    assert job["inputs"]["by"] == {"jobInputType": "literal", "value": "3"}
    assert job["environmentId"] == f"{W}/environments/mine/versions/1"
    assert job["codeId"] == wire.snapshot  # type: ignore[attr-defined]
    assert wire.blob("GET", "jobs/cmd_1/out/n.txt").content == b"4.0"
    files = wire.services.paths.job("cmd_1") / "steps"
    assert [path.read_text() for path in files.rglob("note.txt")] == ["4.0"]


def test_a_failure_is_told_with_its_cause(wire: Wire) -> None:
    line = "python -c 'import sys; print(1); sys.exit(\"the data is wrong\")'"
    wire.arm("PUT", "jobs/cmd_2", command(wire, line, outputs={}), status=201)
    details = wire.finish("cmd_2")
    assert details["status"] == "Failed"
    error = details["error"]["error"]
    assert error["code"] == "StepFailed"
    assert "the data is wrong" in error["message"]


def test_a_job_is_canceled(wire: Wire) -> None:
    wire.arm("PUT", "jobs/cmd_3", command(wire, "sleep 60", outputs={}), status=201)
    wire.arm("POST", "jobs/cmd_3/cancel")
    assert wire.finish("cmd_3")["status"] == "Canceled"


def test_jobs_are_listed_described_archived_and_deleted(wire: Wire) -> None:
    def listed(query: str = "") -> list[str]:
        return [job["name"] for job in wire.arm("GET", f"jobs?{query}")["value"]]

    wire.arm("PUT", "jobs/list_1", command(wire, "echo 1", outputs={}, tags={"k": "v"}), status=201)
    wire.arm("PUT", "jobs/list_2", command(wire, "echo 2", outputs={}), status=201)
    wire.finish("list_1")
    wire.finish("list_2")
    assert listed("jobType=Command&tag=k=v") == ["list_1"]
    assert listed()[0] == "list_2"
    assert listed("status=Completed,Failed&tag=k") == ["list_1"] and listed("status=Running&tag=k") == []
    odd = wire.arm("GET", "jobs?status=Bogus", status=400)["error"]
    assert (odd["code"], odd["target"]) == ("ValidationFailed", "status") and "known: NotStarted" in odd["message"]
    body = wire.arm("GET", "jobs?$top=1")
    assert [job["name"] for job in body["value"]] == ["list_2"]
    assert [job["name"] for job in wire.call("GET", body["nextLink"])["value"]] == ["list_1"]
    run = "experiments/commands/runs/list_1"
    wire.api("PATCH", "history/v1.0", run, {"hidden": True})
    wire.api("PATCH", "history/v1.0", run, {"displayName": "renamed", "tags": {"more": "1"}, "description": "why"})
    assert "list_1" not in listed()
    assert listed("listViewType=ArchivedOnly") == ["list_1"]
    found = wire.arm("GET", "jobs/list_1")["properties"]
    assert (found["displayName"], found["description"], found["tags"]) == ("renamed", "why", {"k": "v", "more": "1"})
    assert (found["isArchived"], found["properties"]) == (True, {})
    wire.api("PATCH", "history/v1.0", run, {"hidden": False})
    assert "list_1" in listed()
    again = wire.arm("PUT", "jobs/list_1", command(wire, "echo 1", outputs={}, displayName="twice"))
    assert again["properties"]["displayName"] == "twice"
    wire.arm("DELETE", "jobs/list_1")
    error = wire.arm("GET", "jobs/list_1", status=404)["error"]
    assert error["code"] == "ResourceNotFound"


def test_a_name_that_is_taken_is_another_job_only_when_it_does_the_same(wire: Wire) -> None:
    for name, body in (("twice_1", command(wire, "echo 1", outputs={})), ("twice_2", pipeline(wire))):
        wire.arm("PUT", f"jobs/{name}", body, status=201)
        found = wire.arm("GET", f"jobs/{name}")
        found["properties"]["tags"] = {"sent": "back"}
        assert wire.arm("PUT", f"jobs/{name}", found)["properties"]["tags"]["sent"] == "back"
    error = wire.arm("PUT", "jobs/twice_1", command(wire, "echo 2", outputs={}), status=409)["error"]
    assert (error["code"], error["target"]) == ("AlreadyExists", "name")
    wire.arm("PUT", "jobs/twice_2", command(wire, "echo 1", outputs={}), status=409)
    wire.finish("twice_2")


def test_the_system_pipelines_values_are_checked(wire: Wire) -> None:
    node = {
        "name": "chat",
        "type": "pipeline",
        "_source": "REMOTE.REGISTRY",
        "componentId": "azureml://registries/azureml/components/chat_completion_pipeline/labels/latest",
        "inputs": {
            "mlflow_model_path": {
                "job_input_type": "mlflow_model",
                "uri": "azureml://registries/azureml/models/SmolLM2-135M-Instruct/labels/latest",
            },
            "train_file_path": {"job_input_type": "uri_file", "uri": wire.upload("train.jsonl", b"{}\n")},
            "lr_scheduler_type": literal("bogus"),
            "num_train_epochs": literal("2.5"),
            "learning_rate": literal("x"),
            "apply_lora": literal(True),
            "strange": literal(1),
        },
        "outputs": {"mlflow_model_folder": {"type": "literal", "value": "${{parent.outputs.trained_model}}"}},
    }
    outputs = {"trained_model": {"jobOutputType": "mlflow_model", "mode": "ReadWriteMount"}}
    body = pipeline(wire, inputs={}, jobs={"chat": node}, outputs=outputs)
    error = wire.arm("PUT", "jobs/tuned", body, status=400)["error"]
    assert sorted(detail["target"] for detail in error["details"]) == [
        "jobs.chat.inputs.learning_rate",
        "jobs.chat.inputs.lr_scheduler_type",
        "jobs.chat.inputs.num_train_epochs",
        "jobs.chat.inputs.strange",
    ]


def test_the_type_of_a_node_is_the_one_that_was_named(wire: Wire) -> None:
    # The name of a component says nothing about its type, and a node that names no type has that of its component.
    spec = wire.services.components.get("adder", "1").spec
    wire.services.components.register(RegisterComponent(spec={**spec, "name": "no_pipeline"}))
    body = pipeline(wire)
    for node, kind in (("first", "command"), ("second", None)):
        body["properties"]["jobs"][node] |= {"componentId": f"{W}/components/no_pipeline/versions/1", "type": kind}
    wire.arm("PUT", "jobs/typed", body, status=201)
    nodes = wire.arm("GET", "jobs/typed")["properties"]["jobs"]
    assert {name: node["type"] for name, node in nodes.items()} == {"first": "command", "second": "command"}
    wire.finish("typed")
    one = {"component": "azureml://registries/azureml/components/chat_completion_pipeline/labels/latest"}
    request = Request({"type": "http", "azure": AzureTarget("h", "/")})
    assert _node(request, wire.services, "chat", one)["type"] == "pipeline"


def test_show_services_names_the_pages(wire: Wire) -> None:
    wire.arm("PUT", "jobs/shown", command(wire, "echo 1", outputs={}), status=201)
    found = wire.api("GET", "history/v1.0", "runs/shown/serviceinstances/0")["instances"]
    assert found["Tracking"]["endpoint"] == f"azureml://eastus.api.azureml.ms/mlflow/v1.0{W}"
    wire.finish("shown")


def test_a_run_is_called_by_its_jobs_name_in_mlflow(wire: Wire) -> None:
    wire.arm("PUT", "jobs/tracked", command(wire, "echo 1", outputs={}, experimentName="tracked"), status=201)

    def mlflow(method: str, path: str, body: Any = None) -> Any:
        return wire.api(method, "mlflow/v2.0", f"api/2.0/mlflow/{path}", body)

    value = {"run_id": "tracked", "key": "total", "value": 3.5, "timestamp": 1, "step": 0}
    mlflow("POST", "runs/log-metric", value)
    run = mlflow("GET", "runs/get?run_id=tracked")["run"]
    assert [(item["key"], item["value"]) for item in run["data"]["metrics"]] == [("total", 3.5)]
    experiment = mlflow("GET", "experiments/get-by-name?experiment_name=tracked")["experiment"]["experiment_id"]
    identity = run["info"]["run_id"]
    place = f"azureml://eastus.api.azureml.ms/mlflow/v2.0{W}/experiments/{experiment}/runs/{identity}/artifacts"
    assert run["info"]["artifact_uri"] == place
    mlflow("POST", "runs/set-tag", {"run_id": "tracked", "key": "by", "value": "name"})
    found = mlflow("POST", "runs/search", {"experiment_ids": [experiment]})["runs"]
    assert [item["info"]["run_id"] for item in found] == [identity]
    assert {"key": "by", "value": "name"} in found[0]["data"]["tags"]

    artifacts = f"experiments/{experiment}/runs/{identity}/artifacts"
    begun = wire.api("POST", "history/v1.0", f"{artifacts}/batch/metadata", {"paths": [{"path": "a/note.txt"}]})
    uri = begun["artifactContentInformation"]["a/note.txt"]["contentUri"]
    sent = wire.client.put(uri, content=b"hello", headers={"x-ms-blob-type": "BlockBlob"})
    assert sent.status_code == 201
    assert [item["path"] for item in wire.api("GET", "history/v1.0", artifacts)["value"]] == ["a/note.txt"]
    read = wire.api("GET", "history/v1.0", f"{artifacts}/contentinfo?path=a/note.txt")["contentUri"]
    assert wire.client.get(read).content == b"hello"
    assert wire.client.put(read, content=b"x", headers={"x-ms-blob-type": "BlockBlob"}).status_code == 403
    wire.api("GET", "history/v1.0", f"{artifacts}/contentinfo?path=a/none.txt", status=404)
    listed = wire.api("GET", "mlflow/v2.0", f"api/2.0/mlflow/artifacts/list?run_id={identity}&path=a")
    assert [item["path"] for item in listed["files"]] == ["a/note.txt"]  # MLflow's own pages show them too
    assert (
        "no run"
        in wire.api("GET", "history/v1.0", f"experiments/1/runs/{'r' * 300}/artifacts", status=404)["error"]["message"]
    )
    wire.finish("tracked")

    # A call that is no JSON is refused here; an artifact may be any, and is kept as it is.
    headers = {**wire.bearer, "content-type": "application/json"}
    for body in (b"{", b"[]"):
        answer = wire.client.post(f"{API}/mlflow/v2.0{W}/api/2.0/mlflow/runs/search", content=body, headers=headers)
        assert (answer.status_code, answer.json()["error"]["target"]) == (400, "body")
    for name, text in (("run.json", b'{"run_id": "tracked"}'), ("broken.json", b"{")):
        inner = f"api/2.0/mlflow-artifacts/artifacts/{experiment}/{identity}/artifacts/{name}"
        assert wire.client.put(f"{API}/mlflow/v2.0{W}/{inner}", content=text, headers=headers).status_code == 200
        read = wire.api("GET", "history/v1.0", f"{artifacts}/contentinfo?path={name}")["contentUri"]
        assert wire.client.get(read).content == text


def test_code_is_uploaded_registered_once_and_sealed(wire: Wire) -> None:
    identity = wire.code({"main.py": "print(1)\n", "lib/a.py": "A = 1\n"}, name="mine", version="7")
    assert identity == f"{W}/codes/mine/versions/7"
    folder = folder_of(wire, identity)
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.py")) == ["lib/a.py", "main.py"]
    same = wire.arm("GET", "codes/mine/versions?hash=mine-7&hashVersion=202208")["value"]
    assert [code["id"] for code in same] == [identity]
    assert wire.arm("GET", "codes/mine/versions?hash=other&hashVersion=202208")["value"] == []
    assert wire.arm("GET", "codes/mine/versions/7")["properties"]["codeUri"].endswith("/src")
    assert {code["name"] for code in wire.arm("GET", "codes")["value"]} == {"mine", "code"}
    described = {"properties": {"codeUri": "https://x", "description": "mine"}}
    error = wire.arm("PUT", "codes/mine/versions/8", described, status=400)["error"]
    assert (error["code"], error["target"]) == ("NotImplementedByTunesmith", "properties.description")
    pending = wire.arm("POST", "codes/mine/versions/7/startPendingUpload", {"pendingUploadType": "x"})
    base, _, token = pending["blobReferenceForConsumption"]["credential"]["sasUri"].partition("?")
    late = wire.client.put(f"{base}/src/main.py?{token}", content=b"evil", headers={"x-ms-blob-type": "BlockBlob"})
    assert (late.status_code, late.headers["x-ms-error-code"]) == (403, "AuthorizationPermissionMismatch")
    # The SDK downloads code with the datastore's token, which reads codes/ in its own container anyway.
    assert wire.client.get(f"{base}/src/main.py?{wire.sas}").text == "print(1)\n"
    assert "<Name>src/lib/a.py</Name>" in wire.client.get(f"{base}?restype=container&comp=list&{wire.sas}").text
    evil = wire.client.put(f"{base}/src/b.py?{wire.sas}", content=b"x", headers={"x-ms-blob-type": "BlockBlob"})
    assert (evil.status_code, evil.headers["x-ms-error-code"]) == (403, "AuthenticationFailed")
    one = wire.account.sas.blob_token(wire.container, "src/main.py")
    assert wire.client.get(f"{base}/src/main.py?{one}").status_code == 403
    with pytest.raises(NotFound):
        folder_of(wire, f"{W}/codes/mine/versions/8")
    with pytest.raises(ValidationFailed, match="names no code asset"):
        folder_of(wire, "/tmp")
