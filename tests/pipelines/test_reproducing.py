"""A job that runs again: equal, different, refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.pipelines.conftest import FixedResolver, command, wait_for
from tunesmith.display.jobs import comparison_lines
from tunesmith.errors import Conflict, ValidationFailed
from tunesmith.pipelines.layout import JobFolder
from tunesmith.pipelines.service import JobService
from tunesmith.records.jobs import Comparison, JobStatus, SubmitJob
from tunesmith.storage.paths import WorkspacePaths

# Losses at logged steps come as events; those of every step, the weights' hash and the lock lie in the output.
TRAIN = """
import json, os, sys, time
start, out, outside = float(open(sys.argv[1]).read()), sys.argv[2], json.load(open(sys.argv[3]))
losses = [start / (step + 1) for step in range(6)]
losses[outside["step"]:] = [loss + outside["add"] for loss in losses[outside["step"]:]]
with open(os.environ["TUNESMITH_EVENTS"], "a") as events:
    for step in (2, 4, 6):
        values = {"loss": losses[step - 1], "eval_loss": losses[step - 1] * 2, "seconds": time.time()}
        events.write(json.dumps({"t": time.time(), "kind": "metric", "step": step, "values": values}) + "\\n")
if outside["told"]:
    result = {"losses": losses, "weights_sha256": str(outside["weights"])}
    json.dump(result, open(out + "/train_result.json", "w"))
    lock = {"precision": {"used": outside["precision"], "rates": {"x": time.time()}}, "result": time.time()}
    json.dump(lock, open(out + "/run.lock", "w"))
"""


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """What the step reads without saying so: the way a run comes to differ."""
    return tmp_path / "outside.json"


def differ(outside: Path, **values: Any) -> None:
    told = {"step": 6, "add": 0.0, "weights": 1, "precision": "float32", "told": True}
    outside.write_text(json.dumps({**told, **values}))


@pytest.fixture
def name(service: JobService, tmp_path: Path, outside: Path) -> str:
    return submit(service, tmp_path, outside)


def submit(service: JobService, tmp_path: Path, outside: Path, **told: Any) -> str:
    differ(outside, **told)
    code = tmp_path / "code"
    code.mkdir(exist_ok=True)
    (code / "train.py").write_text(TRAIN)
    (tmp_path / "data.txt").write_text("3.0")
    component = command(
        "train",
        f"python train.py ${{{{inputs.data}}}} ${{{{outputs.model}}}} {outside}",
        code=str(code),
        inputs={"data": {"type": "uri_file"}},
        outputs={"model": {"type": "uri_folder"}},
    )
    job = service.submit(
        SubmitJob(
            base_path=str(tmp_path),
            display_name="trial",
            jobs={"train": {"component": component, "inputs": {"data": {"type": "uri_file", "path": "data.txt"}}}},
        )
    )
    ended = wait_for(service, job.name)
    assert ended.status == JobStatus.COMPLETED, ended.error
    return job.name


def rerun(service: JobService, name: str) -> tuple[str, Comparison]:
    job = service.reproduce(name)
    assert wait_for(service, job.name).status == JobStatus.COMPLETED
    return job.name, service.compare(name, job.name)


def test_equal_to_the_last_bit(service: JobService, name: str, tmp_path: Path) -> None:
    (tmp_path / "code" / "train.py").write_text("raise SystemExit('the code was edited since')")
    again, found = rerun(service, name)
    assert (found.equal, found.values, found.steps, found.weights_equal) == (True, 6 + 3, 6, True)
    assert (found.first, found.changed) == (None, [])
    assert comparison_lines(found) == ["Equal: all 9 losses over 6 optimiser steps; the weights are equal."]
    job = service.get(again)
    assert job.properties == {"reproduces": name}
    assert job.display_name == "trial again"
    assert job.steps[0].reused_from is None


def test_the_first_step_that_differs_and_what_changed(service: JobService, name: str, outside: Path) -> None:
    differ(outside, step=2, add=1e-15, weights=2, precision="bfloat16")
    again, found = rerun(service, name)
    assert found.first is not None
    assert (found.first.job_step, found.first.key, found.first.step) == ("train", "loss", 3)
    assert found.first.before == 1.0
    assert found.first.after == 1.0 + 1e-15
    assert (found.equal, found.weights_equal) == (False, False)
    assert found.changed == ["run.lock: precision.used float32 -> bfloat16"]
    assert comparison_lines(found) == [
        "Different: the first difference is loss at optimiser step 3 (train):",
        f"  1.0 in {name} and 1.000000000000001 in {again}",
        "Between the runs changed:",
        "  run.lock: precision.used float32 -> bfloat16",
    ]


def test_equal_losses_with_other_weights_are_not_equal(service: JobService, name: str, outside: Path) -> None:
    differ(outside, weights=2)
    _, found = rerun(service, name)
    assert (found.equal, found.first) == (False, None)
    assert comparison_lines(found)[0] == "Different: all 9 losses are equal, the weights are not."
    assert "Nothing that is recorded differs" in comparison_lines(found)[1]


def test_without_a_result_the_logged_losses_are_compared(service: JobService, tmp_path: Path, outside: Path) -> None:
    name = submit(service, tmp_path, outside, told=False)
    _, found = rerun(service, name)
    assert (found.equal, found.values, found.steps, found.weights_equal) == (True, 6, 6, None)


def test_another_environment_is_named(service: JobService, name: str, outside: Path, paths: WorkspacePaths) -> None:
    explanation = JobFolder(paths.job(name)).step("train").explanation
    body = json.loads(explanation.read_text())
    for part in body["parts"]:
        if part["name"] == "environment":
            part["sha256"] = "0" * 64
    explanation.write_text(json.dumps(body))
    differ(outside, step=0, add=1.0)
    _, found = rerun(service, name)
    assert found.first is not None
    assert found.first.step == 1
    assert [line.split(" (")[0] for line in found.changed] == ["environment changed"]


@pytest.mark.parametrize("fate", ["changed", "gone"])
def test_an_input_that_is_not_what_it_was_is_refused(fate: str, service: JobService, name: str, tmp_path: Path) -> None:
    data = tmp_path / "data.txt"
    data.write_text("3.1") if fate == "changed" else data.unlink()
    with pytest.raises(ValidationFailed, match="cannot be run again") as caught:
        service.reproduce(name)
    (fault,) = caught.value.details
    assert fault.target == "train.inputs.data"
    assert str(data) in fault.message
    assert ("was changed since" if fate == "changed" else "no longer there") in fault.message
    assert len(service.list()) == 1


def test_only_a_completed_job_with_losses(service: JobService, resolver: FixedResolver) -> None:
    plain = service.submit(SubmitJob(type="command", command="true"))
    wait_for(service, plain.name)
    with pytest.raises(Conflict, match="wrote no losses"):
        service.reproduce(plain.name)
    failed = service.submit(SubmitJob(type="command", command="exit 3"))
    wait_for(service, failed.name)
    with pytest.raises(Conflict, match="is Failed"):
        service.reproduce(failed.name)
    with pytest.raises(Conflict, match="wrote no losses"):
        service.compare(plain.name, failed.name)
