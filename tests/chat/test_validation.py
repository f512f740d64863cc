"""The report of a check: exact counts, places, and what training would see."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.tiny import tiny_conversations
from tunesmith.chat import ChatTokenizer, check
from tunesmith.chat.prepare import prepare
from tunesmith.chat.report import CheckReport
from tunesmith.errors import InvalidData, NotFound, UserError
from tunesmith.reporting import NullReporter

Q, A = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


def write(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps({"messages": row} if isinstance(row, list) else row) + "\n" for row in rows))
    return path


def found(report: CheckReport) -> dict[str, int]:
    return {finding.code: finding.count for finding in report.findings}


def places(report: CheckReport, code: str) -> list[str]:
    return [str(fault.target) for finding in report.findings if finding.code == code for fault in finding.faults]


def test_a_sound_file(tmp_path: Path) -> None:
    path = tiny_conversations(tmp_path / "a.jsonl", 20)
    report = check(path)
    assert report.sound
    assert (report.rows, report.sound_rows, report.findings) == (20, 20, ())
    assert report.roles == {"user": 40, "assistant": 40}
    assert report.answers == 40
    assert report.formats == {"openai": 20}
    assert [(file.format, file.rows, file.bytes) for file in report.files] == [("jsonl", 20, path.stat().st_size)]
    assert report.tokens is None
    assert report.summary() == "20 of 20 conversations are sound"
    assert report.characters == sum(
        len(message["content"]) for line in path.read_text().splitlines() for message in json.loads(line)["messages"]
    )


def test_every_fault_is_counted_and_the_first_are_kept(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl",
        [[Q, A], *[[{"role": "x", "content": str(n)}, A] for n in range(9)], [Q, {**A, "content": 5}]],
    )
    report = check(path, limit=3)
    assert found(report) == {"UnknownRole": 9, "InvalidContent": 1}
    assert places(report, "UnknownRole") == [f"{path}:{n}#messages[0].role" for n in (2, 3, 4)]
    assert (report.rows, report.sound_rows, report.errors, report.sound) == (11, 1, 10, False)
    # Every kind has its turn where few may be shown.
    assert [fault.code for fault in report.faults(limit=2)] == ["UnknownRole", "InvalidContent"]
    assert len(report.faults()) == 4
    assert report.faults("warning") == []


@pytest.mark.parametrize(
    ("messages", "code", "path"),
    [
        ([Q], "NoAssistant", "#messages"),
        ([Q, {**A, "weight": 0}], "NoTrainedTokens", "#messages"),
    ],
)
def test_nothing_to_learn(messages: list[Any], code: str, path: str, tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", [messages])
    report = check(file)
    assert not report.sound
    assert places(report, code) == [f"{file}:1{path}"]


S, T = {"role": "system", "content": "s"}, {"role": "tool", "content": "t"}
CALL = {"role": "assistant", "tool_calls": [{"name": "f", "arguments": {}}]}


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([S, Q, A], {}),
        ([Q, CALL, T, T, A], {}),
        ([Q, Q, A], {"SameRoleTwice": 1}),
        ([Q, A, A], {"SameRoleTwice": 1}),
        ([A, Q, A], {"AnswerWithoutQuestion": 1}),
        ([S, A], {"AnswerWithoutQuestion": 1}),
        ([Q, S, A], {"SystemNotFirst": 1, "AnswerWithoutQuestion": 1}),
        ([Q, A, Q], {"EndsWithoutAnswer": 1}),
        ([Q, T, A], {"ResultWithoutCall": 1}),
        ([Q, CALL, Q, A], {"CallWithoutResult": 1}),
        ([Q, {**A, "content": " \n"}], {"EmptyTurn": 1}),
        ([{**Q, "content": ""}, A], {"EmptyTurn": 1}),
    ],
)
def test_odd_orders_are_warnings(messages: list[Any], expected: dict[str, int], tmp_path: Path) -> None:
    report = check(write(tmp_path / "a.jsonl", [messages]))
    assert found(report) == expected
    assert report.sound
    assert all(finding.level == "warning" for finding in report.findings)


def test_duplicates_over_several_files(tmp_path: Path) -> None:
    one = write(tmp_path / "a.jsonl", [[Q, A], [Q, {**A, "content": "b"}], [Q, A]])
    two = write(tmp_path / "b.jsonl", [[Q, {**A, "weight": 1}]])
    report = check([one, two])
    assert report.duplicate_rows == 2
    (finding,) = report.findings
    assert [(fault.target, fault.message) for fault in finding.faults] == [
        (f"{one}:3", f"the same conversation as {one}:1"),
        (f"{two}:1", f"the same conversation as {one}:1"),
    ]


def test_unreadable_files_are_in_the_report(tmp_path: Path) -> None:
    good = write(tmp_path / "a.jsonl", [[Q, A]])
    (tmp_path / "empty.jsonl").write_bytes(b"")
    (tmp_path / "binary.jsonl").write_bytes(bytes(200))
    (tmp_path / "none.csv").write_text("prompt,completion\n")
    report = check([good, *(tmp_path / name for name in ("empty.jsonl", "binary.jsonl", "none.csv"))])
    assert found(report) == {"InvalidFile": 3}
    assert [fault.message for fault in report.faults()] == [
        "the file is empty",
        "the file is binary, not text",
        "no rows in the file",
    ]
    assert not report.sound
    with pytest.raises(NotFound):
        check(tmp_path / "nowhere.jsonl")


def test_notes_and_ignored_fields(tmp_path: Path) -> None:
    rows = [{"id": 1, "messages": [{"role": "developer", "content": "s"}, Q, A]}, {"id": 2, "messages": [Q, A]}]
    report = check(write(tmp_path / "a.jsonl", rows))
    assert report.notes == {"DeveloperRole": 1}
    assert report.ignored_fields == {"id": 2}


# ── with a tokenizer


def test_what_a_check_foretells_is_what_preparation_does(tmp_path: Path, chatml: ChatTokenizer) -> None:
    long = [{"role": role, "content": f"{n} word" * 4} for n in range(5) for role in ("user", "assistant")]
    too_long = [Q, {**A, "content": "word " * 300}]
    path = write(tmp_path / "a.jsonl", [[Q, A], long, too_long, [Q, A, *long], [S, *long]])
    report = check(path, tokenizer=chatml, max_seq_length=150)
    made = prepare(path, chatml, tmp_path / "out", max_seq_length=150)
    assert report.tokens is not None
    assert (report.tokens.kept_rows, report.tokens.cut_rows, report.tokens.dropped_too_long) == (4, 3, 1)
    assert report.tokens.kept_rows == made.rows == made.report.rows_kept
    assert report.tokens.cut_rows == made.report.cut.count
    assert report.tokens.exchanges_removed == made.report.exchanges_removed
    assert (report.tokens.tokens, report.tokens.trained_tokens) == (made.report.tokens, made.report.trained_tokens)
    np.testing.assert_array_equal(report.kept_lengths, made.lengths)
    assert report.tokens.lengths.longest > 150 >= made.report.lengths.longest
    assert report.tokens.packed_sequences == 3
    assert report.tokens.ends_trained == 4
    assert report.sound  # rows left out by a policy are no errors
    assert "3 rows cut; 1 row dropped" in report.summary()


def test_rows_too_long_are_errors_with_fail(tmp_path: Path, chatml: ChatTokenizer) -> None:
    path = write(tmp_path / "a.jsonl", [[Q, A], [Q, {**A, "content": "word " * 100}]])
    report = check(path, tokenizer=chatml, max_seq_length=50, on_too_long="fail")
    assert places(report, "TooLong") == [f"{path}:2"]
    assert not report.sound


def test_what_the_template_refuses(tmp_path: Path, tokenizers: dict[str, ChatTokenizer]) -> None:
    path = write(tmp_path / "a.jsonl", [[Q, A], [S, Q, A], [Q, A, A]])
    report = check(path, tokenizer=tokenizers["strict"])
    assert places(report, "TemplateRefuses") == [f"{path}:2#messages[0].role", f"{path}:3#messages[2].role"]
    assert report.sound_rows == 1


def test_special_tokens_written_out_and_tools_left_out(tmp_path: Path, chatml: ChatTokenizer) -> None:
    rows = [[Q, {**A, "content": "x <|im_end|> y"}], {"messages": [Q, A], "tools": [{"name": "f"}]}]
    path = write(tmp_path / "a.jsonl", rows)
    report = check(path, tokenizer=chatml)
    assert places(report, "SpecialTokenInText") == [f"{path}:1#messages[1].content"]
    assert places(report, "ToolsIgnored") == [f"{path}:2#tools"]
    assert report.sound


def test_without_a_limit_nothing_is_cut(tmp_path: Path, chatml: ChatTokenizer) -> None:
    path = tiny_conversations(tmp_path / "a.jsonl", 7)
    report = check(path, tokenizer=chatml)
    assert report.tokens is not None
    assert (report.tokens.cut_rows, report.tokens.packed_sequences, report.tokens.max_seq_length) == (0, None, None)
    assert report.tokens.tokens == report.tokens.lengths.total == int(report.kept_lengths.sum())
    assert report.tokens.contract_sha256 == chatml.contract.sha256


def test_parameters_are_checked(tmp_path: Path, chatml: ChatTokenizer) -> None:
    path = tiny_conversations(tmp_path / "a.jsonl", 1)
    with pytest.raises(UserError, match="on_too_long is 'shrink'"):
        check(path, tokenizer=chatml, on_too_long="shrink")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="loss_on is 'user'"):
        check(path, tokenizer=chatml, loss_on="user")  # type: ignore[arg-type]


def test_the_report_is_json(tmp_path: Path, chatml: ChatTokenizer) -> None:
    path = write(tmp_path / "a.jsonl", [[Q, A], [Q, A], [Q]])
    body = json.loads(json.dumps(check(path, tokenizer=chatml, max_seq_length=64).to_dict()))
    assert (body["rows"], body["sound"], body["errors"], body["warnings"]) == (3, False, 1, 1)
    assert body["findings"][0]["faults"][0]["target"] == f"{path}:3#messages"
    assert sum(body["tokens"]["lengths"]["histogram"]["counts"]) == 2


def test_progress_ends_at_the_end(tmp_path: Path) -> None:
    class Listener(NullReporter):
        events: list[tuple[float, float | None, dict[str, Any]]] = []  # noqa: RUF012

        def progress(self, phase: str, done: float, total: float | None, *, unit: str = "", values: Any = None) -> None:
            assert (phase, unit) == ("check", "bytes")
            self.events.append((done, total, dict(values)))

    path = tiny_conversations(tmp_path / "a.jsonl", 3000)
    listener = Listener()
    check(path, reporter=listener)
    size = path.stat().st_size
    assert [event[:2] for event in listener.events][-1] == (size, size)
    assert len(listener.events) == 3
    assert 0 < listener.events[0][0] < size
    assert listener.events[0][2]["rows"] == 1024
    assert listener.events[0][2]["eta_s"] >= 0


def test_a_faulty_row_ends_a_preview(tmp_path: Path, chatml: ChatTokenizer) -> None:
    from tunesmith.chat.preview import preview_rows

    path = write(tmp_path / "a.jsonl", [[Q, A], [Q, {**A, "content": 3}]])
    assert len(preview_rows(path, chatml, 1)) == 1
    with pytest.raises(InvalidData, match="must be text"):
        preview_rows(path, chatml, 2)
