"""Checking conversations: every fault with its file, line and field, and what training would see of them.

Streams: memory does not grow with the file, but for 24 bytes a row to find duplicates (on disk beyond two million
rows) and 4 bytes a row for lengths. Without a tokenizer nothing is rendered and a core checks tens of thousands of
rows a second.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tunesmith.chat.duplicates import DuplicateFinder, content_hash
from tunesmith.chat.encoded import LossOn
from tunesmith.chat.fitting import OnTooLong
from tunesmith.chat.formats import parse_row
from tunesmith.chat.messages import Conversation, Message
from tunesmith.chat.packing import pack
from tunesmith.chat.readers import Row, RowReader, find_files
from tunesmith.chat.report import CheckedFile, CheckReport, Finding, Level, TokenReport
from tunesmith.chat.rows import EncodeJob
from tunesmith.chat.statistics import Lengths
from tunesmith.chat.tokens import ChatTokenizer
from tunesmith.chat.workers import default_processes, encode_rows
from tunesmith.errors import Fault, InvalidData
from tunesmith.reporting import NullReporter, Reporter

_PROGRESS_ROWS = 1024


def check(
    paths: Path | str | Sequence[Path | str],
    *,
    tokenizer: ChatTokenizer | None = None,
    max_seq_length: int | None = None,
    on_too_long: OnTooLong = "truncate_turns",
    loss_on: LossOn = "assistant",
    limit: int = 100,
    reporter: Reporter | None = None,
    processes: int | None = None,
) -> CheckReport:
    """Check files (or folders) of conversations.

    With a ``tokenizer`` the rows are encoded as training would, which tells lengths, the tokens that carry loss and
    what the model's template refuses; with ``max_seq_length`` (in tokens) as well which rows are cut or dropped under
    ``on_too_long``. ``limit`` is how many places of each kind of fault are kept; all are counted. ``processes``
    encode at once (default: one for a small source, else one a core, at most four).

    Raises ``NotFound`` for a path that does not exist; every other fault is in the report.
    """
    files = [file for path in ([paths] if isinstance(paths, Path | str) else paths) for file in find_files(Path(path))]
    with DuplicateFinder() as duplicates:
        run = _Check(files, loss_on, limit, reporter or NullReporter(), duplicates)
        if tokenizer is None:
            for _ in run.sound_rows():
                pass
            return run.report(None, np.zeros(0, np.int32))
        job = EncodeJob.of(tokenizer, loss_on=loss_on, limit=max_seq_length, on_too_long=on_too_long, keep=False)
        count = default_processes(sum(file.stat().st_size for file in files)) if processes is None else processes
        return run.report(*run.measure(job, tokenizer.contract.sha256, count))


class _Findings:
    """Counts faults by code; keeps the first of each."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: dict[tuple[Level, str], list[Fault]] = {}
        self._counts: Counter[tuple[Level, str]] = Counter()

    def add(self, level: Level, fault: Fault) -> None:
        """Count a fault, and keep it if there are few of its kind."""
        key = (level, fault.code)
        self._counts[key] += 1
        kept = self._kept.setdefault(key, [])
        if len(kept) < self._limit:
            kept.append(fault)

    def count(self, level: Level, code: str, count: int) -> None:
        """Set a count that is known from elsewhere."""
        if count:
            self._counts[level, code] = count

    def all(self) -> tuple[Finding, ...]:
        """Errors first, the more frequent first."""
        order = sorted(self._counts.items(), key=lambda item: (item[0][0] != "error", -item[1], item[0][1]))
        return tuple(Finding(code, level, count, tuple(self._kept[level, code])) for (level, code), count in order)


