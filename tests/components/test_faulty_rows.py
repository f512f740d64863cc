"""``on_faulty``: faulty rows end the job before anything starts, or are left out and counted where rows are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.components.support import Recorder
from tests.support.tiny import tiny_conversations, tiny_model
from tunesmith.chat.prepared import Prepared
from tunesmith.components.steps import preprocess, validate
from tunesmith.components.steps.runtime import Step
from tunesmith.errors import ValidationFailed
from tunesmith.models import import_model

FAULTY = '{"messages": [{"role": "user", "content": 5}]}\n'


@pytest.fixture
def train(tmp_path: Path) -> Path:
    path = tiny_conversations(tmp_path / "train.jsonl", 6)
    with path.open("a") as file:
        file.write(FAULTY + "{not json}\n")
    return path


def step(folder: Path) -> tuple[Step, Recorder]:
    made = Step({"TUNESMITH_CHECKPOINTS": str(folder / "checkpoints")})
    (folder / "checkpoints").mkdir(exist_ok=True)
    made.reporter = recorder = Recorder()
    return made, recorder


def check(train: Path, folder: Path, **values: Any) -> tuple[dict[str, Any], Recorder]:
    made, recorder = step(folder)
    info = folder / "info.json"
    validate.main(validate.Arguments(validation_info=info, train_file_path=train, **values), made)
    return json.loads(info.read_text())["train"], recorder


def test_they_end_the_job_unless_they_are_to_be_left_out(train: Path, tmp_path: Path) -> None:
    with pytest.raises(ValidationFailed) as caught:
        check(train, tmp_path)
    assert f"{train}:7#messages[0].content" in [fault.target for fault in caught.value.details]
    facts, recorder = check(train, tmp_path, on_faulty="drop")
    assert (facts["rows"], facts["sound_rows"]) == (8, 6)
    left_out = [message for _, message in recorder.notices if "left out by on_faulty drop" in message]
    assert len(left_out) == 2
    assert all(f"first at {train}:" in message for message in left_out)


def test_a_file_without_a_sound_row_is_an_error_all_the_same(tmp_path: Path) -> None:
    train = tmp_path / "train.jsonl"
    train.write_text(FAULTY)
    with pytest.raises(ValidationFailed):
        check(train, tmp_path, on_faulty="drop")


def test_preprocessing_leaves_them_out_and_says_how_many(train: Path, tmp_path: Path) -> None:
    tiny_model("llama", tmp_path / "hf")
    import_model(str(tmp_path / "hf"), tmp_path / "package", downloads=tmp_path / "downloads", name="tiny")
    made, recorder = step(tmp_path)
    common: dict[str, Any] = {"model_path": tmp_path / "package", "train_file_path": train, "max_seq_length": 256}
    with pytest.raises(ValidationFailed, match="2 faulty rows"):
        preprocess.main(preprocess.Arguments(output_dir=tmp_path / "failed", **common), made)
    output = tmp_path / "output"
    preprocess.main(preprocess.Arguments(output_dir=output, on_faulty="drop", **common), made)
    assert Prepared.open(output / "train").rows == 6
    assert json.loads((output / "splits.json").read_text())["train"]["dropped"] == {"faulty": 2}
    (said,) = [message for code, message in recorder.notices if code == "RowsFaulty"]
    assert said.startswith("2 of 8 conversations were left out: faulty")
