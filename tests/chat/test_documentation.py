"""The report and the preview in docs/data.md are what is printed."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tunesmith.chat import ChatTokenizer, check
from tunesmith.chat.render import render_report

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
TALKS = [
    ("Can you recommend a book?", "Try The Left Hand of Darkness.", "Who wrote it?", "Ursula K. Le Guin, in 1969."),
    ("What is a good name for a cat?", "Miso.", "And for two?", "Miso and Soba."),
    ("How long do eggs boil?", "Seven minutes for a soft yolk.", "And for a hard one?", "Ten minutes."),
]


def messages(*contents: str) -> list[dict[str, Any]]:
    return [{"role": ("user", "assistant")[n % 2], "content": content} for n, content in enumerate(contents)]


def write_example(path: Path) -> None:
    rows: list[list[dict[str, Any]]] = [messages(*talk) for talk in TALKS]
    rows.append(rows[1])
    rows.append(messages("Summarise this.", "word " * 90))
    more = ("tell me more about it, please.", "there is a lot to say about it, so here it is.")
    rows.append(messages(*(f"Turn {n}: {text}" for n in range(5) for text in more)))
    rows.append(messages("Hello?"))
    rows.append([{"role": "narrator", "content": "It rains."}, {"role": "assistant", "content": "It does."}])
    rows.append(messages("Hi", "Hi!", "How are you?", "Fine, thank you.", "Good."))
    rows[-1][1]["weight"] = 0
    numbers = [0, 1, 2, 1, 4, 5, 6, 7, 8]
    text = "".join(json.dumps({"id": n, "messages": row}) + "\n" for n, row in zip(numbers, rows, strict=True))
    path.write_text(text + '{"messages": [{"role": "user", "con\n')


def test_the_report_is_what_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chatml: ChatTokenizer) -> None:
    (block,) = re.findall(r"```text\n(file .*?)```", PAGE, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    write_example(Path("train.jsonl"))
    console = Console(file=io.StringIO(), width=118)
    console.print(render_report(check("train.jsonl", tokenizer=chatml, max_seq_length=120)))
    assert isinstance(console.file, io.StringIO)
    printed = [line.rstrip() for line in console.file.getvalue().splitlines()]
    documented = block.splitlines()
    # Lengths are those of another tokenizer, so of those parts the words are compared; of the others every letter.
    begin, end = documented.index(""), documented.index("InvalidJson  1 error")
    assert [line for line in documented[:begin] if not line.startswith("checked in")] == [
        line for line in printed[: printed.index("")] if not line.startswith("checked in")
    ]
    assert documented[end:-1] == printed[printed.index("InvalidJson  1 error") : -1]
    labels = {
        re.split(r"  +", line.strip())[0] for line in documented[begin:end] if line and not line.strip()[0].isdigit()
    }
    shown = "\n".join(printed)
    assert len(labels) >= 9
    assert all(label in shown for label in labels)
    assert documented[-1].startswith("Not sound: 7 of 10 conversations are sound; 3 errors; 2 warnings; ")


def test_the_preview_is_of_the_first_row() -> None:
    (block,) = re.findall(r"```text\n(train.jsonl:1: .*?)```", PAGE, flags=re.DOTALL)
    assert re.findall(r"⟦(.*?)⟧", block, flags=re.DOTALL) == [f"{answer}<|im_end|>" for answer in TALKS[0][1::2]]


def test_every_warning_is_explained() -> None:
    source = "".join(path.read_text() for path in (Path(__file__).parents[2] / "src/tunesmith/chat").glob("*.py"))
    codes = set(re.findall(r'odd = \(\s*"(\w+)"', source)) | {"Duplicate", "EmptyTurn", "EndsWithoutAnswer"}
    codes |= {"SpecialTokenInText", "ToolsIgnored"}
    assert len(codes) == 10
    assert all(f"`{code}`" in PAGE for code in codes)
