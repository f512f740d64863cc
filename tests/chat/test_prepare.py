"""Prepared rows equal the conversations encoded one by one; what is left out is counted; a run that was cut goes on."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.chat.strategies import conversations
from tests.support.tiny import tiny_conversations
from tunesmith.chat import ChatTokenizer, parts
from tunesmith.chat import prepare as prepare_module
from tunesmith.chat.encoded import LossOn
from tunesmith.chat.messages import Conversation
from tunesmith.chat.prepare import prepare
from tunesmith.chat.prepared import REPORT_FILE, Prepared
from tunesmith.errors import DiskFull, InvalidData, NotFound, UserError, ValidationFailed
from tunesmith.reporting import NullReporter

Q, A = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


class Listener(NullReporter):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.notices: dict[str, tuple[str, int | None]] = {}
        self.logs: list[str] = []
        self.progressed: list[tuple[float, float | None, dict[str, Any]]] = []

    def notice(self, code: str, message: str, *, level: str = "warning", count: int | None = None) -> None:
        self.notices[code] = (message, count)

    def log(self, message: str) -> None:
        self.logs.append(message)

    def progress(self, phase: str, done: float, total: float | None, *, unit: str = "", values: Any = None) -> None:
        self.progressed.append((done, total, dict(values)))


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a prepared folder, but for the seconds in its report."""
    files = {file.name: file.read_bytes() for file in sorted(folder.iterdir())}
    report = json.loads(files.pop(REPORT_FILE))
    report["seconds"] = 0
    return {**files, REPORT_FILE: json.dumps(report).encode()}


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(conversations(flags=True), min_size=1, max_size=8),
    loss_on=st.sampled_from(["assistant", "last_assistant", "all"]),
)
def test_rows_equal_conversations_encoded_one_by_one(
    rows: list[Conversation], loss_on: LossOn, tmp_path_factory: pytest.TempPathFactory, chatml: ChatTokenizer
) -> None:
    folder = tmp_path_factory.mktemp("prepare")
    path = folder / "a.jsonl"
    path.write_text("".join(row.to_json() + "\n" for row in rows))
    expected = [(n, row, chatml.encode(row, loss_on=loss_on)) for n, row in enumerate(rows)]
    expected = [item for item in expected if item[2].trained_count]
    if not expected:
        with pytest.raises(InvalidData, match="no conversation is left"):
            prepare(path, chatml, folder / "out", max_seq_length=4096, loss_on=loss_on)
        return
    made = prepare(path, chatml, folder / "out", max_seq_length=4096, loss_on=loss_on)
    assert made.rows == len(expected)
    assert made.lengths.dtype == np.int32
    assert made.lengths.tolist() == [len(encoded.ids) for _, _, encoded in expected]
    assert made.trained_counts().tolist() == [encoded.trained_count for _, _, encoded in expected]
    for row, (number, _, encoded) in enumerate(expected):
        ids, trained = made.row(row)
        assert (ids.dtype, trained.dtype) == (np.dtype(np.int32), np.dtype(np.bool_))
        assert (ids.tolist(), trained.tolist()) == (encoded.ids, encoded.trained)
        assert made.source_row(row) == number
        assert made.location(row) == f"{path}:{number + 1}"
    kept = [conversation.messages for _, conversation, _ in expected]
    assert [conversation.messages for conversation in made.conversations()] == kept


def test_the_report_and_its_preview(tmp_path: Path, chatml: ChatTokenizer) -> None:
    path = tiny_conversations(tmp_path / "a.jsonl", 10)
    made = prepare(path, chatml, tmp_path / "out", max_seq_length=512)
    report = made.report
    assert (report.rows_read, report.rows_kept, report.dropped, report.cut.count) == (10, 10, {}, 0)
    assert report.tokens == int(made.lengths.sum())
    assert report.trained_tokens == int(made.trained_counts().sum())
    assert report.lengths.longest == int(made.lengths.max())
    assert report.ends_trained == 10
    assert report.contract_sha256 == chatml.contract.sha256
    assert report.sources[0].bytes == path.stat().st_size
    assert len(report.preview) == 3
    first = report.preview[0]
    assert [token.id for token in first.tokens] == made.row(0)[0].tolist()
    assert [token.trained for token in first.tokens] == made.row(0)[1].tolist()
    assert "".join(token.text for token in first.tokens) == chatml.render(next(iter(made.conversations())))
    again = Prepared.open(tmp_path / "out")
    assert again.report == report
    assert len(again) == 10
    with pytest.raises(IndexError):
        again.row(10)


