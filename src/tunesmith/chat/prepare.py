"""From conversation files to a prepared data set: render, tokenize, find the answers, cut what is too long, write
Arrow.

Streams in bounded memory, on several cores where the source is large enough to pay for it. Finished parts are kept in
a folder beside the output, under a key of everything they depend on: a run that was cut goes on where it was, and a
finished output with the same key is taken as it is. The output appears whole, by a rename.

Nothing is silent: every row that is dropped or cut is counted, its place kept (the first ones), and said through the
reporter.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import tokenizers

from tunesmith.chat.encoded import LossOn
from tunesmith.chat.fitting import OnTooLong, one_of
from tunesmith.chat.messages import Conversation
from tunesmith.chat.notices import nothing_left, say
from tunesmith.chat.parts import Part, disk_error, move, open_part, read_state, write_json, write_part
from tunesmith.chat.prepared import FORMAT_VERSION, REPORT_FILE, Count, Prepared, PrepareReport, SourceFile
from tunesmith.chat.preview import MaskPreview, mask_preview
from tunesmith.chat.readers import Row, RowReader, find_files
from tunesmith.chat.rows import EncodedRow, EncodeJob
from tunesmith.chat.statistics import Lengths
from tunesmith.chat.tokens import ChatTokenizer
from tunesmith.chat.workers import default_processes, encode_rows
from tunesmith.errors import Fault, InvalidData, UserError, ValidationFailed
from tunesmith.reporting import NullReporter, Reporter

OnFaulty = Literal["fail", "drop"]
"""Rows that are faulty: stop and name them, or leave them out, counted."""

PLACES_KEPT = 50
FAULTS_SHOWN = 20
PREVIEW_ROWS = 3
PREVIEW_TOKENS = 400


def prepare(
    source: Path | Sequence[Path],
    tokenizer: ChatTokenizer,
    output: Path,
    *,
    max_seq_length: int = -1,
    context_length: int | None = None,
    on_too_long: OnTooLong = "truncate_turns",
    on_faulty: OnFaulty = "fail",
    loss_on: LossOn = "assistant",
    reporter: Reporter | None = None,
    work: Path | None = None,
    processes: int | None = None,
) -> Prepared:
    """Prepare the conversations of ``source`` (files or folders) for a model; write them to ``output``, a new folder.

    ``tokenizer`` is the model's. ``max_seq_length`` is in tokens; -1 takes ``context_length``, the model's. ``work``
    is the folder where unfinished parts are kept (default: that of ``output``), so that a second run with the same
    inputs goes on. ``processes`` encode at once (default: one for a small source, else one a core, at most four).

    Raises ``NotFound`` for a missing path, ``ValidationFailed`` for faulty rows (unless ``on_faulty="drop"``),
    ``InvalidData`` for a row that is too long with ``on_too_long="fail"`` or when no row is left, ``UserError`` for a
    parameter, ``DiskFull``.
    """
    reporter = NullReporter() if reporter is None else reporter
    limit = _limit(max_seq_length, context_length)
    one_of("on_faulty", on_faulty, get_args(OnFaulty))
    today = tokenizer.today or datetime.now()
    # One day for the whole run, for templates that print it.
    tokenizer = ChatTokenizer(tokenizer.tokenizer_json, tokenizer.contract, today=today)
    job = EncodeJob.of(tokenizer, loss_on=loss_on, limit=limit, on_too_long=on_too_long, keep=True)
    files = [file for path in ([source] if isinstance(source, Path) else source) for file in find_files(Path(path))]
    sources = tuple(_fingerprint(file) for file in files)
    settings = {"max_seq_length": limit, "on_too_long": on_too_long, "on_faulty": on_faulty, "loss_on": loss_on}
    key = _key(sources, tokenizer, settings, today)

    if (output / REPORT_FILE).is_file():
        made = Prepared.open(output)
        if made.report.key == key:
            reporter.log(f"{output.name}: prepared before from the same data, taken as it is")
            return made
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(
            "the output folder holds something else",
            target=str(output),
            way_out="give a new folder, or delete this one",
        )
    aside = (work or output.parent) / f".{output.name}.{key[:16]}.unfinished"
    aside.mkdir(parents=True, exist_ok=True)
    count = default_processes(sum(source.bytes for source in sources)) if processes is None else processes
    run = _Run(tokenizer, job, aside, on_faulty, count, reporter)
    try:
        run.process(files)
        report = run.report(sources, key)
        if report.rows_kept == 0:
            raise nothing_left(report, files)
        write_json(aside / REPORT_FILE, report.to_dict())
        for state in aside.glob("*.state.json"):
            state.unlink()
        move(aside, output)
    except UserError:
        shutil.rmtree(aside, ignore_errors=True)  # other data will have another key
        raise
    except OSError as error:
        raise disk_error(error, aside) from error
    say(report, reporter)
    return Prepared.open(output)


def _limit(max_seq_length: int, context_length: int | None) -> int:
    if max_seq_length == -1:
        if context_length is None:
            raise UserError(
                "max_seq_length is -1 and the model's context length is not known",
                target="max_seq_length",
                way_out="give max_seq_length in tokens",
            )
        return context_length
    if max_seq_length < 1:
        raise UserError(
            f"max_seq_length is {max_seq_length}",
            target="max_seq_length",
            way_out="-1 (the model's context length) or a length in tokens",
        )
    if context_length is not None and max_seq_length > context_length:
        raise UserError(
            f"max_seq_length is {max_seq_length:,}, the model's context only {context_length:,} tokens",
            target="max_seq_length",
            way_out=f"at most {context_length}, or -1 for just that",
        )
    return max_seq_length


def _fingerprint(path: Path) -> SourceFile:
    digest = hashlib.sha256()
    size = 0
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
                size += len(block)
    except OSError as error:
        raise InvalidData(f"cannot read the file: {error.strerror}", target=str(path)) from error
    return SourceFile(str(path), size, digest.hexdigest())


def _key(sources: Sequence[SourceFile], tokenizer: ChatTokenizer, settings: dict[str, Any], today: datetime) -> str:
    """Hash of everything the rows depend on."""
    contract = tokenizer.contract
    dated = "strftime_now" in contract.template + (contract.tool_template or "")
    parts = {
        **settings,
        "format": FORMAT_VERSION,
        "sources": [source.sha256 for source in sources],
        "contract": contract.sha256,
        "tokenizers": tokenizers.__version__,
        "day": str(today.date()) if dated else "",
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(slots=True)
class _Tally:
    """Everything that is counted. It is stored with each part, so that a resumed run counts on."""

    rows_read: int = 0
    rows_kept: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    exchanges_removed: int = 0
    ends_trained: int = 0
    marked: int = 0
    tools_ignored: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    places: dict[str, list[str]] = field(default_factory=dict)
    ignored: dict[str, int] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)
    previews: list[dict[str, Any]] = field(default_factory=list)

    def happened(self, what: str, place: str) -> None:
        """Count something at a place."""
        self.counts[what] = self.counts.get(what, 0) + 1
        places = self.places.setdefault(what, [])
        if len(places) < PLACES_KEPT:
            places.append(place)

    def count(self, what: str) -> Count:
        """The count with its places."""
        return Count(self.counts.get(what, 0), tuple(self.places.get(what, ())))


@dataclass(frozen=True, slots=True)
class _After:
    """Where to go on after a row: its file and how many rows of it were read; and how many bytes that were."""

    file: int
    rows: int
    bytes_read: int


class _Run:
    def __init__(
        self,
        tokenizer: ChatTokenizer,
        job: EncodeJob,
        folder: Path,
        on_faulty: OnFaulty,
        processes: int,
        reporter: Reporter,
    ) -> None:
        self._tokenizer = tokenizer
        self._job = job
        self._folder = folder
        self._on_faulty = on_faulty
        self._processes = processes
        self._reporter = reporter
        self._tally = _Tally()
        self._faults: list[Fault] = []
        self._failed = False
        self._lengths: list[np.ndarray] = []
        self._part = Part()
        self._parts = 0
        self._resumed_rows = 0
        self._started = time.monotonic()

    def process(self, files: Sequence[Path]) -> None:
        """Read and encode everything that no earlier run has written."""
        begin = self._resume()
        total = sum(file.stat().st_size for file in files)
        after = _After(*begin, 0)
        for row, after in encode_rows(self._rows(files, begin), self._job, processes=self._processes):
            self._take(row)
            if self._part.full:
                self._flush(after)
            if not self._tally.rows_read % 64:
                share = after.bytes_read / max(1, total)
                self._reporter.progress("prepare", after.bytes_read, total, unit="bytes", values=self._values(share))
        if self._failed:
            count = self._tally.counts["faulty"]
            raise ValidationFailed(
                f"{count:,} faulty rows; the first:",
                target=", ".join(str(file) for file in files),
                details=self._faults,
                way_out="correct them (`tunesmith data check FILE` lists every fault), "
                "or leave them out with on_faulty=drop",
            )
        self._flush(after)
        self._reporter.progress("prepare", total, total, unit="bytes", values=self._values(1.0))

    def _rows(self, files: Sequence[Path], begin: tuple[int, int]) -> Iterator[tuple[Row, _After]]:
        done = 0
        for file_number, file in enumerate(files):
            reader = RowReader(file)
            for row_number, row in enumerate(reader, 1):
                if (file_number, row_number) > begin:
                    yield row, _After(file_number, row_number, done + reader.bytes_read)
            done += reader.total_bytes

    def _take(self, row: EncodedRow) -> None:
        tally = self._tally
        tally.rows_read += 1
        for name in row.ignored:
            tally.ignored[name] = tally.ignored.get(name, 0) + 1
        for note in row.notes:
            tally.notes[note] = tally.notes.get(note, 0) + 1
        tally.tools_ignored += row.tools_ignored
        if row.outcome in ("faulty", "refused"):
            tally.happened("faulty", row.place)
            if self._on_faulty == "fail":
                self._failed = True
                self._faults += row.faults[: FAULTS_SHOWN - len(self._faults)]
            return
        if row.faults:  # too long, and long rows are to fail
            fault = row.faults[0]
            raise InvalidData(fault.message, target=fault.target, way_out=fault.way_out)
        if row.outcome != "kept":
            tally.happened(row.outcome, row.place)
        if row.outcome in ("kept", "cut") and not self._failed:
            self._keep(row)

    def _keep(self, row: EncodedRow) -> None:
        tally = self._tally
        tally.rows_kept += 1
        tally.tokens += row.length
        tally.trained_tokens += row.trained
        tally.exchanges_removed += row.exchanges_removed
        tally.ends_trained += row.ends_trained
        tally.marked += row.marked
        if len(tally.previews) < PREVIEW_ROWS:
            conversation = Conversation.from_json(row.conversation, source=row.place)
            encoded = self._tokenizer.encode(conversation, loss_on=self._job.loss_on)
            tally.previews.append(mask_preview(self._tokenizer, conversation, encoded, limit=PREVIEW_TOKENS).to_dict())
        self._part.add(row)

    def _flush(self, after: _After) -> None:
        if self._part.rows:
            self._lengths.append(self._part.lengths())
            write_part(self._folder, self._parts, self._part)
            state = {"after": [after.file, after.rows], "tally": asdict(self._tally)}
            write_json(self._folder / f"{self._parts:05d}.state.json", state)
            self._part = Part()
            self._parts += 1

    def _resume(self) -> tuple[int, int]:
        """Take over whole parts of an earlier run; returns the file and row after which to go on."""
        after = (0, 0)
        while (state := read_state(self._folder / f"{self._parts:05d}.state.json")) is not None:
            self._lengths.append(open_part(self._folder, self._parts).lengths())
            after = (state["after"][0], state["after"][1])
            self._tally = _Tally(**state["tally"])
            self._parts += 1
        for left in self._folder.iterdir():  # what was being written when the run was cut
            number = left.name.split(".")[0].rsplit("-", 1)[-1]
            if not number.isdigit() or int(number) >= self._parts:
                left.unlink()
        self._resumed_rows = self._tally.rows_read
        if self._parts:
            self._reporter.log(f"going on after {self._resumed_rows:,} rows that an earlier run has prepared")
        return after

    def _values(self, share: float) -> dict[str, Any]:
        seconds = max(1e-9, time.monotonic() - self._started)
        rows = self._tally.rows_read
        values: dict[str, Any] = {
            "rows": rows,
            "rows_per_second": round((rows - self._resumed_rows) / seconds, 1),
            "tokens": self._tally.tokens,
        }
        if 0 < share < 1 and rows:
            done_now = share * (rows - self._resumed_rows) / rows
            values["eta_s"] = round(seconds * (1 - share) / max(1e-9, done_now), 1)
        return values

    def report(self, sources: tuple[SourceFile, ...], key: str) -> PrepareReport:
        """The report of everything, resumed parts included."""
        tally, job = self._tally, self._job
        assert job.limit is not None
        reasons = ("too_long", "no_trained_tokens", "faulty")
        return PrepareReport(
            rows_read=tally.rows_read,
            rows_kept=tally.rows_kept,
            dropped={reason: tally.count(reason) for reason in reasons if tally.counts.get(reason)},
            cut=tally.count("cut"),
            exchanges_removed=tally.exchanges_removed,
            tokens=tally.tokens,
            trained_tokens=tally.trained_tokens,
            lengths=Lengths.of(np.concatenate(self._lengths) if self._lengths else np.zeros(0, np.int32)),
            ends_trained=tally.ends_trained,
            marked=tally.marked,
            surplus_prompt=self._tokenizer.contract.surplus_prompt,
            tools_ignored=tally.tools_ignored,
            ignored_fields=dict(Counter(tally.ignored).most_common()),
            notes=tally.notes,
            max_seq_length=job.limit,
            on_too_long=job.on_too_long,
            loss_on=job.loss_on,
            contract_sha256=self._tokenizer.contract.sha256,
            sources=sources,
            key=key,
            rendered_on=str(job.today.date()),
            seconds=round(time.monotonic() - self._started, 3),
            preview=tuple(MaskPreview.from_dict(part) for part in tally.previews),
        )
