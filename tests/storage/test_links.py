from __future__ import annotations

from pathlib import Path

from tunesmith.storage.links import link_tree


def test_a_second_place_takes_no_room(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "x").write_text("1")
    link_tree(tmp_path / "a", tmp_path / "c")
    assert (tmp_path / "c" / "b" / "x").samefile(tmp_path / "a" / "b" / "x")
    link_tree(tmp_path / "a" / "b" / "x", tmp_path / "y")
    assert (tmp_path / "y").samefile(tmp_path / "a" / "b" / "x")
