"""Jobs from submission to their end, through real runners."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.pipelines.conftest import command, running, until, wait_for
from tunesmith.errors import AlreadyExists, Conflict, NotFound, StepFailed, UserError, ValidationFailed, error_from_dict
from tunesmith.pipelines.service import JobService
from tunesmith.records.jobs import JobSettings, JobStatus, SubmitJob
from tunesmith.storage.paths import WorkspacePaths

WRITE = command(
    "write",
    "echo ${{inputs.text}} > ${{outputs.file}}",
    inputs={"text": {"type": "string"}},
    outputs={"file": {"type": "uri_file"}},
)
COUNT = command(
    "count",
    "wc -c < ${{inputs.file}} > ${{outputs.folder}}/count.txt",
    inputs={"file": {"type": "uri_file"}},
    outputs={"folder": {"type": "uri_folder"}},
)


def two_steps(text: str = "hello world; $(touch /tmp/never)", **settings: Any) -> SubmitJob:
    return SubmitJob(
        experiment_name="trial",
        settings=JobSettings(**settings),
        inputs={"text": text},
        outputs={"result": {"type": "uri_folder"}},
        jobs={
            # Written before the node it needs: the order comes from the bindings.
            "count": {
                "component": COUNT,
                "inputs": {"file": "${{parent.jobs.write.outputs.file}}"},
                "outputs": {"folder": "${{parent.outputs.result}}"},
            },
            "write": {"component": WRITE, "inputs": {"text": "${{parent.inputs.text}}"}},
        },
    )


def test_pipeline_runs_and_publishes_its_outputs(service: JobService) -> None:
    text = "hello world; $(touch /tmp/never)"
    submitted = service.submit(two_steps(text))
    assert submitted.status == JobStatus.STARTING
    job = wait_for(service, submitted.name)
    assert job.status == JobStatus.COMPLETED, job.error
    assert [step.name for step in job.steps] == ["write", "count"]
    assert all(step.status == JobStatus.COMPLETED and step.attempt == 1 for step in job.steps)
    path = service.output_path(job.name, "result")
    assert path.joinpath("count.txt").read_text().strip() == str(len(text) + 1)
    assert job.outputs["result"].uri == f"azureml://jobs/{job.name}/outputs/result"
    assert not Path("/tmp/never").exists()


def test_names_are_made_or_given_and_never_taken_twice(service: JobService) -> None:
    request = SubmitJob(name="mine", component=WRITE, inputs={"text": "x"})
    assert service.validate(request).status == JobStatus.NOT_STARTED
    assert service.list() == []
    wait_for(service, service.submit(request).name)
    with pytest.raises(AlreadyExists):
        service.submit(request)
    with pytest.raises(ValidationFailed):
        service.submit(SubmitJob(name="../mine", component=WRITE, inputs={"text": "x"}))
    made = service.validate(request.model_copy(update={"name": None})).name
    assert re.fullmatch(r"[a-z]+_[a-z]+_[0-9a-z]{10}", made)


def test_nothing_is_left_of_a_job_with_faults(service: JobService, paths: WorkspacePaths) -> None:
    with pytest.raises(ValidationFailed):
        service.submit(SubmitJob(component=WRITE, inputs={"text": ["no"]}))
    assert service.list() == []
    assert list(paths.jobs.iterdir()) == []


def test_second_run_reuses_and_says_from_where(service: JobService) -> None:
    first = wait_for(service, service.submit(two_steps()).name)
    second = wait_for(service, service.submit(two_steps()).name)
    assert [step.reused_from for step in second.steps] == [f"{first.name}/write", f"{first.name}/count"]
    assert [e.reason for e in service.explain(second.name)] == ["every part is the same"] * 2
    assert service.output_path(second.name, "result").joinpath("count.txt").read_text() == (
        service.output_path(first.name, "result").joinpath("count.txt").read_text()
    )
    assert service.logs(second.name) == service.logs(first.name)


def test_a_changed_parameter_is_named_and_an_equal_output_stops_the_change(service: JobService) -> None:
    first = wait_for(service, service.submit(two_steps("abc")).name)
    second = wait_for(service, service.submit(two_steps("abd")).name)
    write, count = service.explain(second.name)
    assert (write.reused, write.changed) == (False, ["parameter:text changed (abc -> abd)"])
    assert write.reason == f"1 part changed since {first.name}/write"
    assert count.changed[0].startswith("input:file changed (")
    third = wait_for(service, service.submit(two_steps("abd\n")).name)
    assert service.explain(third.name)[1].reused is False
    # The content of an output counts, not the run that wrote it.
    upper = command(
        "write",
        "echo ${{inputs.text}} | tr a-z A-Z > ${{outputs.file}}",
        inputs=WRITE["inputs"],
        outputs=WRITE["outputs"],
    )
    node = {"component": COUNT, "inputs": {"file": "${{parent.jobs.write.outputs.file}}"}}
    for text, reused in (("abc", False), ("ABC", True)):
        job = service.submit(SubmitJob(jobs={"write": {"component": upper, "inputs": {"text": text}}, "count": node}))
        wait_for(service, job.name)
        assert service.explain(job.name)[1].reused is reused


def test_force_rerun_and_components_that_are_not_deterministic(service: JobService) -> None:
    wait_for(service, service.submit(two_steps()).name)
    forced = wait_for(service, service.submit(two_steps(force_rerun=True)).name)
    assert [e.reason for e in service.explain(forced.name)] == ["settings.force_rerun is true"] * 2
    never = {**WRITE, "is_deterministic": False}
    for _ in range(2):
        job = wait_for(service, service.submit(SubmitJob(component=never, inputs={"text": "x"})).name)
        assert job.steps[0].reused_from is None
    assert service.explain(job.name)[0].reason == "its component says is_deterministic: false"


def test_deleting_the_first_run_leaves_the_second_whole_and_the_cache_honest(service: JobService) -> None:
    first = wait_for(service, service.submit(two_steps()).name)
    second = wait_for(service, service.submit(two_steps()).name)
    service.delete(first.name)
    assert service.output_path(second.name, "result").joinpath("count.txt").exists()
    third = wait_for(service, service.submit(two_steps()).name)
    assert third.steps[0].reused_from == f"{second.name}/write"
    freed = service.delete(second.name) + service.delete(third.name)
    assert freed > 0
    fourth = wait_for(service, service.submit(two_steps()).name)
    assert fourth.steps[0].reused_from is None
    assert "no longer there" in service.explain(fourth.name)[0].reason


def test_a_damaged_output_is_not_reused(service: JobService, paths: WorkspacePaths) -> None:
    first = wait_for(service, service.submit(two_steps()).name)
    (paths.job(first.name) / "steps" / "write" / "outputs" / "file").write_text(
        "longer than it was written before\n" * 2
    )
    second = wait_for(service, service.submit(two_steps()).name)
    assert second.steps[0].reused_from is None


def test_a_failing_step_shows_its_cause_and_the_file_to_read(service: JobService) -> None:
    fail = command("fail", "echo working; echo 'no such thing: 42' >&2; exit 3", outputs={"o": {"type": "uri_folder"}})
    after = command("after", "cat ${{inputs.i}}/x", inputs={"i": {"type": "uri_folder"}})
    jobs = {
        "fail": {"component": fail},
        "after": {"component": after, "inputs": {"i": "${{parent.jobs.fail.outputs.o}}"}},
        "other": {"component": WRITE, "inputs": {"text": "x"}},
    }
    job = wait_for(service, service.submit(SubmitJob(jobs=jobs)).name)
    assert job.status == JobStatus.FAILED
    states = {step.name: step.status for step in job.steps}
    assert states == {"fail": "Failed", "after": "Canceled", "other": "Completed"}
    error = error_from_dict(job.steps[0].error or {})
    assert isinstance(error, StepFailed)
    assert error.message == "it ended with exit code 3; last line: no such thing: 42"
    assert error.way_out == f"read {error.extra['log']}"
    assert Path(error.extra["log"]).read_text() == "working\nno such thing: 42\n"
    assert "step fail failed: it ended with exit code 3" in str(error_from_dict(job.error or {}))
    assert "it needs fail, which did not complete" in str(job.steps[1].error)

    stopping = SubmitJob(jobs=jobs, settings=JobSettings(continue_on_step_failure=False))
    stopped = wait_for(service, service.submit(stopping).name)
    assert {step.name: step.status for step in stopped.steps} == {
        "fail": "Failed",
        "after": "Canceled",
        "other": "Canceled",
    }


def test_the_error_event_of_a_step_is_its_cause(service: JobService) -> None:
    line = (
        'echo \'{"t": 1, "kind": "error", "error": {"code": "InvalidData", "message": "no turns", '
        '"target": "a.jsonl:3", "way_out": "add one"}}\' >> $TUNESMITH_EVENTS; exit 2'
    )
    job = wait_for(service, service.submit(SubmitJob(type="command", command=line)).name)
    error = error_from_dict(job.steps[0].error or {})
    assert error.message == "a.jsonl:3: no turns"
    assert error.way_out is not None and error.way_out.startswith("add one; the log: ")
    assert error.extra["cause"]["code"] == "InvalidData"


def test_outputs_that_were_not_written_fail_the_step(service: JobService) -> None:
    silent = command("silent", "true", outputs={"file": {"type": "uri_file"}, "model": {"type": "mlflow_model"}})
    job = wait_for(service, service.submit(SubmitJob(component=silent)).name)
    assert "wrote nothing to file, model" in str(job.steps[0].error)
    assert job.outputs["file"].path is None
    with pytest.raises(NotFound):
        service.output_path(job.name, "file")


def test_what_a_step_is_given(service: JobService, paths: WorkspacePaths) -> None:
    shown = "HF_HUB_OFFLINE TUNESMITH_HOME TUNESMITH_CHECKPOINTS TUNESMITH_STEP_DIR OWN"
    line = f"for name in {shown}; do echo $name=${{!name}}; done; echo cwd=$PWD; which python"
    job = wait_for(
        service,
        service.submit(SubmitJob(type="command", command=line, environment_variables={"OWN": "a b"})).name,
    )
    folder = paths.job(job.name) / "steps" / "command"
    assert service.logs(job.name, "command").splitlines() == [
        "HF_HUB_OFFLINE=1",
        f"TUNESMITH_HOME={paths.home}",
        f"TUNESMITH_CHECKPOINTS={folder / 'checkpoints'}",
        f"TUNESMITH_STEP_DIR={folder}",
        "OWN=a b",
        f"cwd={folder / 'work'}",
        str(Path(sys.executable).parent / "python"),
    ]
    online = command("online", "echo [$HF_HUB_OFFLINE]", properties={"network": "true"})
    job = wait_for(service, service.submit(SubmitJob(component=online)).name)
    assert service.logs(job.name, "online") == "[]\n"


def test_code_is_a_snapshot(service: JobService, tmp_path: Path) -> None:
    code = tmp_path / "code"
    (code / "__pycache__").mkdir(parents=True)
    (code / "main.py").write_text("import os; open('made', 'w'); print('one', sorted(os.listdir()))")
    (code / "__pycache__" / "x.pyc").write_bytes(b"")
    request = SubmitJob(type="command", command="python main.py", code=str(code))
    first = service.submit(request)
    (code / "main.py").write_text("print('two')")
    wait_for(service, first.name)
    assert service.logs(first.name, "command") == "one ['made', 'main.py']\n"
    assert not (code / "made").exists()
    second = wait_for(service, service.submit(request).name)
    assert service.logs(second.name, "command") == "two\n"
    assert service.explain(second.name)[0].changed[0].startswith("code changed (")


def test_cancel_stops_the_step_and_what_it_started(service: JobService, tmp_path: Path) -> None:
    line = f"trap 'echo bye; exit 0' TERM; sleep 300 & echo $! > {tmp_path}/pid; touch {tmp_path}/up; wait"
    jobs = {"long": {"command": line}, "other": {"command": "echo never"}}
    name = service.submit(SubmitJob(jobs=jobs)).name
    until(lambda: (tmp_path / "up").exists())
    assert service.cancel(name).status == JobStatus.CANCEL_REQUESTED
    job = wait_for(service, name)
    assert job.status == JobStatus.CANCELED
    assert [step.status for step in job.steps] == ["Canceled", "Canceled"]
    assert service.logs(name, "long") == "bye\n"
    child = int((tmp_path / "pid").read_text())
    until(lambda: not running(child))
    assert service.cancel(name).status == JobStatus.CANCELED
    with pytest.raises(NotFound):
        service.cancel("nobody")


def test_a_step_that_does_not_stop_is_killed(make_service: Callable[..., JobService], tmp_path: Path) -> None:
    service = make_service(grace_s=0.2)
    name = service.submit(SubmitJob(type="command", command=f"trap '' TERM; touch {tmp_path}/up; sleep 300")).name
    until(lambda: (tmp_path / "up").exists())
    service.cancel(name)
    assert wait_for(service, name).status == JobStatus.CANCELED


def test_one_job_at_a_time_and_the_reason_said(service: JobService, tmp_path: Path) -> None:
    first = service.submit(
        SubmitJob(name="first", type="command", command=f"while [ ! -e {tmp_path}/go ]; do sleep 0.02; done")
    )
    second = service.submit(SubmitJob(name="second", type="command", command="echo done"))
    third = service.submit(SubmitJob(name="third", type="command", command="echo done"))
    light = service.submit(SubmitJob(component=command("quick", "echo done", properties={"light": "true"})))
    assert second.status == JobStatus.QUEUED
    assert [notice.message for notice in second.notices] == [
        "waits for first to end: one job runs at a time on this machine"
    ]
    assert light.status == JobStatus.STARTING
    wait_for(service, light.name)
    with pytest.raises(Conflict):
        service.delete("first")
    assert service.cancel("third").status == JobStatus.CANCELED
    (tmp_path / "go").touch()
    done = wait_for(service, "second")
    assert done.status == JobStatus.COMPLETED
    assert done.notices == []
    assert service.get(first.name).status == JobStatus.COMPLETED
    assert third.status == JobStatus.QUEUED


def test_events_and_metrics(service: JobService) -> None:
    lines = [
        '{"t": 1.0, "kind": "metric", "step": 1, "values": {"loss": 2.0}}',
        '{"t": 2.0, "kind": "progress", "phase": "train", "done": 1, "total": 2, "unit": "steps", "values": {}}',
        '{"t": 3.0, "kind": "notice", "code": "RowsDropped", "message": "2 of 9", "level": "warning", "count": 2}',
        '{"t": 4.0, "kind": "metric", "step": 1, "values": {"loss": 1.5, "lr": 0.1}}',
    ]
    line = "".join(f"echo '{text}' >> $TUNESMITH_EVENTS; " for text in lines)
    job = wait_for(service, service.submit(SubmitJob(type="command", command=line)).name)
    assert [(p.key, p.step, p.value, p.job_step) for p in service.metrics(job.name)] == [
        ("loss", 1, 1.5, "command"),
        ("lr", 1, 0.1, "command"),
    ]
    assert [(n.code, n.count, n.step) for n in job.notices] == [("RowsDropped", 2, "command")]
    assert job.steps[0].progress is not None
    assert (job.steps[0].progress.done, job.steps[0].progress.total) == (1, 2)
    events, over = service.events(job.name)
    assert not over
    kinds = [event.kind for event in events]
    assert kinds.count("metric") == 2
    assert [event.data["status"] for event in events if event.kind == "job"] == ["Running", "Completed"]
    middle = next(event for event in events if event.kind == "notice")
    rest, _ = service.events(job.name, middle.id)
    assert [event.id for event in rest] == [event.id for event in events[events.index(middle) + 1 :]]
    assert service.events(job.name, events[-1].id) == ([], True)
    with pytest.raises(UserError):
        service.events(job.name, "x")


def test_list_and_get(service: JobService) -> None:
    one = wait_for(service, service.submit(SubmitJob(type="command", command="true", experiment_name="a")).name)
    two = wait_for(service, service.submit(SubmitJob(type="command", command="false", experiment_name="b")).name)
    assert [job.name for job in service.list()] == [two.name, one.name]
    assert [job.name for job in service.list(status=JobStatus.FAILED)] == [two.name]
    assert [job.name for job in service.list(experiment_name="a", limit=5)] == [one.name]
    assert service.get(one.name) == one
    with pytest.raises(NotFound):
        service.get("nobody")
    with pytest.raises(NotFound, match="has no step 'x'"):
        service.logs(one.name, "x")
