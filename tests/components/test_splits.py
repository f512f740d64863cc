from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.components.support import Recorder
from tests.support.tiny import tiny_conversations
from tunesmith.components.steps.conversations import check_split
from tunesmith.components.steps.splits import mltable_files, split_files
from tunesmith.errors import NotFound, ValidationFailed


def arguments(**given: Path) -> SimpleNamespace:
    names = [f"{split}_{kind}_path" for split in ("train", "validation", "test") for kind in ("file", "mltable")]
    return SimpleNamespace(**{**dict.fromkeys(names), **given})


def table(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "MLTable").write_text(text)
    return folder


def test_only_what_was_given(tmp_path: Path) -> None:
    train = tiny_conversations(tmp_path / "train.jsonl")
    assert split_files(arguments(train_file_path=train)) == {"train": [train]}


def test_a_path_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="the validation conversations are not there"):
        split_files(arguments(validation_file_path=tmp_path / "none.jsonl"))
    with pytest.raises(ValidationFailed, match="both train_file_path and train_mltable_path"):
        split_files(arguments(train_file_path=tmp_path, train_mltable_path=tmp_path))


def test_an_mltable_names_files(tmp_path: Path) -> None:
    folder = table(
        tmp_path / "t",
        "paths:\n  - file: ./a.jsonl\n  - pattern: part-*.jsonl\n  - folder: ./more\n"
        "transformations:\n  - read_json_lines:\n      encoding: utf8\n",
    )
    (folder / "more").mkdir()
    for name in ("a.jsonl", "part-2.jsonl", "part-1.jsonl"):
        (folder / name).touch()
    assert mltable_files(folder) == [
        folder / "a.jsonl",
        folder / "part-1.jsonl",
        folder / "part-2.jsonl",
        folder / "more",
    ]
    assert mltable_files(folder / "MLTable") == mltable_files(folder)
    assert split_files(arguments(test_mltable_path=folder))["test"] == mltable_files(folder)


def test_faults_of_an_mltable(tmp_path: Path) -> None:
    folder = table(
        tmp_path / "t",
        "paths:\n  - file: ./none.jsonl\n  - file: https://x/y\n  - {file: a, folder: b}\n"
        "transformations:\n  - drop_columns: x\n",
    )
    with pytest.raises(ValidationFailed) as caught:
        mltable_files(folder)
    place = folder / "MLTable"
    assert [(fault.target, fault.message) for fault in caught.value.details] == [
        (f"{place}#paths[0]", "names nothing that is there: ./none.jsonl"),
        (f"{place}#paths[1]", "is an address, not a file of this machine: https://x/y"),
        (f"{place}#paths[2]", "must have one of file, folder, pattern"),
        (f"{place}#transformations[0]", "drop_columns is not done here"),
    ]
    with pytest.raises(NotFound, match="there is no MLTable file"):
        mltable_files(tmp_path)
    with pytest.raises(ValidationFailed, match="names no paths"):
        mltable_files(table(tmp_path / "u", "type: x"))


def test_checking_a_split(tmp_path: Path) -> None:
    recorder = Recorder()
    path = tiny_conversations(tmp_path / "train.jsonl", 5)
    facts = check_split("train", [path], recorder)
    assert facts["rows"] == 5
    assert [file["name"] for file in facts["files"]] == ["train.jsonl"]
    assert recorder.lines[-1].startswith("train: 5 of 5 conversations are sound")
    with path.open("a") as file:
        file.write('{"messages": [{"role": "wizard", "content": "x"}]}\n')
        file.write("not json\n")
    with pytest.raises(ValidationFailed) as caught:
        check_split("train", [path], recorder)
    assert {f"{fault.target}".split("#")[0] for fault in caught.value.details} == {f"{path}:6", f"{path}:7"}
    path.write_text("")
    with pytest.raises(ValidationFailed):
        check_split("train", [path], recorder)