# ── rows that are too long

LONG = [{"role": role, "content": f"{n} word" * 4} for n in range(5) for role in ("user", "assistant")]
TOO_LONG = [Q, {**A, "content": "word " * 300}]
SYSTEM = {"role": "system", "content": "s"}


def test_old_turns_go_first_and_answers_stay_whole(tmp_path: Path, chatml: ChatTokenizer) -> None:
    path = write(tmp_path / "a.jsonl", [[Q, A], [SYSTEM, *LONG], TOO_LONG])
    listener = Listener()
    made = prepare(path, chatml, tmp_path / "out", max_seq_length=150, reporter=listener)
    assert made.report.cut.places == (f"{path}:2",)
    assert made.report.dropped["too_long"].places == (f"{path}:3",)
    _, cut = made.conversations()
    lost = made.report.exchanges_removed
    assert [m.to_openai() for m in cut.messages] == [SYSTEM, *LONG[2 * lost :]]
    assert len(chatml.encode(cut).ids) <= 150
    longer = Conversation.from_json(json.dumps({"messages": [SYSTEM, *LONG[2 * (lost - 1) :]]}))
    assert len(chatml.encode(longer).ids) > 150
    assert listener.notices["RowsTooLong"][1] == 1
    assert "even with their newest turn alone" in listener.notices["RowsTooLong"][0]
    assert listener.notices["RowsCut"] == (
        f"1 of 3 conversations were shortened to 150 tokens: {lost:,} old exchanges left out",
        1,
    )


def test_drop_and_fail(tmp_path: Path, chatml: ChatTokenizer) -> None:
    path = write(tmp_path / "a.jsonl", [[Q, A], LONG])
    made = prepare(path, chatml, tmp_path / "drop", max_seq_length=150, on_too_long="drop")
    assert (made.rows, made.report.dropped["too_long"].count) == (1, 1)
    with pytest.raises(InvalidData) as caught:
        prepare(path, chatml, tmp_path / "fail", max_seq_length=150, on_too_long="fail")
    assert caught.value.target == f"{path}:2"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.jsonl", "drop"]


def test_a_cut_that_loses_every_answer_is_counted(tmp_path: Path, chatml: ChatTokenizer) -> None:
    messages = [*LONG[:-1], {**LONG[-1], "weight": 0}]
    path = write(tmp_path / "a.jsonl", [[Q, A], messages])
    limit = len(chatml.encode(Conversation.from_json(json.dumps({"messages": messages[-2:]}))).ids)
    listener = Listener()
    made = prepare(path, chatml, tmp_path / "out", max_seq_length=limit, reporter=listener)
    assert made.rows == 1
    assert made.report.dropped["no_trained_tokens"].places == (f"{path}:2",)
    assert listener.notices["RowsWithoutLoss"][1] == 1


def test_the_context_is_the_length(tmp_path: Path, chatml: ChatTokenizer) -> None:
    path = write(tmp_path / "a.jsonl", [[Q, A], LONG])
    made = prepare(path, chatml, tmp_path / "out", context_length=150, on_too_long="drop")
    assert made.report.max_seq_length == 150


@pytest.mark.parametrize(
    ("given_settings", "message"),
    [
        ({"max_seq_length": -1}, "context length is not known"),
        ({"max_seq_length": 0}, "max_seq_length is 0"),
        ({"max_seq_length": 900, "context_length": 512}, "context only 512 tokens"),
        ({"max_seq_length": 10, "on_too_long": "shrink"}, "on_too_long is 'shrink'"),
        ({"max_seq_length": 10, "loss_on": "user"}, "loss_on is 'user'"),
        ({"max_seq_length": 10, "on_faulty": "skip"}, "on_faulty is 'skip'"),
    ],
)
def test_parameters_are_checked(
    given_settings: dict[str, Any], message: str, tmp_path: Path, chatml: ChatTokenizer
) -> None:
    path = write(tmp_path / "a.jsonl", [[Q, A]])
    with pytest.raises(UserError, match=message):
        prepare(path, chatml, tmp_path / "out", **given_settings)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.jsonl"]


