"""Kills at every place: of the runner, of its step, of the server that follows it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.pipelines.conftest import command, running, until, wait_for
from tunesmith.errors import error_from_dict
from tunesmith.pipelines.layout import JobFolder
from tunesmith.pipelines.runner import ALREADY_RUNNING
from tunesmith.pipelines.service import JobService
from tunesmith.records.jobs import Job, JobStatus, SubmitJob
from tunesmith.storage.database import Database
from tunesmith.storage.paths import WorkspacePaths
from tunesmith.storage.tables import JobRow

COUNTING = """
n=$(cat $TUNESMITH_CHECKPOINTS/n 2>/dev/null || echo 0)
trap 'echo stopped at $n; exit 143' TERM
while [ $n -lt 6 ]; do
  n=$((n+1)); echo $n > $TUNESMITH_CHECKPOINTS/n; echo n=$n
  while [ $n -eq 3 ] && [ ! -e GO ]; do sleep 0.02; done
done
echo $n > ${{outputs.total}}
"""
"""Counts to 6 with a checkpoint at each; waits at 3 until it may go on."""


def counting(go: Path) -> SubmitJob:
    return SubmitJob(
        jobs={
            "first": {"command": "echo once; echo x > ${{outputs.o}}", "outputs": {"o": {"type": "uri_file"}}},
            "count": {
                "command": COUNTING.replace("GO", str(go)),
                "inputs": {"after": {"type": "uri_file", "path": "${{parent.jobs.first.outputs.o}}"}},
                "outputs": {"total": {"type": "uri_file"}},
            },
        }
    )


def at_three(service: JobService, paths: WorkspacePaths, name: str) -> JobFolder:
    """Wait until the step waits at 3; the job's folder."""
    folder = JobFolder(paths.job(name))
    until(lambda: "n=3" in _text(folder.step("count").log))
    service.reconcile()
    return folder


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def runner_pid(folder: JobFolder) -> int:
    return int(json.loads(folder.runner.read_text())["pid"])


def step_pid(folder: JobFolder, step: str) -> int:
    return int(json.loads(folder.step(step).process.read_text())["pid"])


def check_finished(job: Job, folder: JobFolder, attempts: int) -> None:
    assert job.status == JobStatus.COMPLETED, job.error
    assert {step.name: step.attempt for step in job.steps} == {"first": 1, "count": attempts}
    assert (folder.step("count").outputs / "total").read_text() == "6\n"
    assert _text(folder.step("first").log) == "once\n", "a finished step is kept"


def test_a_killed_runner_is_replaced_and_the_step_goes_on_from_its_checkpoint(
    make_service: Callable[..., JobService], paths: WorkspacePaths, tmp_path: Path
) -> None:
    service = make_service()
    name = service.submit(counting(tmp_path / "go")).name
    folder = at_three(service, paths, name)
    orphan = step_pid(folder, "count")
    os.kill(runner_pid(folder), signal.SIGKILL)
    until(lambda: not running(runner_pid(folder)))
    assert running(orphan), "the step outlives its runner until the next one stops it"
    (tmp_path / "go").touch()
    job = wait_for(service, name)
    check_finished(job, folder, attempts=2)
    assert not running(orphan)
    log = _text(folder.step("count").log)
    assert "── attempt 2 ──" in log
    assert "n=1" not in log.split("── attempt 2 ──")[1]
    assert "RunnerRestarted" in [notice.code for notice in job.notices]


def test_a_server_that_comes_back_finds_the_job_at_work(
    make_service: Callable[..., JobService], paths: WorkspacePaths, tmp_path: Path
) -> None:
    name = make_service().submit(counting(tmp_path / "go")).name
    another = make_service()
    folder = at_three(another, paths, name)
    before = runner_pid(folder)
    another.start(interval_s=0.02)
    (tmp_path / "go").touch()
    until(lambda: another.get(name).status.terminal)
    check_finished(another.get(name), folder, attempts=1)
    assert runner_pid(folder) == before
    assert another.get(name).notices == []


def test_everything_is_killed_and_the_job_still_finishes(
    make_service: Callable[..., JobService], paths: WorkspacePaths, tmp_path: Path
) -> None:
    service = make_service()
    name = service.submit(counting(tmp_path / "go")).name
    folder = at_three(service, paths, name)
    os.kill(runner_pid(folder), signal.SIGKILL)
    os.killpg(step_pid(folder, "count"), signal.SIGKILL)
    (tmp_path / "go").touch()
    check_finished(wait_for(make_service(), name), folder, attempts=2)


def test_a_runner_that_is_told_to_go_stops_the_step_at_a_checkpoint(
    make_service: Callable[..., JobService], paths: WorkspacePaths, tmp_path: Path
) -> None:
    service = make_service()
    name = service.submit(counting(tmp_path / "go")).name
    folder = at_three(service, paths, name)
    step = step_pid(folder, "count")
    os.kill(runner_pid(folder), signal.SIGTERM)
    until(lambda: not running(runner_pid(folder)))
    assert not running(step)
    assert "stopped at 3" in _text(folder.step("count").log)
    assert not folder.step("count").result.exists()
    (tmp_path / "go").touch()
    check_finished(wait_for(service, name), folder, attempts=2)


