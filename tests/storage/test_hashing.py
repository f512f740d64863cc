from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from tunesmith.errors import InvalidData, NotFound
from tunesmith.storage.hashing import CACHED_FROM, Hasher, file_sha256, files_below, tree_sha256, tree_size

OLD = 1_600_000_000


def big(path: Path, fill: bytes = b"a", *, at: int = OLD) -> Path:
    path.write_bytes(fill * (CACHED_FROM + 1))
    os.utime(path, (at, at))
    return path


def test_a_files_hash_is_that_of_sha256sum(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"hello")
    assert file_sha256(tmp_path / "a") == "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    assert tree_sha256(tmp_path / "a") == file_sha256(tmp_path / "a")
    assert file_sha256(big(tmp_path / "b")) == hashlib.sha256(b"a" * (CACHED_FROM + 1)).hexdigest()


def test_a_folders_hash_is_over_paths_and_contents_alone(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "b").write_text("2")
        (tmp_path / name / "sub" / "a").write_text("1")
    (tmp_path / "two" / "empty").mkdir()
    (tmp_path / "two" / "b").chmod(0o600)
    os.utime(tmp_path / "two" / "b", (OLD, OLD))
    one, two = (hashlib.sha256(text.encode()).hexdigest() for text in ("1", "2"))
    expected = hashlib.sha256(f"b\0{two}\nsub/a\0{one}\n".encode()).hexdigest()
    assert tree_sha256(tmp_path / "one") == tree_sha256(tmp_path / "two") == expected
    (tmp_path / "two" / "sub" / "a").rename(tmp_path / "two" / "sub" / "c")
    assert tree_sha256(tmp_path / "two") != expected


def test_a_hash_is_remembered_until_the_file_changes(tmp_path: Path) -> None:
    path = big(tmp_path / "big")
    first = Hasher(tmp_path / "cache").file(path)
    # The same size, time and inode: only the memory can know the old hash.
    path.write_bytes(b"b" * (CACHED_FROM + 1))
    os.utime(path, (OLD, OLD))
    assert Hasher(tmp_path / "cache").file(path) == first
    os.utime(path, (OLD, OLD + 1))
    second = Hasher(tmp_path / "cache").file(path)
    assert second == file_sha256(path) != first


def test_a_file_that_was_just_written_is_not_remembered(tmp_path: Path) -> None:
    path = tmp_path / "big"
    path.write_bytes(b"a" * (CACHED_FROM + 1))
    hasher = Hasher(tmp_path / "cache")
    hasher.file(path)
    assert not (tmp_path / "cache").exists()


def test_a_damaged_cache_only_costs_time(tmp_path: Path) -> None:
    path = big(tmp_path / "big")
    right = Hasher(tmp_path / "cache").file(path)
    for entry in (tmp_path / "cache").iterdir():
        entry.write_text("{")
    assert Hasher(tmp_path / "cache").file(path) == right


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="gone"):
        file_sha256(tmp_path / "gone")
    with pytest.raises(NotFound, match="gone"):
        tree_sha256(tmp_path / "gone")


def test_links_that_lead_out_or_nowhere_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "outside").write_text("x")
    for target in (tmp_path / "outside", folder / "nothing"):
        (folder / "link").symlink_to(target)
        with pytest.raises(InvalidData, match="leads out"):
            tree_sha256(folder)
        (folder / "link").unlink()
    (folder / "real").write_text("1")
    (folder / "link").symlink_to(folder / "real")
    assert files_below(folder) == ["link", "real"]


def test_sizes(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "a").write_bytes(b"123")
    (tmp_path / "f" / "b").write_bytes(b"45")
    assert (tree_size(tmp_path / "f"), tree_size(tmp_path / "f" / "a"), tree_size(tmp_path / "gone")) == (5, 3, 0)