class _Check:
    def __init__(
        self,
        files: Sequence[Path],
        loss_on: LossOn,
        limit: int,
        reporter: Reporter,
        duplicates: DuplicateFinder,
    ) -> None:
        self._files = files
        self._loss_on: LossOn = loss_on
        self._reporter = reporter
        self._duplicates = duplicates
        self._limit = limit
        self._findings = _Findings(limit)
        self._checked: list[CheckedFile] = []
        self._rows = 0
        self._faulty = 0
        self._formats: Counter[str] = Counter()
        self._roles: Counter[str] = Counter()
        self._notes: Counter[str] = Counter()
        self._ignored: Counter[str] = Counter()
        self._answers = 0
        self._characters = 0
        self._with_tools = 0
        self._started = time.monotonic()

    def report(self, tokens: TokenReport | None, kept_lengths: np.ndarray) -> CheckReport:
        """The report, once everything was read."""
        found = self._duplicates.result(examples=self._limit)
        for repeated, first in found.examples:
            place, earlier = self._location(repeated), self._location(first)
            self._findings.add("warning", Fault(f"the same conversation as {earlier}", place, "Duplicate"))
        self._findings.count("warning", "Duplicate", found.rows)
        return CheckReport(
            files=tuple(self._checked),
            rows=self._rows,
            sound_rows=self._rows - self._faulty,
            findings=self._findings.all(),
            formats=dict(self._formats.most_common()),
            roles=dict(self._roles.most_common()),
            answers=self._answers,
            characters=self._characters,
            with_tools=self._with_tools,
            duplicate_rows=found.rows,
            notes=dict(self._notes.most_common()),
            ignored_fields=dict(self._ignored.most_common()),
            tokens=tokens,
            seconds=round(time.monotonic() - self._started, 3),
            kept_lengths=kept_lengths,
        )

    def _location(self, place: int) -> str:
        return f"{self._files[place >> 40]}:{place & ((1 << 40) - 1)}"

    # ── reading

    def sound_rows(self) -> Iterator[tuple[Row, None]]:
        """The rows that have no error as such; counts everything on the way."""
        total = sum(file.stat().st_size for file in self._files)
        done = 0
        for number, file in enumerate(self._files):
            try:
                reader = RowReader(file)
            except InvalidData as error:
                self._findings.add("error", Fault(error.message, error.target, "InvalidFile", error.way_out))
                self._checked.append(CheckedFile(str(file), "", file.stat().st_size, 0))
                done += file.stat().st_size
                continue
            before = self._rows
            for row in reader:
                self._rows += 1
                if self._sound(row, number << 40):
                    yield row, None
                if not self._rows % _PROGRESS_ROWS:
                    self._progress(done + reader.bytes_read, total)
            if self._rows == before:
                self._findings.add(
                    "error", Fault("no rows in the file", str(file), "InvalidFile", "give a file with rows")
                )
            done += reader.total_bytes
            self._checked.append(CheckedFile(str(file), reader.format, reader.total_bytes, self._rows - before))
        self._progress(total, total)

    def _sound(self, row: Row, file: int) -> bool:
        parsed = parse_row(row)
        if parsed.notes:
            self._notes.update(parsed.notes)
        if parsed.ignored:
            self._ignored.update(parsed.ignored)
        if parsed.format is not None:
            self._formats[parsed.format] += 1
        conversation = parsed.conversation
        if conversation is None:
            self._error(parsed.faults)
            return False
        messages = conversation.messages
        roles = [message.role for message in messages]
        self._roles.update(roles)
        self._characters += sum([len(message.content) for message in messages])
        if conversation.tools or "tool" in roles:
            self._with_tools += 1
        self._duplicates.add(content_hash(conversation), file | row.line)
        if (answers := self._trained(messages, roles)) == 0:
            self._error([_nothing_to_learn(conversation, roles)])
            return False
        self._answers += answers
        for fault in order_faults(conversation):
            self._findings.add("warning", fault)
        return True

    def _trained(self, messages: Sequence[Message], roles: Sequence[str]) -> int:
        if self._loss_on == "all":
            return len(messages)
        answers = [message for message in messages if message.role == "assistant"]
        if self._loss_on == "last_assistant":
            return sum(
                message.train is True or (message.train is None and message is answers[-1]) for message in answers
            )
        return sum([message.train is not False for message in answers])

    def _error(self, faults: Sequence[Fault]) -> None:
        self._faulty += 1
        for fault in faults:
            self._findings.add("error", fault)

    def _progress(self, done: int, total: int) -> None:
        seconds = max(1e-9, time.monotonic() - self._started)
        values: dict[str, float] = {"rows": self._rows, "rows_per_second": round(self._rows / seconds, 1)}
        if 0 < done < total:
            values["eta_s"] = round(seconds * (total - done) / done, 1)
        self._reporter.progress("check", done, total, unit="bytes", values=values)

    def measure(self, job: EncodeJob, contract_sha256: str, processes: int) -> tuple[TokenReport, np.ndarray]:
        """Encode the sound rows as training would; the report and the lengths of the rows that would be kept."""
        before: list[int] = []
        kept: list[int] = []
        outcomes: Counter[str] = Counter()
        trained = ends_trained = marked = removed = 0
        for row, _ in encode_rows(self.sound_rows(), job, processes=processes):
            if row.faults:
                self._error(row.faults)
            for fault in row.warnings:
                self._findings.add("warning", fault)
            if row.outcome == "refused":
                continue
            before.append(row.length_before)
            outcomes[row.outcome] += 1
            if row.outcome in ("kept", "cut"):
                kept.append(row.length)
                trained += row.trained
                ends_trained += row.ends_trained
                marked += row.marked
                removed += row.exchanges_removed
            elif row.outcome == "no_trained_tokens":
                self._error([Fault("no token carries loss", row.place, "NoTrainedTokens", "leave the row out")])
        lengths = np.array(kept, dtype=np.int32)
        report = TokenReport(
            lengths=Lengths.of(np.array(before, dtype=np.int32)),
            contract_sha256=contract_sha256,
            loss_on=job.loss_on,
            on_too_long=job.on_too_long,
            max_seq_length=job.limit,
            kept_rows=len(kept),
            cut_rows=outcomes["cut"],
            exchanges_removed=removed,
            dropped_too_long=outcomes["too_long"],
            dropped_without_loss=outcomes["no_trained_tokens"],
            tokens=int(lengths.sum(dtype=np.int64)),
            trained_tokens=trained,
            packed_sequences=None if job.limit is None else len(pack(lengths, job.limit, seed=0)),
            ends_trained=ends_trained,
            marked=marked,
        )
        return report, lengths


