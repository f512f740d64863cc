"""Importing anew keeps the old weights until the new ones are whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.components.support import Recorder
from tests.support.tiny import tiny_model
from tunesmith.components.steps import import_package
from tunesmith.components.steps.runtime import Step
from tunesmith.errors import TunesmithError
from tunesmith.models import ModelPackage
from tunesmith.storage.paths import WorkspacePaths


def run(home: Path, source: Path, *, force: bool = False) -> Path:
    step = Step({"TUNESMITH_HOME": str(home)})
    step.reporter = Recorder()
    report = home / "report.json"
    arguments = import_package.Arguments(
        name="tiny", version="1", source=str(source), report=report, registry="workspace", force=force
    )
    import_package.main(arguments, step)
    assert json.loads(report.read_text())["name"] == "tiny"
    return WorkspacePaths(home).package("workspace", "tiny", "1")


def test_the_old_weights_stay_until_the_new_ones_are_there(tmp_path: Path) -> None:
    home, first, second = tmp_path / "home", tmp_path / "first", tmp_path / "second"
    home.mkdir()
    tiny_model("llama", first)
    tiny_model("llama", second, seed=5)
    place = run(home, first)
    old = ModelPackage.open(place).sha256
    with pytest.raises(TunesmithError):
        run(home, tmp_path / "nowhere", force=True)
    assert ModelPackage.open(place, full=True).sha256 == old
    assert [path.name for path in place.parent.iterdir()] == ["1"]
    assert run(home, second, force=True) == place
    assert ModelPackage.open(place, full=True).sha256 != old
    assert [path.name for path in place.parent.iterdir()] == ["1"]


def test_a_cut_between_the_two_renames_is_mended(tmp_path: Path) -> None:
    home, source = tmp_path / "home", tmp_path / "source"
    home.mkdir()
    tiny_model("llama", source)
    place = run(home, source)
    old = ModelPackage.open(place).sha256
    place.rename(place.with_name(".1.old"))
    assert run(home, tmp_path / "nowhere") == place
    assert ModelPackage.open(place, full=True).sha256 == old
