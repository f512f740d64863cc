from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith.home import find_home
from tunesmith.settings import load_settings


def test_the_folder_is_the_argument_else_the_variable_else_in_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    assert find_home() == Path("/somewhere/.tunesmith")
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path / "a"))
    assert find_home() == tmp_path / "a"
    assert find_home(tmp_path / "b") == tmp_path / "b"
    monkeypatch.chdir(tmp_path)
    assert find_home("c") == tmp_path / "c"
    assert load_settings("c").home == tmp_path / "c"
