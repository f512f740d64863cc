"""Jobs in MLflow: the real server, fed by the files that a runner and its steps write."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from tests.support.workspace import add_job
from tunesmith.pipelines.graph import Graph, GraphStep, LiteralInput, PathInput
from tunesmith.pipelines.layout import JobFolder
from tunesmith.records.base import utcnow
from tunesmith.records.jobs import JobStatus
from tunesmith.storage.tables import JobRow, JobStepRow, MirrorRow
from tunesmith.tracking.rest import MlflowRest
from tunesmith.workspace import Services

STEPS = ("pipeline/validate", "pipeline/finetune")


def start(workspace: Services, name: str, **columns: Any) -> JobFolder:
    """A job with two steps that has just begun."""
    columns = {"inputs": {"learning_rate": 0.001, "train": {"type": "uri_file", "path": "azureml:chat:1"}}, **columns}
    add_job(workspace, name, status=JobStatus.RUNNING, **columns)
    steps = [
        GraphStep(
            name=step,
            component=step,
            component_version="1",
            component_id=f"azureml://registries/azureml/components/{step.split('/')[-1]}/versions/1",
            component_sha256="0" * 64,
            command="true",
            inputs={
                "learning_rate": LiteralInput(type="number", value="0.001"),
                "train_file_path": PathInput(type="uri_file", path="/x/chat.jsonl", reference="azureml:chat:1"),
            },
        )
        for step in STEPS
    ]
    folder = JobFolder(workspace.paths.job(name))
    folder.graph.write_text(Graph(steps=steps).model_dump_json())
    with workspace.database.session() as session:
        for position, step in enumerate(steps):
            session.add(
                JobStepRow(job=name, name=step.name, position=position, component=step.component_id, status="Running")
            )
    for step in steps:
        folder.step(step.folder).root.mkdir(parents=True)
    return folder


def say(folder: JobFolder, step: int, *values: dict[str, float], whole: bool = True) -> None:
    """Append metric events of the finetune step, as ``FileReporter`` writes them."""
    path = folder.step(STEPS[1].replace("/", ".")).events
    with path.open("a") as file:
        for number, value in enumerate(values):
            event = {"t": 1_700_000_000.5 + step + number, "kind": "metric", "step": step + number, "values": value}
            file.write(json.dumps(event) + "\n")
        if not whole:
            file.write('{"t": 1700000099, "kind": "metric", "step": 99, "val')


def end(workspace: Services, name: str, status: JobStatus, **columns: Any) -> None:
    with workspace.database.session() as session:
        session.execute(update(JobStepRow).where(JobStepRow.job == name).values(status=status.value, ended_at=utcnow()))
        session.execute(
            update(JobRow).where(JobRow.name == name).values(status=status.value, ended_at=utcnow(), **columns)
        )


def runs(rest: MlflowRest, job: str) -> dict[str, dict[str, Any]]:
    """The job's runs by their step; the job's own is the empty one."""
    experiments = rest.call("POST", "experiments/search", {"max_results": 100})["experiments"]
    query = {
        "experiment_ids": [experiment["experiment_id"] for experiment in experiments],
        "filter": f"tags.`tunesmith.job` = '{job}'",
    }
    found = {}
    for run in rest.call("POST", "runs/search", query).get("runs", []):
        tags = {tag["key"]: tag["value"] for tag in run["data"]["tags"]}
        found[tags["tunesmith.step"]] = {
            "id": run["info"]["run_id"],
            "name": run["info"]["run_name"],
            "status": run["info"]["status"],
            "tags": tags,
            "params": {param["key"]: param["value"] for param in run["data"].get("params", [])},
            "metrics": {metric["key"]: metric["value"] for metric in run["data"].get("metrics", [])},
        }
    return found


def history(rest: MlflowRest, run_id: str, key: str) -> list[tuple[int, float]]:
    answer = rest.call("GET", "metrics/get-history", {"run_id": run_id, "metric_key": key, "max_results": 1000})
    return sorted((int(item["step"]), float(item["value"])) for item in answer.get("metrics", []))


def mirror(workspace: Services) -> None:
    workspace.tracking.mirror()
    assert workspace.tracking.status().problem is None


def test_a_job_is_a_run_with_a_nested_run_for_each_step_that_has_metrics(workspace: Services, rest: MlflowRest) -> None:
    folder = start(workspace, "one", display_name="My job", tags={"team": "blue"}, description="why")
    say(folder, 0, {"loss": 2.5, "learning_rate": 0.001}, {"loss": 2.25})
    mirror(workspace)
    found = runs(rest, "one")
    assert set(found) == {"", STEPS[1]}
    job, step = found[""], found[STEPS[1]]
    assert (job["name"], job["status"], job["metrics"]) == ("My job", "RUNNING", {})
    assert job["params"] == {"learning_rate": "0.001", "train": "azureml:chat:1"}
    assert job["tags"]["team"] == "blue"
    assert job["tags"]["mlflow.note.content"] == "why"
    assert (step["name"], step["status"]) == ("finetune", "RUNNING")
    assert step["tags"]["mlflow.parentRunId"] == job["id"]
    assert step["params"] == {"learning_rate": "0.001", "train_file_path": "azureml:chat:1"}
    assert step["metrics"] == {"loss": 2.25, "learning_rate": 0.001}
    assert history(rest, step["id"], "loss") == [(0, 2.5), (1, 2.25)]
    assert workspace.jobs.get("one").mlflow_run_id == job["id"]

    say(folder, 2, {"loss": 2.0}, whole=False)
    mirror(workspace)
    assert history(rest, step["id"], "loss") == [(0, 2.5), (1, 2.25), (2, 2.0)]

    end(workspace, "one", JobStatus.COMPLETED, notices=[{"code": "RowsDropped", "message": "2 rows were dropped"}])
    mirror(workspace)
    found = runs(rest, "one")
    assert {run["status"] for run in found.values()} == {"FINISHED"}
    assert found[""]["tags"]["tunesmith.status"] == "Completed"
    assert found[""]["tags"]["tunesmith.notices"] == "2 rows were dropped"
    assert workspace.tracking.status().behind == 0


@pytest.mark.parametrize(("status", "shown"), [(JobStatus.FAILED, "FAILED"), (JobStatus.CANCELED, "KILLED")])
def test_how_a_job_ended_is_shown(workspace: Services, rest: MlflowRest, status: JobStatus, shown: str) -> None:
    name = f"ended-{shown}"
    folder = start(workspace, name)
    say(folder, 0, {"loss": 1.0})
    end(workspace, name, status, error={"error": {"code": "StepFailed", "message": "out of memory"}})
    mirror(workspace)
    found = runs(rest, name)
    assert {run["status"] for run in found.values()} == {shown}
    assert found[""]["tags"]["tunesmith.error"] == "out of memory"


def test_what_is_sent_again_after_a_kill_is_there_once(workspace: Services, rest: MlflowRest) -> None:
    folder = start(workspace, "twice")
    say(folder, 0, {"loss": 1.0}, {"loss": 0.5})
    mirror(workspace)
    before = runs(rest, "twice")
    # Killed after MLflow had the values, and before that was noted: not even the runs are known any more.
    with workspace.database.session() as session:
        for row in session.query(MirrorRow).filter(MirrorRow.job == "twice"):
            session.delete(row)
    say(folder, 2, {"loss": 0.25})
    mirror(workspace)
    after = runs(rest, "twice")
    assert {step: run["id"] for step, run in after.items()} == {step: run["id"] for step, run in before.items()}
    assert history(rest, after[STEPS[1]]["id"], "loss") == [(0, 1.0), (1, 0.5), (2, 0.25)]


def test_values_that_json_has_no_word_for(workspace: Services, rest: MlflowRest) -> None:
    folder = start(workspace, "odd")
    say(folder, 0, {"loss": math.nan, "grad_norm": math.inf, "a(b)": 1.0})
    mirror(workspace)
    step = runs(rest, "odd")[STEPS[1]]
    assert set(step["metrics"]) == {"loss", "grad_norm", "a_b_"}
    assert math.isnan(float(step["metrics"]["loss"]))
    assert float(step["metrics"]["grad_norm"]) > 1e300


def test_many_values_and_long_inputs(workspace: Services, rest: MlflowRest) -> None:
    inputs = {f"input_{number}": "x" * 7000 for number in range(120)}
    folder = start(workspace, "many", inputs=inputs)
    say(folder, 0, *({"loss": float(number), "rate": 1.0} for number in range(800)))
    mirror(workspace)
    found = runs(rest, "many")
    assert len(found[""]["params"]) == 120
    assert found[""]["params"]["input_0"] == "x" * 6000
    assert len(history(rest, found[STEPS[1]]["id"], "loss")) == 800


def test_jobs_of_one_experiment_stand_together(workspace: Services, rest: MlflowRest) -> None:
    for name in ("exp-1", "exp-2"):
        start(workspace, name, experiment_name="Greetings")
    mirror(workspace)
    experiment = rest.experiment("Greetings")
    query = {"experiment_ids": [experiment]}
    assert len(rest.call("POST", "runs/search", query)["runs"]) == 2


def test_a_run_can_be_had_before_the_job_starts(workspace: Services, rest: MlflowRest) -> None:
    start(workspace, "early")
    run_id = workspace.tracking.start_run("early")
    assert run_id is not None
    assert workspace.tracking.start_run("early") == run_id
    mirror(workspace)
    assert runs(rest, "early")[""]["id"] == run_id
    assert workspace.tracking.start_run("no-such-job") is None


def test_a_job_that_is_deleted_is_deleted_there(workspace: Services, rest: MlflowRest) -> None:
    folder = start(workspace, "gone")
    say(folder, 0, {"loss": 1.0})
    mirror(workspace)
    assert len(runs(rest, "gone")) == 2
    end(workspace, "gone", JobStatus.COMPLETED)
    workspace.jobs.delete("gone")
    mirror(workspace)
    assert runs(rest, "gone") == {}
    with workspace.database.reading() as session:
        assert session.query(MirrorRow).filter(MirrorRow.job == "gone").count() == 0


def test_a_run_that_somebody_deleted_there_ends_the_copying_and_nothing_else(
    workspace: Services, rest: MlflowRest
) -> None:
    folder = start(workspace, "removed")
    say(folder, 0, {"loss": 1.0})
    mirror(workspace)
    for run in runs(rest, "removed").values():
        rest.delete_run(run["id"])
    say(folder, 1, {"loss": 0.5})
    other = start(workspace, "goes-on")
    say(other, 0, {"loss": 3.0})
    mirror(workspace)
    assert runs(rest, "removed") == {}
    assert runs(rest, "goes-on")[STEPS[1]]["metrics"] == {"loss": 3.0}


def test_a_step_that_was_reused_shows_its_metrics_and_where_they_are_from(
    workspace: Services, rest: MlflowRest
) -> None:
    folder = start(workspace, "reuse")
    say(folder, 0, {"loss": 1.5})
    with workspace.database.session() as session:
        session.get_one(JobStepRow, ("reuse", STEPS[1])).reused_from = f"one/{STEPS[1]}"
    mirror(workspace)
    step = runs(rest, "reuse")[STEPS[1]]
    assert step["metrics"] == {"loss": 1.5}
    assert step["tags"]["tunesmith.reused_from"] == f"one/{STEPS[1]}"


def test_an_experiment_that_was_deleted_there_is_taken_back(workspace: Services, rest: MlflowRest) -> None:
    start(workspace, "first", experiment_name="Comes back")
    mirror(workspace)
    rest.call("POST", "experiments/delete", {"experiment_id": rest.experiment("Comes back")})
    end(workspace, "first", JobStatus.COMPLETED)
    start(workspace, "second", experiment_name="Comes back")
    mirror(workspace)
    mirror(workspace)
    assert "" in runs(rest, "second")


def test_reading_a_job_never_writes_to_its_folder(workspace: Services, tmp_path: Path) -> None:
    folder = start(workspace, "readonly")
    say(folder, 0, {"loss": 1.0})
    before = {path: path.read_bytes() for path in folder.root.rglob("*") if path.is_file()}
    mirror(workspace)
    assert {path: path.read_bytes() for path in folder.root.rglob("*") if path.is_file()} == before
