"""Parts hold every row once, duplicates together, and the seed decides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.tiny import tiny_conversations
from tunesmith.chat import split
from tunesmith.errors import AlreadyExists, InvalidData, NotFound, UserError, ValidationFailed

THREE = {"train": 0.8, "validation": 0.1, "test": 0.1}


def row(content: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "a"}], **fields}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(contents=st.lists(st.integers(0, 12), min_size=3, max_size=40), seed=st.integers(0, 9))
def test_every_row_once_and_duplicates_together(
    contents: list[int], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("split")
    rows = [row(str(content), id=index) for index, content in enumerate(contents)]
    result = split(write(folder / "a.jsonl", rows), folder / "out", fractions=THREE, seed=seed)
    parts = {part: read(path) for part, path in result.files.items()}
    assert sorted(item["id"] for items in parts.values() for item in items) == list(range(len(rows)))
    where = {item["messages"][0]["content"]: part for part, items in parts.items() for item in items}
    assert all(where[item["messages"][0]["content"]] == part for part, items in parts.items() for item in items)
    assert {part: len(items) for part, items in parts.items()} == dict(result.counts)
    assert result.repeated == len(contents) - len(set(contents))


def test_exact_sizes_without_duplicates(tmp_path: Path) -> None:
    source = tiny_conversations(tmp_path / "a.jsonl", 100)
    result = split(source, tmp_path / "out", fractions=THREE, seed=1)
    assert result.counts == {"train": 80, "validation": 10, "test": 10}
    assert split(source, tmp_path / "b", fractions={"x": 0.335, "y": 0.665}).counts == {"x": 34, "y": 66}
    body = json.loads((tmp_path / "out" / "split.json").read_text())
    assert (body["seed"], body["counts"], body["fractions"]) == (1, result.counts, THREE)


def test_small_parts_get_a_row(tmp_path: Path) -> None:
    source = tiny_conversations(tmp_path / "a.jsonl", 5)
    result = split(source, tmp_path / "out", fractions={"train": 0.98, "validation": 0.01, "test": 0.01})
    assert result.counts == {"train": 3, "validation": 1, "test": 1}


def test_the_seed_decides_and_rows_are_shuffled(tmp_path: Path) -> None:
    source = tiny_conversations(tmp_path / "a.jsonl", 50)
    one, again, other = (
        split(source, tmp_path / name, fractions=THREE, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert one.files["train"].read_bytes() == again.files["train"].read_bytes()
    assert one.files["train"].read_bytes() != other.files["train"].read_bytes()
    lines = source.read_text().splitlines()
    order = [lines.index(line) for line in one.files["train"].read_text().splitlines()]
    assert order != sorted(order)


def test_rows_stay_as_they_are(tmp_path: Path) -> None:
    source = tmp_path / "a.csv"
    source.write_text("instruction,output,topic\n" + "".join(f"q{n},a{n},t{n}\n" for n in range(4)))
    result = split(source, tmp_path / "out", fractions={"train": 0.5, "test": 0.5})
    rows = [item for path in result.files.values() for item in read(path)]
    assert sorted(rows, key=lambda item: item["instruction"])[0] == {"instruction": "q0", "output": "a0", "topic": "t0"}


def test_several_sources_and_parts_of_nothing(tmp_path: Path) -> None:
    one, two = tiny_conversations(tmp_path / "a.jsonl", 5), tiny_conversations(tmp_path / "b.jsonl", 5, seed=1)
    result = split([one, two], tmp_path / "out", fractions={"train": 0.5, "validation": 0, "test": 0.5})
    assert set(result.files) == {"train", "test"}
    assert sum(result.counts.values()) == 10


def test_the_same_again_is_the_same_and_nothing_is_written_over(tmp_path: Path) -> None:
    source = tiny_conversations(tmp_path / "a.jsonl", 20)
    first = split(source, tmp_path / "out", fractions=THREE, seed=1)
    assert split(source, tmp_path / "out", fractions=THREE, seed=1) == first
    before = first.files["train"].read_bytes()
    with pytest.raises(AlreadyExists):
        split(source, tmp_path / "out", fractions=THREE, seed=2)
    assert first.files["train"].read_bytes() == before
    assert sorted(entry.name for entry in (tmp_path / "out").iterdir()) == [
        "split.json",
        "test.jsonl",
        "train.jsonl",
        "validation.jsonl",
    ]


@pytest.mark.parametrize(
    ("fractions", "message"),
    [
        ({"train": 0.5, "test": 0.4}, "sum to 0.9"),
        ({"train": 1.5, "test": -0.5}, "the share 1.5"),
        ({"../train": 1.0}, "no name of a part"),
        ({}, "sum to 0"),
    ],
)
def test_fractions_are_checked(fractions: dict[str, float], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        split(tiny_conversations(tmp_path / "a.jsonl", 5), tmp_path / "out", fractions=fractions)
    assert not (tmp_path / "out").exists()


def test_faulty_and_few_rows(tmp_path: Path) -> None:
    faulty = write(tmp_path / "a.jsonl", [row("x"), {"messages": []}])
    with pytest.raises(ValidationFailed) as caught:
        split(faulty, tmp_path / "out", fractions=THREE)
    assert caught.value.details[0].target == f"{faulty}:2#messages"
    with pytest.raises(InvalidData, match="1 rows cannot be split into 3 parts"):
        split(write(tmp_path / "b.jsonl", [row("x")]), tmp_path / "out", fractions=THREE)
    with pytest.raises(NotFound):
        split(tmp_path / "nowhere.jsonl", tmp_path / "out", fractions=THREE)
    assert list((tmp_path / "out").iterdir()) == []
