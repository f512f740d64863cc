"""What the dry run of a recipe says about its training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.tiny import tiny_conversations, tiny_model
from tests.support.workspace import temporary_workspace
from tunesmith.chat.prepare import prepare
from tunesmith.cli.finetune import _forecast
from tunesmith.finetune.batches import Plan
from tunesmith.finetune.parameters import FinetuneParameters
from tunesmith.models import ModelPackage, import_model


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    folder = tmp_path_factory.mktemp("package")
    tiny_model("llama", folder / "hf")
    return import_model(str(folder / "hf"), folder / "package", downloads=folder / "downloads", name="tiny")


def test_steps_and_tokens_are_those_of_the_prepared_rows(package: ModelPackage, tmp_path: Path) -> None:
    train = tiny_conversations(tmp_path / "train.jsonl", 40)
    values: dict[str, Any] = {"max_seq_length": 60, "num_train_epochs": 3, "apply_lora": "true"}
    (tmp_path / "config.yaml").write_text("gradient_accumulation_steps: 2\n")
    rows = prepare(train, package.tokenizer(), tmp_path / "prepared", max_seq_length=60, processes=1)
    parameters = FinetuneParameters.from_strings({**values, "gradient_accumulation_steps": 2})
    plan = Plan(rows.lengths, parameters, package.manifest.context_length)
    assert rows.report.cut.count > 0, "some rows are cut, which the forecast must know"
    call = {"model": str(package.path), "train": str(train)}
    with temporary_workspace(tmp_path / "home") as services:
        lines = _forecast(services, call, {**values, "finetune_config_path": str(tmp_path / "config.yaml")})  # type: ignore[arg-type]
    assert lines[0].startswith("Rows     40 of 40 conversations are sound")
    assert lines[1].startswith(f"Steps    {plan.total_steps:,} optimiser steps, {3 * int(rows.lengths.sum()):,} tokens")
    assert lines[2].startswith("Time     about ")


def test_faulty_rows_and_a_missing_model_are_told(package: ModelPackage, tmp_path: Path) -> None:
    train = tiny_conversations(tmp_path / "train.jsonl", 4)
    with train.open("a") as file:
        file.write("{}\n")
    with temporary_workspace(tmp_path / "home") as services:
        call = {"model": str(package.path), "train": str(train)}
        lines = _forecast(services, call, {})  # type: ignore[arg-type]
        assert "on_faulty=drop" in lines[1]
        assert not any("on_faulty" in line for line in _forecast(services, call, {"on_faulty": "drop"}))  # type: ignore[arg-type]
        (line,) = _forecast(services, {**call, "train": str(tmp_path / "none.jsonl")}, {})  # type: ignore[arg-type]
        assert line.startswith("No estimate: ")
