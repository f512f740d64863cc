"""Rows encoded by several processes are the rows encoded by one, in order."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from tests.support.tiny import tiny_conversations
from tunesmith.chat import ChatTokenizer, check, workers
from tunesmith.chat.prepare import prepare
from tunesmith.chat.readers import RowReader
from tunesmith.chat.rows import EncodedRow, EncodeJob
from tunesmith.chat.workers import default_processes, encode_rows
from tunesmith.errors import Failure


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tiny_conversations(tmp_path / "a.jsonl", 400)
    lines = path.read_text().splitlines()
    lines[7] = '{"messages": [{"role": "x", "content": "y"}]}'
    lines[300] = "{cut"
    path.write_text("\n".join(lines) + "\n")
    return path


def job(tokenizer: ChatTokenizer) -> EncodeJob:
    return EncodeJob.of(tokenizer, loss_on="assistant", limit=80, on_too_long="truncate_turns", keep=True)


def comparable(row: EncodedRow) -> tuple[object, ...]:
    ids = None if row.ids is None else row.ids.tolist()
    spans = None if row.spans is None else row.spans.tolist()
    return row.number, row.place, row.outcome, tuple(row.faults), row.length, row.trained, ids, spans, row.conversation


def test_several_processes_do_as_one(source: Path, chatml: ChatTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "CHUNK_ROWS", 32)
    rows = [(row, row.number) for row in RowReader(source)]
    alone = list(encode_rows(rows, job(chatml), processes=1))
    together = list(encode_rows(rows, job(chatml), processes=2))
    assert [tag for _, tag in together] == list(range(400))
    assert [comparable(row) for row, _ in together] == [comparable(row) for row, _ in alone]
    assert {row.outcome for row, _ in alone} == {"kept", "cut", "faulty"}


def test_prepare_and_check_with_processes(source: Path, tmp_path: Path, chatml: ChatTokenizer) -> None:
    one = prepare(source, chatml, tmp_path / "one", max_seq_length=60, on_faulty="drop", processes=1)
    two = prepare(source, chatml, tmp_path / "two", max_seq_length=60, on_faulty="drop", processes=2)
    np.testing.assert_array_equal(one.lengths, two.lengths)
    assert (tmp_path / "one" / "rows-00000.arrow").read_bytes() == (tmp_path / "two" / "rows-00000.arrow").read_bytes()
    found = check(source, tokenizer=chatml, max_seq_length=60, processes=2)
    assert found.tokens is not None
    assert (found.rows, found.errors, found.tokens.kept_rows) == (400, 2, two.rows)


def test_a_worker_that_dies_is_a_failure(source: Path, chatml: ChatTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "CHUNK_ROWS", 8)
    started: list[workers._Worker] = []
    monkeypatch.setattr(workers._Worker, "__init__", remembering(workers._Worker.__init__, started))
    rows = encode_rows(((row, None) for row in RowReader(source)), job(chatml), processes=2)
    next(rows)
    for worker in started:
        os.kill(worker._process.pid, signal.SIGKILL)
    with pytest.raises(Failure, match="a worker process ended with code -9"):
        list(rows)
    assert all(worker._process.poll() is not None for worker in started)


def remembering(method: object, started: list[workers._Worker]) -> object:
    def wrapped(self: workers._Worker, job: EncodeJob) -> None:
        started.append(self)
        method(self, job)  # type: ignore[operator]

    return wrapped


def test_a_reader_that_stops_ends_the_workers(
    source: Path, chatml: ChatTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[workers._Worker] = []
    monkeypatch.setattr(workers._Worker, "__init__", remembering(workers._Worker.__init__, started))
    rows = encode_rows(((row, None) for row in RowReader(source)), job(chatml), processes=2)
    next(rows)
    rows.close()  # type: ignore[attr-defined]
    assert len(started) == 2
    assert all(worker._process.returncode == 0 for worker in started)


def test_small_sources_are_done_by_one() -> None:
    assert default_processes(1000) == 1
    assert 1 <= default_processes(10**9) <= workers.MOST_PROCESSES
