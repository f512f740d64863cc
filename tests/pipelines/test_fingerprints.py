from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import pytest

from tunesmith.errors import NotFound
from tunesmith.pipelines.fingerprints import (
    code_files,
    environment_lock,
    file_sizes,
    hash_code,
    hash_modules,
    same_files,
)


def test_code_without_caches(tmp_path: Path) -> None:
    for name in ("a.py", "sub/b.py", "__pycache__/a.pyc", "sub/.git/config"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert code_files(tmp_path) == ["a.py", "sub/b.py"]
    before = hash_code(tmp_path)
    (tmp_path / "__pycache__" / "b.pyc").touch()
    assert hash_code(tmp_path) == before
    (tmp_path / "a.py").write_text("other")
    assert hash_code(tmp_path) != before
    assert hash_code(tmp_path / "a.py") != before


def test_files_are_told_by_name_and_size(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    (folder / "a").write_text("12")
    sizes = file_sizes(folder)
    assert sizes == (("a", 2),)
    assert same_files(folder, sizes)
    (folder / "a").write_text("123")
    assert not same_files(folder, sizes)
    assert not same_files(tmp_path / "none", ())
    assert same_files(folder / "a", file_sizes(folder / "a"))


def test_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "some_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "one.py").write_text("x = 1")
    (tmp_path / "some_module.py").write_text("y = 1")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = hash_modules("some_package some_module")
    assert hash_modules("some_module some_package") == before
    (package / "one.py").write_text("x = 2")
    assert hash_modules("some_package some_module") != before
    with pytest.raises(NotFound):
        hash_modules("no_such_module_at_all")


def test_the_environment_names_distributions_python_and_platform() -> None:
    lock = environment_lock()
    wanted = {f"{one.name.lower().replace('_', '-')}=={one.version}" for one in metadata.distributions()}
    assert set(lock[:-2]) == wanted
    assert any(line.startswith("pydantic==") for line in lock)
    assert f"python=={sys.version.split()[0]}" in lock
    assert lock[-1].startswith("platform==")
