from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.workspace import add_job, add_output, temporary_workspace
from tunesmith.errors import Conflict, InvalidData, NotFound, ValidationFailed
from tunesmith.records.assets import RegisterData
from tunesmith.records.jobs import JobStatus
from tunesmith.storage.hashing import file_sha256, tree_sha256
from tunesmith.storage.tables import AssetRow
from tunesmith.workspace import Services


def test_a_file_is_copied_hashed_and_counted(workspace: Services, conversations: Path) -> None:
    sha256 = file_sha256(conversations)
    made = workspace.data.register(RegisterData(name="chat", path=str(conversations), description="d", tags={"a": "b"}))
    assert (made.id, made.type, made.sha256, made.rows, made.format) == (
        "azureml:chat:1",
        "uri_file",
        sha256,
        16,
        "openai",
    )
    assert made.size_bytes == conversations.stat().st_size
    conversations.write_text("changed")
    assert file_sha256(Path(made.path)) == sha256
    assert Path(made.path).name == "conversations.jsonl"
    assert Path(made.path).is_relative_to(workspace.paths.artifacts)
    assert workspace.data.get("chat") == made
    assert workspace.data.local_path(made) == Path(made.path)


def test_a_folder(workspace: Services, tmp_path: Path, conversations: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    conversations.rename(folder / "a.jsonl")
    made = workspace.data.register(RegisterData(name="chat", path=str(folder), type="uri_folder"))
    assert made.sha256 == tree_sha256(folder)
    assert (made.rows, made.format) == (16, "openai")
    assert (Path(made.path) / "a.jsonl").read_bytes() == (folder / "a.jsonl").read_bytes()
    assert workspace.data.delete("chat", "1") == made.size_bytes
    assert not Path(made.path).exists()


@pytest.mark.parametrize(
    ("content", "rows", "format"),
    [
        ('{"prompt": "a", "completion": "b"}\n{"prompt": "a", "completion": "b"}\n', 2, "prompt_completion"),
        ('{"x": 1}\n', 1, None),
        ('{"messages": []}\nnot json\n', 2, "openai"),
        ("\0\1\2 binary", None, None),
    ],
)
def test_what_is_in_a_file_is_looked_at_and_never_judged(
    workspace: Services, tmp_path: Path, content: str, rows: int | None, format: str | None
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(content)
    made = workspace.data.register(RegisterData(name="d", path=str(path)))
    assert (made.rows, made.format) == (rows, format)


def test_what_is_no_such_thing_is_refused(workspace: Services, tmp_path: Path, conversations: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "folder").mkdir()
    for path, type, message in (
        (tmp_path, "uri_file", "a folder, where a file is wanted"),
        (conversations, "uri_folder", "a file, where a folder is wanted"),
        (tmp_path / "empty.jsonl", "uri_file", "it is empty"),
        (tmp_path / "folder", "uri_folder", "it is empty"),
        (tmp_path / "folder", "mltable", "no file named MLTable"),
    ):
        with pytest.raises(InvalidData, match=message):
            workspace.data.register(RegisterData(name="d", path=str(path), type=type))  # type: ignore[arg-type]
    assert workspace.data.list("workspace") == []


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("rows.jsonl", ValidationFailed, "relative, and this server does not know to what"),
        ("./rows.jsonl", ValidationFailed, "relative, and this server does not know to what"),
        ("https://a.example/rows.jsonl", ValidationFailed, "on the network"),
        ("azureml:other:1", ValidationFailed, "registered already"),
        ("azureml://datastores/other/paths/x", NotFound, "no datastore 'other'"),
        ("azureml://datastores/workspaceblobstore/paths/gone", NotFound, "not in the artifact store"),
        ("azureml://datastores/workspaceblobstore/paths/../../token", ValidationFailed, "may leave"),
        ("azureml://jobs/gone/outputs/o", NotFound, "no job 'gone'"),
        ("/no/such/file", NotFound, "no such file or folder on the server's machine"),
    ],
)
def test_places_that_data_cannot_come_from(
    workspace: Services, path: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        workspace.data.register(RegisterData(name="d", path=path))


def test_an_upload_is_registered_by_its_path_in_the_datastore(workspace: Services, conversations: Path) -> None:
    upload = workspace.paths.uploads / "u1"
    upload.mkdir()
    conversations.rename(upload / "rows.jsonl")
    made = workspace.data.register(
        RegisterData(name="d", path="azureml://datastores/workspaceblobstore/paths/uploads/u1/rows.jsonl")
    )
    assert made.rows == 16


def test_an_output_of_a_job_is_registered_once_the_job_has_ended_well(
    workspace: Services, tmp_path: Path, conversations: Path
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    conversations.rename(folder / "rows.jsonl")
    add_job(workspace, "j", status=JobStatus.RUNNING)
    add_output(workspace, "j", "rows", folder, "uri_folder")
    request = RegisterData(name="d", path="azureml://jobs/j/outputs/rows/paths/rows.jsonl")
    with pytest.raises(Conflict, match="is Running, so its output is not whole"):
        workspace.data.register(request)
    with workspace.database.session() as session:
        from tunesmith.storage.tables import JobRow

        session.get_one(JobRow, "j").status = JobStatus.COMPLETED
    made = workspace.data.register(request)
    assert made.rows == 16
    with pytest.raises(NotFound, match="no output 'other'") as caught:
        workspace.data.register(RegisterData(name="d", path="azureml://jobs/j/outputs/other"))
    assert caught.value.way_out == "its outputs: rows"
    with pytest.raises(NotFound, match="has no 'x'"):
        workspace.data.register(RegisterData(name="d", path="azureml://jobs/j/outputs/rows/paths/x"))


def test_a_store_elsewhere(tmp_path: Path, conversations: Path) -> None:
    with temporary_workspace(tmp_path / "home", artifact_url="memory://data-elsewhere") as workspace:
        made = workspace.data.register(RegisterData(name="d", path=str(conversations)))
        assert made.path == "azureml://datastores/workspaceartifactstore/paths/data/d/1/conversations.jsonl"
        assert workspace.data.local_path(made).read_bytes() == conversations.read_bytes()
        assert workspace.data.delete("d", "1") == made.size_bytes
        with pytest.raises(NotFound):
            workspace.data.get("d")


def test_registrations_at_once_each_get_a_version_of_their_own(workspace: Services, conversations: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as pool:
        made = list(
            pool.map(lambda _: workspace.data.register(RegisterData(name="d", path=str(conversations))), range(8))
        )
    assert sorted(int(item.version) for item in made) == list(range(1, 9))
    with workspace.database.reading() as session:
        assert session.query(AssetRow).count() == 8
