"""What a person sees."""

from __future__ import annotations

import io
import json
from pathlib import Path

from rich.console import Console

from tunesmith.chat import ChatTokenizer, check
from tunesmith.chat.preview import preview_rows
from tunesmith.chat.render import render_preview, render_report, visible

Q, A = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


def shown(renderable: object, **settings: object) -> str:
    console = Console(file=io.StringIO(), width=160, **settings)  # type: ignore[arg-type]
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def write(path: Path, rows: list[list[dict[str, str]]]) -> Path:
    path.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    return path


def test_a_report(tmp_path: Path, chatml: ChatTokenizer) -> None:
    path = write(tmp_path / "a[b].jsonl", [[Q, A], [Q, A], *[[Q]] * 30, [Q, {**A, "content": "word " * 99}]])
    text = shown(render_report(check(path, tokenizer=chatml, max_seq_length=64), faults=6))
    assert f"{path}  (jsonl, " in text
    assert "33, 3 sound  (openai 33)" in text
    assert "NoAssistant  30 errors" in text
    assert "… and 27 more" in text
    assert text.count("→ add the answer, or leave the row out") == 1
    # A long path of the test's folder is folded over lines.
    assert f"{path}:2the same conversation as{path}:1".replace(" ", "") in "".join(text.split())
    assert "dropped, too long   1" in text
    assert "64 tokens, on_too_long=truncate_turns" in text
    assert "Not sound: 3 of 33 conversations are sound; 30 errors" in text
    assert "█" in text


def test_a_report_without_tokens(tmp_path: Path) -> None:
    text = shown(render_report(check(write(tmp_path / "a.jsonl", [[Q, A]]))))
    assert "Sound: 1 of 1 conversation is sound." in text
    assert "max_seq_length" not in text


def test_a_preview_without_colours_marks_the_runs(tmp_path: Path, chatml: ChatTokenizer) -> None:
    path = write(tmp_path / "a.jsonl", [[Q, {**A, "content": "b\n[c]"}]])
    (preview,) = preview_rows(path, chatml)
    lines = [line.rstrip() for line in shown(render_preview(preview)).splitlines()]
    assert lines[0].startswith(f"{path}:1: {preview.total} tokens, {preview.trained} with loss")
    assert lines[1:] == ["<|im_start|>user↵", "q<|im_end|>↵", "<|im_start|>assistant↵", "⟦b↵", "[c]<|im_end|>⟧↵", ""]


def test_a_preview_with_colours(tmp_path: Path, chatml: ChatTokenizer) -> None:
    path = write(tmp_path / "a.jsonl", [[Q, A]])
    (preview,) = preview_rows(path, chatml)
    text = shown(render_preview(preview), force_terminal=True, color_system="truecolor")
    assert "\x1b[30;42ma" in text or "\x1b[30;102ma" in text
    assert "⟦" not in text


def test_a_long_row_is_shown_in_part(tmp_path: Path, chatml: ChatTokenizer) -> None:
    path = write(tmp_path / "a.jsonl", [[Q, {**A, "content": "word " * 99}]])
    (preview,) = preview_rows(path, chatml, limit=10)
    assert len(preview.tokens) == 10
    assert f"… and {preview.total - 10} more tokens" in shown(render_preview(preview))


def test_control_characters_are_to_be_seen() -> None:
    assert visible("a\tb\r\n\x00é") == "a→\tb␍↵\n·é"
