"""What is written says the same as what was read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tunesmith.chat import Conversation, convert
from tunesmith.chat.formats import conversation_of
from tunesmith.chat.readers import read_rows
from tunesmith.errors import AlreadyExists, InvalidData, NotFound, UserError, ValidationFailed

Q, A = {"role": "user", "content": "q ä"}, {"role": "assistant", "content": 'a\n"b"'}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": {"x": [1, {"y": "é"}]}}}],
}
ROWS: list[dict[str, Any]] = [
    {"messages": [{"role": "system", "content": "s"}, Q, {**A, "weight": 0}, Q, A]},
    {
        "messages": [Q, CALL, {"role": "tool", "content": "21", "tool_call_id": "c"}, A],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}],
    },
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path) -> list[Conversation]:
    return [conversation_of(row) for row in read_rows(path)]


def plain(conversations: list[Conversation]) -> list[dict[str, Any]]:
    return [conversation.to_openai() for conversation in conversations]


@pytest.mark.parametrize("name", ["out.jsonl", "out.json", "out.parquet"])
def test_openai_in_every_file_format(name: str, tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", ROWS)
    result = convert(source, tmp_path / name)
    assert (result.rows, result.dropped, result.notes) == (2, 0, {})
    assert plain(read(tmp_path / name)) == plain(read(source))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.jsonl", name]


def test_parquet_of_many_rows(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", ROWS * 1500)
    convert(source, tmp_path / "out.parquet")
    assert plain(read(tmp_path / "out.parquet")) == plain(read(source))


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
def test_sharegpt_and_back(name: str, tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", ROWS)
    result = convert(source, tmp_path / name, to="sharegpt")
    assert result.notes == {"WeightsLost": 1}
    rows = [row.data for row in read_rows(tmp_path / name)]
    assert rows[1] is not None
    assert [turn["from"] for turn in rows[1]["conversations"]] == ["human", "function_call", "observation", "gpt"]
    found = read(tmp_path / name)
    assert [message.content for message in found[0].messages] == ["s", "q ä", A["content"], "q ä", A["content"]]
    assert found[1].messages[1].tool_calls[0].arguments == {"x": [1, {"y": "é"}]}
    assert found[1].tools == tuple(ROWS[1]["tools"])


def test_other_formats_become_openai(tmp_path: Path) -> None:
    source = tmp_path / "a.csv"
    source.write_text('instruction,input,output\n"q",,"a"\n')
    convert(source, tmp_path / "out.jsonl")
    assert json.loads((tmp_path / "out.jsonl").read_text()) == {
        "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    }


def test_chosen_answers(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", [{"prompt": "q", "chosen": "a", "rejected": "b"}])
    with pytest.raises(ValidationFailed, match="1 faulty rows"):
        convert(source, tmp_path / "out.jsonl")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.jsonl"]
    assert convert(source, tmp_path / "out.jsonl", take_chosen=True).notes == {"ChosenTaken": 1}
    assert [message.content for message in read(tmp_path / "out.jsonl")[0].messages] == ["q", "a"]


def test_system_messages_fold_into_the_user(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", ROWS)
    assert convert(source, tmp_path / "out.jsonl", fold_system=True).notes == {"SystemFolded": 1}
    found = read(tmp_path / "out.jsonl")
    assert [message.role for message in found[0].messages] == ["user", "assistant", "user", "assistant"]
    assert found[0].messages[0].content == "s\n\nq ä"


def test_faulty_rows(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", [*ROWS, {"messages": [{"role": "x", "content": "y"}]}])
    with pytest.raises(ValidationFailed) as caught:
        convert(source, tmp_path / "out.jsonl")
    assert caught.value.details[0].target == f"{source}:3#messages[0].role"
    result = convert(source, tmp_path / "out.jsonl", on_faulty="drop")
    assert (result.rows, result.dropped) == (2, 1)
    assert json.loads(json.dumps(result.to_dict()))["path"] == str(tmp_path / "out.jsonl")


def test_refusals(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", ROWS)
    with pytest.raises(AlreadyExists):
        convert(source, source)
    with pytest.raises(UserError, match=r"cannot write a \.txt"):
        convert(source, tmp_path / "out.txt")
    with pytest.raises(UserError, match="to is 'alpaca'"):
        convert(source, tmp_path / "out.jsonl", to="alpaca")  # type: ignore[arg-type]
    with pytest.raises(NotFound):
        convert(tmp_path / "nowhere.jsonl", tmp_path / "out.jsonl")
    empty = write(tmp_path / "b.jsonl", [{"messages": []}])
    with pytest.raises(InvalidData, match="no row to write"):
        convert(empty, tmp_path / "out.jsonl", on_faulty="drop")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.jsonl", "b.jsonl"]