# ── turns


def _nothing_to_learn(conversation: Conversation, roles: Sequence[str]) -> Fault:
    if "assistant" not in roles:
        return Fault(
            "no message of the assistant: there is nothing to learn",
            f"{conversation.source}#messages",
            "NoAssistant",
            "add the answer, or leave the row out",
        )
    return Fault(
        "every message of the assistant is left out of the loss (train: false, weight: 0)",
        f"{conversation.source}#messages",
        "NoTrainedTokens",
        "set weight 1 on an answer, or leave the row out",
    )


def order_faults(conversation: Conversation) -> list[Fault]:
    """What is odd about who speaks after whom, and turns that say nothing. Trainable, but seldom meant."""
    faults: list[Fault] = []
    previous: str | None = None
    called = False
    messages = conversation.messages
    for index, message in enumerate(messages):
        role = message.role
        odd: tuple[str, str, str] | None = None
        if role == previous and role != "tool":
            odd = ("SameRoleTwice", f"{role} speaks twice in a row", "join the two messages")
        elif role == "system":
            if index:
                odd = ("SystemNotFirst", "a system message in the middle", "put it first")
        elif role == "assistant":
            if previous in (None, "system"):
                odd = ("AnswerWithoutQuestion", "the assistant speaks before the user", "begin with a user message")
        elif role == "tool":
            if not called:
                odd = (
                    "ResultWithoutCall",
                    "a tool's result without a call before it",
                    "add the assistant's tool_calls",
                )
        elif called and previous == "assistant":
            odd = ("CallWithoutResult", "the tool call before this has no result", "add the tool message")
        if odd is not None:
            code, text, way_out = odd
            faults.append(Fault(text, f"{conversation.source}#messages[{index}].role", code, way_out))
        if not message.content.strip() and not message.tool_calls and role != "tool":
            place = f"{conversation.source}#messages[{index}].content"
            faults.append(Fault(f"the {role} says nothing", place, "EmptyTurn", "leave the row or the turn out"))
        called = bool(message.tool_calls) or (called and role == "tool")
        previous = role
    if previous != "assistant":
        place = f"{conversation.source}#messages[{len(messages) - 1}].role"
        text = f"the last message is the {previous}'s and has no answer; nothing is learnt from it"
        faults.append(Fault(text, place, "EndsWithoutAnswer", "add the answer, or leave the message out"))
    return faults