# ── faulty rows


def test_faulty_rows_are_all_counted_and_leave_nothing_behind(
    tmp_path: Path, tokenizers: dict[str, ChatTokenizer]
) -> None:
    path = write(
        tmp_path / "a.jsonl",
        [[Q, A], [Q, {**A, "content": 1}], [Q, A], [SYSTEM, Q, A], [Q, {"role": "x", "content": "y"}]],
    )
    with pytest.raises(ValidationFailed) as caught:
        prepare(path, tokenizers["strict"], tmp_path / "out", max_seq_length=100)
    assert caught.value.message == "3 faulty rows; the first:"
    assert [fault.target for fault in caught.value.details] == [
        f"{path}:2#messages[1].content",
        f"{path}:4#messages[0].role",
        f"{path}:5#messages[1].role",
    ]
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.jsonl"]


def test_faulty_rows_may_be_left_out(tmp_path: Path, chatml: ChatTokenizer) -> None:
    path = write(tmp_path / "a.jsonl", [[Q, A], [Q, {**A, "content": 1}], [Q]])
    listener = Listener()
    made = prepare(path, chatml, tmp_path / "out", max_seq_length=100, on_faulty="drop", reporter=listener)
    assert (made.rows, made.report.rows_read) == (1, 3)
    assert {reason: count.places for reason, count in made.report.dropped.items()} == {
        "faulty": (f"{path}:2",),
        "no_trained_tokens": (f"{path}:3",),
    }
    assert listener.notices["RowsFaulty"][1] == 1


def test_no_row_left(tmp_path: Path, chatml: ChatTokenizer) -> None:
    path = write(tmp_path / "a.jsonl", [[Q], TOO_LONG])
    with pytest.raises(
        InvalidData, match=r"no conversation is left to train on \(2 read: 1 too long, 1 no trained tokens\)"
    ):
        prepare(path, chatml, tmp_path / "out", max_seq_length=100)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.jsonl"]


def test_a_missing_source(tmp_path: Path, chatml: ChatTokenizer) -> None:
    with pytest.raises(NotFound):
        prepare(tmp_path / "nowhere.jsonl", chatml, tmp_path / "out", max_seq_length=100)


