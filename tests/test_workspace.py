"""Opening a workspace: what is made, what is kept, what is refused, and that nothing heavy is loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.workspace import add_job, temporary_workspace
from tunesmith.errors import Conflict, Failure, Unreachable, ValidationFailed
from tunesmith.records.assets import AssetKind
from tunesmith.records.compute import CreateCompute
from tunesmith.records.jobs import SubmitJob
from tunesmith.records.workspace import ServerAddress
from tunesmith.settings import load_settings
from tunesmith.storage.atomic import aside_path
from tunesmith.workspace import open_workspace


def test_a_folder_becomes_a_workspace_for_its_owner_alone(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o755)
    services = open_workspace(load_settings(home, name="mine"))
    body = json.loads((home / "workspace.json").read_text())
    assert (services.id, services.name) == (body["id"], "mine") == (body["id"], body["name"])
    assert body["format_version"] == 1
    assert home.stat().st_mode & 0o777 == 0o700
    assert (home / "token").stat().st_mode & 0o777 == 0o600
    assert (home / "tunesmith.db").exists()
    services.close()


def test_what_was_kept_is_there_when_it_is_opened_again(tmp_path: Path) -> None:
    with temporary_workspace(tmp_path / "home") as services:
        services.computes.create_or_update(CreateCompute(name="cpu"))
        before = (services.id, services.created_at, services.secrets.token)
    with temporary_workspace(tmp_path / "home", name="another") as services:
        assert (services.id, services.created_at, services.secrets.token) == before
        assert services.name == "default"  # its name was given when it was made
        assert services.computes.get("cpu").size == "local"


def test_a_folder_of_a_newer_tunesmith_is_refused(tmp_path: Path) -> None:
    with temporary_workspace(tmp_path / "home"):
        pass
    path = tmp_path / "home" / "workspace.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 2}))
    with pytest.raises(Conflict, match="has format 2, and this Tunesmith knows 1"):
        open_workspace(load_settings(tmp_path / "home"))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"id": "x"}'])
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "workspace.json").write_text(text)
    with pytest.raises(Failure, match=r"workspace\.json: the file is damaged"):
        open_workspace(load_settings(tmp_path))


def test_a_faulty_name_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValidationFailed):
        open_workspace(load_settings(tmp_path / "home", name="../x"))
    assert not (tmp_path / "home").exists()


def test_a_database_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="cannot be opened"):
        open_workspace(load_settings(tmp_path / "home", database_url="sqlite:////no/such/folder/x.db"))


def test_a_database_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    url = f"sqlite:///{tmp_path}/elsewhere/t.db"
    services = open_workspace(load_settings(tmp_path / "home", database_url=url))
    services.computes.create_or_update(CreateCompute(name="cpu"))
    services.close()
    assert (tmp_path / "elsewhere" / "t.db").stat().st_size > 0
    assert not (tmp_path / "home" / "tunesmith.db").exists()


def test_what_a_kill_left_half_made_is_gone_and_the_work_of_others_stays(tmp_path: Path) -> None:
    with temporary_workspace(tmp_path / "home") as services:
        mine = aside_path(services.paths.artifacts / "models" / "m" / "1")
        job = aside_path(services.paths.job_artifacts("j") / "out")  # a runner may be writing it now
        for folder in (mine, job):
            folder.mkdir(parents=True)
            (folder / "f").write_text("x")
    with temporary_workspace(tmp_path / "home"):
        assert not mine.exists()
        assert job.exists()


def test_the_shelves_and_their_services(tmp_path: Path) -> None:
    with temporary_workspace(tmp_path / "home") as services:
        assert [(r.name, r.writable) for r in services.registries()] == [("workspace", True), ("azureml", False)]
        kinds: tuple[AssetKind, ...] = ("models", "data", "components", "environments")
        for kind in kinds:
            assert services.assets(kind).kind == kind


def test_steps_are_told_where_mlflow_is_once_a_server_listens(tmp_path: Path) -> None:
    printed = "MLFLOW_TRACKING_URI MLFLOW_TRACKING_TOKEN MLFLOW_EXPERIMENT_NAME MLFLOW_TRACKING_SERVER_CERT_PATH"
    code = f"import json, os; print(json.dumps([os.environ.get(name) for name in {printed.split()!r}]))"
    (tmp_path / "show.py").write_text(code)
    with temporary_workspace(tmp_path / "home") as services:
        address = ServerAddress(
            url="https://127.0.0.1:1234",
            pid=1,
            process_started=0.0,
            workspace_id=services.id,
            version="0",
            certificate="/c.pem",
        )
        services.paths.server_file.write_text(address.model_dump_json())
        job = services.jobs.submit(
            SubmitJob(
                type="command", command="python show.py", code=str(tmp_path / "show.py"), experiment_name="Greetings"
            )
        )
        from tests.support.workspace import until

        until(lambda: not services.jobs.reconcile(), "the job has ended")
        assert services.jobs.get(job.name).error is None
        lines = services.jobs.logs(job.name).splitlines()
        shown: list[Any] = json.loads(next(line for line in lines if line.startswith("[")))
        assert shown == ["https://127.0.0.1:1234/mlflow", services.secrets.token, "Greetings", "/c.pem"]


def test_opening_and_looking_around_loads_nothing_heavy(tmp_path: Path) -> None:
    heavy = ("torch", "transformers", "mlflow", "pandas", "numpy", "pyarrow", "fsspec")
    code = f"""
import sys
from pathlib import Path
from tunesmith.settings import load_settings
from tunesmith.workspace import open_workspace
services = open_workspace(load_settings({str(tmp_path / "home")!r}))
for kind in ("models", "data", "components", "environments"):
    services.assets(kind).list()
services.computes.list()
services.jobs.list()
services.endpoints.list()
services.tracking.mirror()
services.tracking.status()
services.close()
print([name for name in {heavy!r} if name in sys.modules])
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_closing_leaves_no_connection_and_may_be_done_twice(tmp_path: Path) -> None:
    with temporary_workspace(tmp_path / "home") as services:
        add_job(services, "j")
        services.close()
        assert services.database.engine.pool.checkedin() == 0  # type: ignore[attr-defined]
