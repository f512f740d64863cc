"""MLflow folders that others wrote."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tunesmith.errors import InvalidModel
from tunesmith.models import ModelPackage, import_model

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def load(folder: Path) -> ModelPackage:
    into = folder.parent / "packages" / "p"
    return import_model(str(folder), into, downloads=folder.parent / "downloads", name="tiny")


def mlmodel(folder: Path, flavors: dict[str, Any]) -> None:
    (folder / "MLmodel").write_text(yaml.safe_dump({"flavors": flavors}))


@pytest.fixture
def folder(tiny_phi3: Path, tmp_path: Path) -> Path:
    """Weights and tokenizer in folders of their own, as ``mlflow.transformers.save_model`` lays them out."""
    root = tmp_path / "mlflow"
    (root / "components" / "tokenizer").mkdir(parents=True)
    shutil.copytree(tiny_phi3, root / "model")
    for name in TOKENIZER:
        (root / "model" / name).rename(root / "components" / "tokenizer" / name)
    mlmodel(root, {"transformers": {"model_binary": "model", "components": ["tokenizer"]}})
    return root


def test_folder_of_mlflows_transformers_flavor(folder: Path, phi3: ModelPackage) -> None:
    package = load(folder)
    assert package.manifest.files == phi3.manifest.files
    assert load(folder).sha256 == package.sha256  # the second time nothing is done


def test_folder_of_azures_flavor(tiny_phi3: Path, tmp_path: Path, phi3: ModelPackage) -> None:
    root = tmp_path / "azure"
    for name in ("model", "tokenizer", "config"):
        (root / "data" / name).mkdir(parents=True)
    for path in tiny_phi3.iterdir():
        kind = "tokenizer" if path.name in TOKENIZER else "config" if path.name == "config.json" else "model"
        shutil.copy(path, root / "data" / kind / path.name)
    mlmodel(root, {"hftransformersv2": {"task_type": "chat-completion"}, "python_function": {}})
    assert load(root).manifest.files == phi3.manifest.files


@pytest.mark.parametrize(
    ("flavors", "said"),
    [
        ({"sklearn": {}}, "flavors sklearn and no folder with transformers weights"),
        ({}, "flavors none"),
        ({"transformers": {"peft_adaptor": "peft"}}, "only a LoRA adapter"),
        ({"transformers": {"model_binary": "../elsewhere"}}, "no weights|no folder"),
        ({"transformers": {"model_binary": "gone"}}, "no weights"),
    ],
)
def test_folders_that_hold_no_model(folder: Path, flavors: dict[str, Any], said: str) -> None:
    mlmodel(folder, flavors)
    with pytest.raises(InvalidModel, match=said):
        load(folder)


@pytest.mark.parametrize("text", ["{", "- a list", "\x00"])
def test_mlmodel_that_is_no_mapping(folder: Path, text: str) -> None:
    (folder / "MLmodel").write_text(text)
    with pytest.raises(InvalidModel, match="MLmodel"):
        load(folder)
