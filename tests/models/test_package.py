from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.models.conftest import Listener
from tunesmith.errors import InvalidModel
from tunesmith.models import ModelPackage


@pytest.fixture
def copy(llama: ModelPackage, tmp_path: Path) -> Path:
    """A package that a test may spoil."""
    shutil.copytree(llama.path, tmp_path / "package")
    return tmp_path / "package"


def test_package_knows_itself(llama: ModelPackage) -> None:
    again = ModelPackage.open(llama.path, full=True)
    assert again.sha256 == llama.sha256
    assert again.size_bytes == sum(path.stat().st_size for path in llama.path.iterdir() if path.name != "package.json")
    assert again.tokenizer().contract.sha256 == llama.manifest.chat_contract


def test_hash_is_over_content_and_not_over_the_name_of_the_model(copy: Path, llama: ModelPackage) -> None:
    body = json.loads((copy / "package.json").read_text())
    body["name"] = "another"
    (copy / "package.json").write_text(json.dumps(body))
    assert ModelPackage.open(copy).sha256 == llama.sha256


def test_bytes_that_changed_in_place_are_found_by_the_full_check(copy: Path, listener: Listener) -> None:
    with (copy / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    package = ModelPackage.open(copy)
    with pytest.raises(InvalidModel, match=r"model.safetensors .* its sha256 is") as caught:
        package.verify(listener)
    assert caught.value.target == str(copy / "model.safetensors")
    assert listener.progressed["verify"]


def cut(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-10])


def forge(folder: Path) -> None:
    body = json.loads((folder / "package.json").read_text())
    body["files"]["config.json"]["sha256"] = "0" * 64
    (folder / "package.json").write_text(json.dumps(body))


def lead_out(folder: Path) -> None:
    body = json.loads((folder / "package.json").read_text())
    body["files"]["../outside"] = {"sha256": "0" * 64, "bytes": 1}
    (folder / "package.json").write_text(json.dumps(body))


def newer(folder: Path) -> None:
    body = json.loads((folder / "package.json").read_text())
    body["format_version"] = 2
    (folder / "package.json").write_text(json.dumps(body))


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "file missing": (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json .* it is missing"),
    "file cut": (cut, "model.safetensors .* it was cut short"),
    "file grown": (lambda f: (f / "config.json").write_text("{}" * 900), "config.json .* it was changed"),
    "file added": (lambda f: (f / "chat_template.json").write_text("{}"), "chat_template.json .* was added after"),
    "manifest forged": (forge, "its own hash does not fit"),
    "manifest leads out": (lead_out, "leads out of the folder"),
    "manifest of the future": (newer, "package.json cannot be read: format_version"),
    "manifest no json": (lambda f: (f / "package.json").write_text("{"), "package.json cannot be read"),
    "no manifest": (lambda f: (f / "package.json").unlink(), "no model package: it has no package.json"),
}


@pytest.mark.parametrize(("spoil", "said"), BAD.values(), ids=list(BAD))
def test_spoilt_package_is_named_when_opened(copy: Path, spoil: Callable[[Path], object], said: str) -> None:
    spoil(copy)
    with pytest.raises(InvalidModel, match=said) as caught:
        ModelPackage.open(copy)
    assert str(copy) in str(caught.value.target)
    assert caught.value.way_out or "leads" in said


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match="no such folder"):
        ModelPackage.open(tmp_path / "nothing")


def test_hidden_files_are_no_part_of_it(copy: Path) -> None:
    (copy / ".DS_Store").write_bytes(b"x")
    ModelPackage.open(copy, full=True)
