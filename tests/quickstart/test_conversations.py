"""Two people's messages become user and assistant turns; what is left out is counted."""

import json
import zipfile
from pathlib import Path

import pytest

from tunesmith.errors import InvalidData
from tunesmith.quickstart.conversations import write_conversations
from tunesmith.quickstart.plan import CONVERSATIONS_MEMBER


def turn(sender: str, *texts: str) -> list[dict[str, str]]:
    return [{"sender": sender, "text": text, "timestamp": "2018-01-01T00:00:00Z"} for text in texts]


def wheel(path: Path, conversations: dict[str, object]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(CONVERSATIONS_MEMBER, json.dumps(conversations))
    return path


GOOD = [turn("a", "Hi", "there"), turn("b", "hello"), turn("a", "how are you?"), turn("b", "fine"), turn("a", "bye")]


def test_roles_merging_and_the_last_turn(tmp_path: Path) -> None:
    made = wheel(tmp_path / "w.whl", {"1": {"messages": GOOD}})
    selection = write_conversations(made, tmp_path / "out" / "c.jsonl", count=5, seed=0)
    assert json.loads(selection.path.read_text()) == {
        "messages": [
            {"role": "user", "content": "Hi there"},
            {"role": "assistant", "content": "hello"},
            {"role": "user", "content": "how are you?"},
            {"role": "assistant", "content": "fine"},
        ]
    }
    assert (selection.read, selection.taken, selection.left_out) == (1, 1, {})


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    made = wheel(
        tmp_path / "w.whl",
        {
            "1": {"messages": GOOD},
            "2": {"messages": [turn("a", "alone")]},
            "3": {"messages": GOOD[:2]},
            "4": {"messages": [turn("a", "x" * 4000), *GOOD[1:]]},
            "5": {"messages": GOOD},
        },
    )
    selection = write_conversations(made, tmp_path / "c.jsonl", count=1, seed=0)
    assert selection.taken == 1
    assert selection.left_out == {
        "not between two people": 1,
        "fewer than 4 turns": 1,
        "longer than 3,500 characters": 1,
        "not needed": 1,
    }


def test_the_draw_is_seeded(tmp_path: Path) -> None:
    made = wheel(tmp_path / "w.whl", {str(i): {"messages": [turn("a", f"q{i}"), *GOOD[1:]]} for i in range(30)})
    texts = [
        write_conversations(made, tmp_path / f"{n}.jsonl", count=10, seed=seed).path.read_text()
        for n, seed in enumerate((7, 7, 8))
    ]
    assert texts[0] == texts[1] != texts[2]


def test_another_layout_is_an_error(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.whl", "w") as archive:
        archive.writestr("other.json", "{}")
    with pytest.raises(InvalidData, match=r"w\.whl: no readable"):
        write_conversations(tmp_path / "w.whl", tmp_path / "c.jsonl", count=1, seed=0)
    assert not (tmp_path / "c.jsonl").exists()
