from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from tunesmith.errors import AlreadyExists, DiskFull
from tunesmith.storage import atomic


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_file_is_whole_private_and_alone(tmp_path: Path) -> None:
    atomic.write_text(tmp_path / "deep" / "a.txt", "one")
    atomic.write_text(tmp_path / "deep" / "a.txt", "two")
    assert (tmp_path / "deep" / "a.txt").read_text() == "two"
    assert (tmp_path / "deep" / "a.txt").stat().st_mode & 0o777 == 0o600
    assert names(tmp_path / "deep") == {"a.txt"}


def test_a_file_that_must_be_new_is_never_replaced(tmp_path: Path) -> None:
    atomic.write_text(tmp_path / "a", "one", replace=False)
    with pytest.raises(AlreadyExists):
        atomic.write_text(tmp_path / "a", "two", replace=False)
    assert (tmp_path / "a").read_text() == "one"
    assert names(tmp_path) == {"a"}


def test_json_takes_unicode_as_it_is(tmp_path: Path) -> None:
    atomic.write_json(tmp_path / "a.json", {"ü": ["…"]})
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == {"ü": ["…"]}
    assert "ü" in (tmp_path / "a.json").read_text("utf-8")


def test_a_new_folder_appears_when_it_is_finished(tmp_path: Path) -> None:
    target = tmp_path / "x" / "folder"
    with atomic.new_folder(target) as aside:
        (aside / "inner").mkdir()
        (aside / "inner" / "f").write_text("1")
        assert not target.exists()
    assert (target / "inner" / "f").read_text() == "1"
    assert names(tmp_path / "x") == {"folder"}


def test_a_new_folder_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), atomic.new_folder(tmp_path / "folder") as aside:
        (aside / "f").write_text("1")
        raise RuntimeError
    assert names(tmp_path) == set()


def test_a_folder_that_is_there_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "f").write_text("old")
    with pytest.raises(AlreadyExists), atomic.new_folder(tmp_path / "folder"):
        pass
    with pytest.raises(AlreadyExists), atomic.new_folder(tmp_path / "other") as aside:
        (aside / "f").write_text("mine")
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "f").write_text("theirs")
    assert (tmp_path / "other" / "f").read_text() == "theirs"
    assert names(tmp_path) == {"folder", "other"}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named_with_the_free_bytes(tmp_path: Path, number: int) -> None:
    with pytest.raises(DiskFull) as caught, atomic.new_folder(tmp_path / "folder"):
        raise OSError(number, os.strerror(number))
    assert caught.value.target == str(tmp_path / "folder")
    assert caught.value.extra["free"] > 0
    assert names(tmp_path) == set()


def test_a_full_disk_that_is_real(tmp_path: Path) -> None:
    # /dev/full answers every write with ENOSPC; here it stands for the disk under the target.
    with pytest.raises(DiskFull), atomic.disk_full_named(tmp_path), Path("/dev/full").open("wb", buffering=0) as file:
        file.write(b"x")


def test_removing_says_what_it_gave_back(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a").write_bytes(b"x" * 1000)
    (folder / "b").write_bytes(b"x" * 500)
    os.link(folder / "b", tmp_path / "kept")  # its bytes stay in use
    (folder / "c").write_bytes(b"x" * 70)
    os.link(folder / "c", folder / "d")  # both links go
    assert atomic.remove(folder) == 1070
    assert names(tmp_path) == {"kept"}
    assert atomic.remove(tmp_path / "kept") == 500
    assert atomic.remove(tmp_path / "kept") == 0


def test_removing_a_link_leaves_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "f").write_text("1")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert atomic.remove(tmp_path / "link") == 0
    assert names(tmp_path) == {"real"}
    assert (tmp_path / "real" / "f").exists()


def test_what_a_kill_left_aside_is_swept(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    aside = atomic.aside_path(tmp_path / "m" / "1")
    aside.mkdir()
    (aside / "f").write_bytes(b"x" * 10)
    atomic.aside_path(tmp_path / "m" / "file").write_bytes(b"x" * 5)
    (tmp_path / "m" / "kept.aside").write_text("a name that ends so and does not begin so")
    assert atomic.sweep(tmp_path) == 15
    assert names(tmp_path / "m") == {"kept.aside"}