def test_what_is_said(tmp_path: Path, tokenizers: dict[str, ChatTokenizer]) -> None:
    rows = [
        {"id": 1, "messages": [Q, A, Q, A], "tools": [{"name": "f", "description": None}]},
        {"id": 2, "messages": [Q, A]},
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    listener = Listener()
    made = prepare(path, tokenizers["late"], tmp_path / "out", max_seq_length=200, reporter=listener)
    assert (made.report.marked, made.report.tools_ignored) == (1, 1)
    assert set(listener.notices) == {"TemplateNotPrefixStable", "ToolsIgnored", "FieldsIgnored", "NullsDropped"}
    assert "id (2)" in listener.notices["FieldsIgnored"][0]
    assert listener.progressed[-1][:2] == (path.stat().st_size, path.stat().st_size)


# ── going on, and taking what is there


def test_what_was_prepared_is_taken_as_it_is(tmp_path: Path, chatml: ChatTokenizer) -> None:
    path = tiny_conversations(tmp_path / "a.jsonl", 5)
    prepare(path, chatml, tmp_path / "out", max_seq_length=100)
    before = (tmp_path / "out" / REPORT_FILE).stat().st_mtime_ns
    listener = Listener()
    prepare(path, chatml, tmp_path / "out", max_seq_length=100, reporter=listener)
    assert listener.logs == ["out: prepared before from the same data, taken as it is"]
    assert (tmp_path / "out" / REPORT_FILE).stat().st_mtime_ns == before
    with pytest.raises(UserError, match="holds something else"):
        prepare(path, chatml, tmp_path / "out", max_seq_length=99)


class PowerCut(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.mark.parametrize("cut_at", [1, 2, 5])
def test_a_run_that_was_cut_goes_on(
    cut_at: int, tmp_path: Path, chatml: ChatTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "PART_ROWS", 7)
    rows: list[Any] = [[{**Q, "content": str(n)}, A] for n in range(60)]
    rows[3], rows[20], rows[41] = [Q], TOO_LONG, LONG
    first = write(tmp_path / "a.jsonl", rows[:25])
    second = write(tmp_path / "b.jsonl", rows[25:])
    settings: dict[str, Any] = {"max_seq_length": 150, "work": tmp_path}
    straight = prepare([first, second], chatml, tmp_path / "straight", **settings)

    written = parts.write_part
    calls = 0

    def cut(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        written(*arguments)
        if calls == cut_at:  # the part is there, its state is not
            raise PowerCut

    monkeypatch.setattr(prepare_module, "write_part", cut)
    with pytest.raises(PowerCut):
        prepare([first, second], chatml, tmp_path / "cut", **settings)
    assert not (tmp_path / "cut").exists()
    monkeypatch.setattr(prepare_module, "write_part", written)
    listener = Listener()
    resumed = prepare([first, second], chatml, tmp_path / "cut", reporter=listener, **settings)
    assert bool(listener.logs) == (cut_at > 1)
    assert resumed.rows == straight.rows == 58
    assert contents(tmp_path / "cut") == contents(tmp_path / "straight")
    assert not list(tmp_path.glob(".*"))


def test_a_full_disk_says_so_and_keeps_what_is_done(
    tmp_path: Path, chatml: ChatTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "PART_ROWS", 3)
    path = tiny_conversations(tmp_path / "a.jsonl", 10)
    written = parts.write_part

    def full(folder: Path, number: int, part: parts.Part) -> None:
        if number == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        written(folder, number, part)

    monkeypatch.setattr(prepare_module, "write_part", full)
    with pytest.raises(DiskFull, match="no room") as caught:
        prepare(path, chatml, tmp_path / "out", max_seq_length=100)
    assert caught.value.extra["free"] > 0
    monkeypatch.setattr(prepare_module, "write_part", written)
    listener = Listener()
    assert prepare(path, chatml, tmp_path / "out", max_seq_length=100, reporter=listener).rows == 10
    assert listener.logs == ["going on after 6 rows that an earlier run has prepared"]


def test_other_settings_have_another_key(tmp_path: Path, tokenizers: dict[str, ChatTokenizer]) -> None:
    path = tiny_conversations(tmp_path / "a.jsonl", 3)
    given_settings: list[tuple[str, dict[str, Any]]] = [
        ("chatml", {"max_seq_length": 100}),
        ("chatml", {"max_seq_length": 101}),
        ("phi3", {"max_seq_length": 100}),
        ("chatml", {"max_seq_length": 100, "loss_on": "all"}),
        ("chatml", {"max_seq_length": 100, "on_too_long": "drop"}),
    ]
    keys = {
        prepare(path, tokenizers[name], tmp_path / str(n), **more).report.key
        for n, (name, more) in enumerate(given_settings)
    }
    assert len(keys) == 5


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (lambda folder: (folder / REPORT_FILE).unlink(), NotFound),
        (lambda folder: (folder / REPORT_FILE).write_text("{"), InvalidData),
        (lambda folder: (folder / REPORT_FILE).write_text('{"format_version": 99}'), InvalidData),
        (lambda folder: (folder / "rows-00000.arrow").unlink(), InvalidData),
        (lambda folder: (folder / "rows-00000.arrow").write_bytes(b"ARROW1 and no more"), InvalidData),
    ],
)
def test_damaged_folders(damage: Any, error: type[Exception], tmp_path: Path, chatml: ChatTokenizer) -> None:
    prepare(tiny_conversations(tmp_path / "a.jsonl", 3), chatml, tmp_path / "out", max_seq_length=100)
    damage(tmp_path / "out")
    with pytest.raises(error):
        Prepared.open(tmp_path / "out")


def test_templates_that_print_the_date_print_one_day(tmp_path: Path, folders: dict[str, Path]) -> None:
    dated = "{{ '<|im_start|>system\n' + strftime_now('%Y-%m-%d') + '<|im_end|>\n' }}"
    template = dated + (folders["chatml"] / "chat_template.jinja").read_text()
    tokenizer = ChatTokenizer.build(folders["chatml"], template=template)
    made = prepare(tiny_conversations(tmp_path / "a.jsonl", 3), tokenizer, tmp_path / "out", max_seq_length=200)
    for row in range(3):
        assert made.report.rendered_on in tokenizer.decode(made.row(row)[0].tolist())