def test_a_canceled_job_stays_canceled_after_a_restart(
    make_service: Callable[..., JobService], paths: WorkspacePaths, tmp_path: Path
) -> None:
    service = make_service()
    name = service.submit(counting(tmp_path / "go")).name
    folder = at_three(service, paths, name)
    os.kill(runner_pid(folder), signal.SIGKILL)
    until(lambda: not running(runner_pid(folder)))
    service.cancel(name)
    orphan = step_pid(folder, "count")
    job = wait_for(make_service(), name)
    assert not running(orphan)
    assert job.status == JobStatus.CANCELED
    assert {step.name: step.status for step in job.steps} == {"first": "Completed", "count": "Canceled"}


def test_there_is_never_a_second_runner(
    make_service: Callable[..., JobService], paths: WorkspacePaths, tmp_path: Path
) -> None:
    service = make_service()
    name = service.submit(counting(tmp_path / "go")).name
    folder = at_three(service, paths, name)
    second = subprocess.run(
        [sys.executable, "-m", "tunesmith.pipelines.runner", str(folder.root)], capture_output=True, text=True
    )
    assert (second.returncode, second.stderr) == (ALREADY_RUNNING, "another runner is at work on this job\n")
    (tmp_path / "go").touch()
    check_finished(wait_for(service, name), folder, attempts=1)


def test_a_runner_that_always_dies_ends_the_job_with_the_cause(
    make_service: Callable[..., JobService], paths: WorkspacePaths, database: Database
) -> None:
    service = make_service()
    name = service.submit(SubmitJob(type="command", command="true")).name
    folder = JobFolder(paths.job(name))
    until(lambda: folder.runner.exists() and not running(runner_pid(folder)))
    folder.events.write_text("")  # as if it had died before it said anything
    folder.graph.write_text("{")
    job = wait_for(service, name)
    assert job.status == JobStatus.FAILED
    error = error_from_dict(job.error or {})
    assert error.message.startswith("its runner died 3 times at its start; last line: ")
    assert error.way_out == f"read {folder.runner_log}"


def test_the_end_is_not_lost_between_the_files_and_the_database(
    make_service: Callable[..., JobService], paths: WorkspacePaths, database: Database, tmp_path: Path
) -> None:
    (tmp_path / "go").touch()
    service = make_service()
    name = service.submit(counting(tmp_path / "go")).name
    done = wait_for(service, name)
    # A server that was killed after it had read the end and before it had written it.
    with database.session() as session:
        row = session.get(JobRow, name)
        assert row is not None
        row.status, row.ended_at = JobStatus.FINALIZING, None
    again = wait_for(make_service(), name)
    assert again == done


def test_the_next_start_cleans_up(
    make_service: Callable[..., JobService], paths: WorkspacePaths, database: Database
) -> None:
    service = make_service()
    name = wait_for(service, service.submit(SubmitJob(type="command", command="true")).name).name
    with database.session() as session:
        row = session.get(JobRow, name)
        assert row is not None
        row.deleting = True  # a deletion that was cut
    (paths.jobs / "never_acknowledged_0000000000").mkdir()
    another = make_service()
    another.start()
    assert list(paths.jobs.iterdir()) == []
    assert another.list() == []


def test_events_that_a_kill_cut_short_are_passed_over(
    make_service: Callable[..., JobService], paths: WorkspacePaths, tmp_path: Path
) -> None:
    service = make_service()
    name = service.submit(counting(tmp_path / "go")).name
    folder = at_three(service, paths, name)
    os.kill(runner_pid(folder), signal.SIGKILL)
    until(lambda: not running(runner_pid(folder)))
    with folder.events.open("a") as file:
        file.write('{"t": 1, "kind": "st')
    (tmp_path / "go").touch()
    check_finished(wait_for(service, name), folder, attempts=2)


RESUMING: dict[str, Any] = command(
    "counter",
    "ls $TUNESMITH_CHECKPOINTS; touch $TUNESMITH_CHECKPOINTS/c${{inputs.n}}; exit ${{inputs.code}}",
    inputs={
        "n": {"type": "integer"},
        "code": {"type": "integer", "default": 0},
        "resume": {"type": "string", "enum": ["true", "false"], "default": "false"},
    },
    properties={"resume": "resume", "resume_ignores": "code"},
)


def test_a_new_job_goes_on_from_an_earlier_jobs_checkpoints(make_service: Callable[..., JobService]) -> None:
    service = make_service()

    def run(**inputs: object) -> tuple[Job, str]:
        job = wait_for(service, service.submit(SubmitJob(component=RESUMING, inputs=inputs)).name)
        return job, service.logs(job.name, "counter")

    failed, _ = run(n=1, code=1)
    assert failed.status == JobStatus.FAILED
    assert run(n=2, resume="true")[1] == "", "another parameter: its checkpoints do not fit"
    _, log = run(n=1, resume="true")
    assert log == f"checkpoints taken over from {failed.name}/steps/counter\nc1\n"


def test_a_job_whose_folder_is_gone_ends_and_holds_up_no_other(
    make_service: Callable[..., JobService], paths: WorkspacePaths, tmp_path: Path
) -> None:
    service = make_service(max_running=2)
    name = service.submit(counting(tmp_path / "go")).name
    folder = at_three(service, paths, name)
    os.kill(runner_pid(folder), signal.SIGKILL)
    os.killpg(step_pid(folder, "count"), signal.SIGKILL)
    until(lambda: not running(runner_pid(folder)))
    shutil.rmtree(folder.root)
    another = make_service(max_running=2)
    after = another.submit(SubmitJob(type="command", command="true"))
    assert wait_for(another, after.name).status == JobStatus.COMPLETED
    job = another.get(name)
    assert job.status == JobStatus.FAILED
    assert "its folder is gone" in str(job.error)
    another.delete(name)
    assert [other.name for other in another.list()] == [after.name]
