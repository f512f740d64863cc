from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith.errors import NotFound, ValidationFailed
from tunesmith.pipelines.schema import load_spec


def test_loading_files(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("name: c\nlr: 5e-06\nbig: 1E5\n")
    assert load_spec(file) == {"name": "c", "lr": 5e-6, "big": 1e5}
    file.write_text("name: [c\n")
    with pytest.raises(ValidationFailed) as caught:
        load_spec(file)
    assert caught.value.target == f"{file}:2"
    file.write_text("- a\n")
    with pytest.raises(ValidationFailed, match="a mapping of fields"):
        load_spec(file)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValidationFailed, match="not a UTF-8 text file"):
        load_spec(file)
    with pytest.raises(NotFound):
        load_spec(tmp_path / "none.yaml")
