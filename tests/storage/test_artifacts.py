from __future__ import annotations

import os
import secrets
from pathlib import Path

import pytest

from tunesmith.errors import AlreadyExists, InvalidData, NotFound, UserError, ValidationFailed
from tunesmith.storage.artifacts import ArtifactStore


@pytest.fixture(params=["folder", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    if request.param == "folder":
        return ArtifactStore(tmp_path / "artifacts")
    return ArtifactStore(f"memory://{secrets.token_hex(4)}/store", cache=tmp_path / "cache")


def a_folder(path: Path) -> Path:
    (path / "sub").mkdir(parents=True)
    (path / "a.txt").write_text("one")
    (path / "sub" / "b.bin").write_bytes(b"\0\1\2")
    return path


def content(path: Path) -> dict[str, bytes]:
    return {str(item.relative_to(path)): item.read_bytes() for item in path.rglob("*") if item.is_file()}


def test_a_folder_goes_in_and_comes_back(store: ArtifactStore, tmp_path: Path) -> None:
    source = a_folder(tmp_path / "source")
    uri = store.uri_for("models", "m", "1")
    assert uri == "azureml://datastores/workspaceartifactstore/paths/models/m/1"
    assert not store.exists(uri)
    assert store.publish(source, uri) == 6
    assert store.exists(uri)
    assert content(store.local_path(uri)) == content(source)
    assert store.size(uri) == 6
    assert store.local_path(f"{uri}/sub/b.bin").read_bytes() == b"\0\1\2"
    assert store.delete(uri) == 6
    assert not store.exists(uri)
    assert store.delete(uri) == 0
    with pytest.raises(NotFound):
        store.local_path(uri)


def test_a_single_file(store: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n")
    uri = f"{store.uri_for('data', 'd', '1')}/rows.jsonl"
    assert store.publish(tmp_path / "rows.jsonl", uri) == 3
    assert store.local_path(uri).read_text() == "{}\n"
    assert store.local_path(uri).name == "rows.jsonl"
    assert store.delete(uri) == 3


def test_nothing_is_ever_replaced(store: ArtifactStore, tmp_path: Path) -> None:
    uri = store.uri_for("x")
    store.publish(a_folder(tmp_path / "one"), uri)
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "c").write_text("other")
    with pytest.raises(AlreadyExists):
        store.publish(tmp_path / "two", uri)
    assert content(store.local_path(uri)) == content(tmp_path / "one")


def test_what_is_not_there_cannot_be_published(store: ArtifactStore, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="gone"):
        store.publish(tmp_path / "gone", store.uri_for("x"))


def test_azures_default_datastore_is_this_store(store: ArtifactStore, tmp_path: Path) -> None:
    store.publish(a_folder(tmp_path / "s"), store.uri_for("x"))
    assert store.exists("azureml://datastores/workspaceblobstore/paths/x")
    assert store.owns("azureml://datastores/workspaceblobstore/paths/x")
    assert not store.owns("azureml://datastores/other/paths/x")
    with pytest.raises(ValidationFailed, match="not in the artifact store"):
        store.exists("azureml://datastores/other/paths/x")


@pytest.mark.parametrize("inner", ["../x", "a/../../x", "a/..", "a\\b"])
def test_no_uri_leaves_the_store(store: ArtifactStore, inner: str) -> None:
    uri = f"azureml://datastores/workspaceartifactstore/paths/{inner}"
    for use in (store.local_path, store.delete):
        with pytest.raises(ValidationFailed):
            use(uri)
    with pytest.raises(ValidationFailed):
        store.uri_for("models", inner, "1")


def test_links_that_lead_out_of_a_source_are_refused(store: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    source = a_folder(tmp_path / "source")
    (source / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(InvalidData, match="leads out"):
        store.publish(source, store.uri_for("x"))
    assert not store.exists(store.uri_for("x"))


def test_a_finished_output_is_linked_and_gives_its_bytes_back_once(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "artifacts")
    source = a_folder(tmp_path / "artifacts" / "jobs" / "j" / "out")
    uri = store.uri_for("models", "m", "1")
    store.publish(source, uri, link=True)
    assert (store.local_path(uri) / "a.txt").stat().st_ino == (source / "a.txt").stat().st_ino
    assert store.delete(uri) == 0  # the job's output still has them
    assert content(source) == {"a.txt": b"one", "sub/b.bin": b"\0\1\2"}
    store.publish(source, uri, link=True)
    assert store.delete(store.uri_for("jobs", "j")) == 0
    assert store.delete(uri) == 6


def test_a_copy_is_independent(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "artifacts")
    source = a_folder(tmp_path / "source")
    store.publish(source, store.uri_for("x"))
    (source / "a.txt").write_text("changed")
    assert (store.local_path(store.uri_for("x")) / "a.txt").read_text() == "one"


def test_adopting_leaves_no_copy(store: ArtifactStore, tmp_path: Path) -> None:
    source = a_folder(tmp_path / "made")
    expected = content(source)
    assert store.adopt(source, store.uri_for("x")) == 6
    assert not source.exists()
    assert content(store.local_path(store.uri_for("x"))) == expected


def test_a_publication_that_fails_leaves_nothing(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "artifacts")
    source = a_folder(tmp_path / "source")
    os.mkfifo(source / "pipe")  # cannot be copied
    with pytest.raises(Exception, match="pipe"):
        store.publish(source, store.uri_for("models", "m", "1"))
    assert not store.exists(store.uri_for("models", "m", "1"))
    assert list((tmp_path / "artifacts" / "models" / "m").iterdir()) == []


def test_a_store_that_cannot_be_opened_says_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be opened") as caught:
        ArtifactStore("s3://bucket/x", cache=tmp_path)
    assert "s3fs" in str(caught.value)
    with pytest.raises(UserError):
        ArtifactStore("nosuch://bucket/x", cache=tmp_path)
