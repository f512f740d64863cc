"""MLflow's process: who it answers to, and that it ends and starts as it should."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.workspace import add_job, temporary_workspace, until
from tunesmith.errors import Unavailable
from tunesmith.pipelines.graph import Graph
from tunesmith.storage.paths import WorkspacePaths
from tunesmith.tracking.jobs import JOB_TAG
from tunesmith.tracking.process import MlflowProcess
from tunesmith.tracking.rest import MlflowRest
from tunesmith.workspace import Services


def test_nothing_runs_before_it_is_needed(tmp_path: Path) -> None:
    with temporary_workspace(tmp_path / "home", mlflow="jobs") as workspace:
        workspace.tracking.mirror()
        assert not workspace.tracking.status().running
        assert workspace.tracking.start_run("any") is None


def test_one_that_waited_to_be_asked_has_everything_at_once(workspace: Services, rest: MlflowRest) -> None:
    assert rest.find_run(rest.experiment("Default"), {JOB_TAG: "unasked"}) is not None


def test_it_answers_to_its_own_server_only(workspace: Services) -> None:
    address = workspace.tracking.ensure_running()
    secret = workspace.tracking.map_path("")

    def get(path: str) -> httpx.Response:
        return httpx.get(address + path, trust_env=False)

    assert get(f"{secret}/mlflow/health").text == "OK"
    assert get(f"{secret}/mlflow/").headers["content-type"].startswith("text/html")
    for path in ("/mlflow/health", "/wrong/mlflow/health", f"{secret}x/mlflow/health", "/", ""):
        assert get(path).status_code == 403
    for hidden in (
        "/mlflow/ajax-api/3.0/mlflow/assistant/status",
        "/mlflow/gateway/x/mlflow/invocations",
    ):
        assert get(f"{secret}{hidden}").status_code == 404
    process = psutil.Process(workspace.tracking.status().pid)
    assert {c.laddr.ip for c in process.net_connections() if c.status == psutil.CONN_LISTEN} == {"127.0.0.1"}
    assert secret.strip("/") not in " ".join(process.cmdline())
    assert secret.strip("/") not in str(process.environ())
    assert process.environ()["MLFLOW_DISABLE_TELEMETRY"] == "true"


KILLS = """
import os, signal, sys, time
from pathlib import Path
from tunesmith.storage.paths import WorkspacePaths
from tunesmith.tracking.process import MlflowProcess
from tunesmith.tracking.rest import MlflowRest

process = MlflowProcess(WorkspacePaths(Path(sys.argv[1])))

def experiment():
    rest = MlflowRest(process.ensure_running(), process.map_path(""))
    return rest.experiment("kept")

before, first = experiment(), process.pid
os.kill(first, signal.SIGKILL)
while process.running:
    time.sleep(0.05)
assert experiment() == before
assert process.pid != first
print(process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.heavy
def test_one_that_was_killed_is_started_again_and_it_ends_with_its_server(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLS, str(tmp_path)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == -signal.SIGKILL, answer.stderr
    pid = int(answer.stdout)
    until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, "it has ended")


@pytest.mark.heavy
def test_one_that_cannot_start_says_why_stops_no_job_and_is_tried_again(tmp_path: Path) -> None:
    with temporary_workspace(tmp_path / "home", mlflow="jobs") as workspace:
        add_job(workspace, "j")
        (workspace.paths.job("j") / "graph.json").write_text(Graph(steps=[]).model_dump_json())
        with sqlite3.connect(workspace.paths.mlflow_database) as connection:  # made by an MLflow of the future
            connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
            connection.execute("INSERT INTO alembic_version VALUES ('from-the-future')")
        connection.close()
        workspace.tracking.mirror()
        status = workspace.tracking.status()
        assert (status.running, status.behind) == (False, 1)
        assert status.problem is not None
        assert "mlflow.log: MLflow's server ended with exit code 1" in status.problem
        workspace.paths.mlflow_database.unlink()

        def mirrored() -> bool:
            workspace.tracking.mirror()
            return workspace.tracking.status().behind == 0

        until(mirrored, "MLflow has the job")
        assert workspace.tracking.status().problem is None
    assert not workspace.tracking.status().running


def test_one_that_is_stopped_stays_stopped(tmp_path: Path) -> None:
    process = MlflowProcess(WorkspacePaths(tmp_path))
    process.stop()
    with pytest.raises(Unavailable, match="closing"):
        process.ensure_running()
    assert not (tmp_path / "mlflow").exists()
