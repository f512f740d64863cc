"""What a step says, as lines of a file."""

import json
from pathlib import Path

import pytest

from tunesmith.reporting import EVENTS_VARIABLE, FileReporter, NullReporter


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_events_are_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "events.jsonl"
    reporter = FileReporter(path, interval=0, echo=False)
    reporter.progress("train", 1, 2, unit="steps", values={"loss": 2.5})
    reporter.metric(1, {"loss": 2.5})
    reporter.notice("RowsDropped", "3 rows dropped", count=3)
    reporter.log("hello\nworld")
    reporter.error({"error": {"code": "X", "message": "m"}})
    written = lines(path)
    for event in written:
        assert isinstance(event.pop("t"), float)
    assert written == [
        {"kind": "progress", "phase": "train", "done": 1, "total": 2, "unit": "steps", "values": {"loss": 2.5}},
        {"kind": "metric", "step": 1, "values": {"loss": 2.5}},
        {"kind": "notice", "code": "RowsDropped", "message": "3 rows dropped", "level": "warning", "count": 3},
        {"kind": "log", "message": "hello\nworld"},
        {"kind": "error", "error": {"code": "X", "message": "m"}},
    ]


def test_progress_is_thinned_but_its_end_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    reporter = FileReporter(path, interval=3600)
    for done in range(101):
        reporter.progress("read", done, 100)
    assert [event["done"] for event in lines(path)] == [0, 100]


def test_echo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reporter = FileReporter(tmp_path / "e.jsonl")
    reporter.log("a line")
    reporter.notice("N", "cut", level="info")
    assert capsys.readouterr().out == "a line\ninfo: cut\n"


def test_from_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(EVENTS_VARIABLE, raising=False)
    assert isinstance(FileReporter.from_environment(), NullReporter)
    monkeypatch.setenv(EVENTS_VARIABLE, str(tmp_path / "e.jsonl"))
    FileReporter.from_environment().log("x")
    assert [event["kind"] for event in lines(tmp_path / "e.jsonl")] == ["log"]
