"""From conversation files to a prepared data set: render, tokenize, find the answers, cut what is too long, write
Arrow files.

Streams in bounded memory. While ``tokenizers`` encodes one chunk (in Rust, on every core), this thread reads and
renders the next. Finished parts are kept in a folder beside the output under a key of everything they depend on, so a
run that was cut goes on where it was, and a finished output with the same key is taken as it is. The output appears
whole, by a rename.

Nothing is silent: every row that is dropped or cut is counted, its place kept (the first ones), and said through the
reporter.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from tunesmith.chat.encoded import Encoded, LossOn, Rendered
from tunesmith.chat.formats import parse_row
from tunesmith.chat.messages import Conversation
from tunesmith.chat.notices import nothing_left, say
from tunesmith.chat.parts import Part, disk_error, move, read_state, rows_name, write_json, write_part
from tunesmith.chat.prepared import (
    FORMAT_VERSION,
    REPORT_FILE,
    Count,
    Histogram,
    MaskPreview,
    Prepared,
    PrepareReport,
    PreviewToken,
    SourceFile,
)
from tunesmith.chat.readers import Row, RowReader, find_files
from tunesmith.chat.statistics import length_histogram
from tunesmith.chat.tokens import ChatTokenizer
from tunesmith.chat.turns import shorten
from tunesmith.errors import Fault, InvalidData, UserError, ValidationFailed
from tunesmith.reporting import NullReporter, Reporter

OnTooLong = Literal["truncate_turns", "drop", "fail"]
"""What happens to rows longer than ``max_seq_length``: leave out the oldest turns, leave out the row, or stop."""
OnFaulty = Literal["fail", "drop"]

CHUNK_ROWS = 128
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
) -> Prepared:
    """Prepare the conversations of ``source`` (files or folders) for ``tokenizer``'s model and write them to
    ``output``, a new folder.

    ``max_seq_length`` is in tokens; -1 takes ``context_length``, the model's. ``work`` is where unfinished parts are
    kept (default: beside ``output``), so that a second run with the same inputs goes on. ``on_faulty="drop"`` leaves
    faulty rows out, counted.

    Raises ``NotFound`` for a missing path, ``ValidationFailed`` for faulty rows, ``InvalidData`` for a row that is
    too long with ``on_too_long="fail"`` or when no row is left, ``UserError`` for a parameter, ``DiskFull``.
    """
    reporter = NullReporter() if reporter is None else reporter
    limit = _limit(max_seq_length, context_length)
    _one_of("on_too_long", on_too_long, get_args(OnTooLong))
    _one_of("on_faulty", on_faulty, get_args(OnFaulty))
    _one_of("loss_on", loss_on, get_args(LossOn))
    files = [file for path in ([source] if isinstance(source, Path) else source) for file in find_files(Path(path))]
    sources = tuple(_fingerprint(file) for file in files)
    today = tokenizer.today or datetime.now()
    tokenizer = ChatTokenizer(tokenizer.tokenizer_json, tokenizer.contract, today=today)
    uses_clock = "strftime_now" in tokenizer.contract.template
    key = _key(sources, tokenizer, limit, on_too_long, on_faulty, loss_on, str(today.date()) if uses_clock else "")

    if (output / REPORT_FILE).is_file():
        made = Prepared.open(output)
        if made.report.key == key:
            reporter.log(f"{output.name}: prepared before from the same data, taken as it is")
            return made
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(
            "the output folder is not empty and holds something else",
            target=str(output),
            way_out="give a new folder, or delete this one",
        )
    aside = (work or output.parent) / f".{output.name}.{key[:16]}.unfinished"
    aside.mkdir(parents=True, exist_ok=True)
    run = _Run(tokenizer, aside, limit, on_too_long, on_faulty, loss_on, reporter)
    try:
        run.process(files)
        report = run.report(sources, key, today)
        if report.rows_kept == 0:
            raise nothing_left(report, files)
        write_json(aside / REPORT_FILE, report.to_dict())
        for state in aside.glob("*.state.json"):
            state.unlink()
        move(aside, output)
    except OSError as error:
        raise disk_error(error, aside) from error
    say(report, reporter)
    return Prepared.open(output)


# ── parameters


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
            way_out="-1 (the model's context) or a length in tokens",
        )
    if context_length is not None and max_seq_length > context_length:
        raise UserError(
            f"max_seq_length is {max_seq_length}, the model's context {context_length} tokens",
            target="max_seq_length",
            way_out=f"at most {context_length}, or -1 for just that",
        )
    return max_seq_length


def _one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise UserError(f"{name} is {value!r}", target=name, way_out=f"one of {', '.join(allowed)}")


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


def _key(
    sources: Sequence[SourceFile],
    tokenizer: ChatTokenizer,
    limit: int,
    on_too_long: str,
    on_faulty: str,
    loss_on: str,
    day: str,
) -> str:
    parts = {
        "format": FORMAT_VERSION,
        "sources": [source.sha256 for source in sources],
        "contract": tokenizer.contract.sha256,
        "max_seq_length": limit,
        "on_too_long": on_too_long,
        "on_faulty": on_faulty,
        "loss_on": loss_on,
        "day": day,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


# ── the work


@dataclass(slots=True)
class _Tally:
    """Everything that is counted; kept with each part, so that a resumed run counts on."""

    rows_read: int = 0
    rows_kept: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    longest: int = 0
    turns_removed: int = 0
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


@dataclass(slots=True)
class _Item:
    """A row on its way: rendered, waiting for its ids."""

    number: int
    conversation: Conversation
    rendered: Rendered


@dataclass(slots=True)
class _Chunk:
    items: list[_Item]
    encoded: Future[list[Encoded]]
    end: tuple[int, int]
    """File and row that come after it."""
    tally: dict[str, Any]
    bytes_done: int


class _Run:
    def __init__(
        self,
        tokenizer: ChatTokenizer,
        folder: Path,
        limit: int,
        on_too_long: OnTooLong,
        on_faulty: OnFaulty,
        loss_on: LossOn,
        reporter: Reporter,
    ) -> None:
        self.tokenizer = tokenizer
        self.folder = folder
        self.limit = limit
        self.on_too_long = on_too_long
        self.on_faulty = on_faulty
        self.loss_on: LossOn = loss_on
        self.reporter = reporter
        self.tally = _Tally()
        self.faults: list[Fault] = []
        self.lengths: list[np.ndarray] = []
        self.part = Part()
        self.part_number = 0
        self.started = time.monotonic()
        self._writes_tools = "tools" in tokenizer.contract.accepts

    def process(self, files: Sequence[Path]) -> None:
        """Read, render and encode everything that no earlier run has written."""
        begin = self._resume()
        total = sum(file.stat().st_size for file in files)
        resumed_rows = self.tally.rows_read
        with ThreadPoolExecutor(1) as pool:
            waiting: list[_Chunk] = []
            for chunk in self._chunks(files, begin, pool):
                waiting.append(chunk)
                if len(waiting) > 2:
                    self._take(waiting.pop(0))
                    self._progress(waiting[-1].bytes_done, total, resumed_rows)
            for chunk in waiting:
                self._take(chunk)
        if self.faults:
            count = self.tally.counts.get("faulty", 0)
            raise ValidationFailed(
                f"{count:,} faulty row{'s' if count != 1 else ''}"
                + (f", the first {len(self.faults)}:" if count > len(self.faults) else ":"),
                target=", ".join(str(file) for file in files),
                details=self.faults,
                way_out="correct the rows (`tunesmith data check FILE` lists every fault), "
                "or leave them out with on_faulty=drop",
            )
        self._flush((len(files), 0))
        self.reporter.progress("prepare", total, total, unit="bytes", values=self._values(resumed_rows, 1.0))

    def _chunks(self, files: Sequence[Path], begin: tuple[int, int], pool: Executor) -> Iterator[_Chunk]:
        """Rendered chunks, each already on its way to be encoded."""
        done = 0
        items: list[_Item] = []
        characters = 0
        for file_number, file in enumerate(files):
            reader = RowReader(file)
            if file_number < begin[0]:
                done += reader.total_bytes
                continue
            row_number = 0
            for row in reader:
                row_number += 1
                if file_number == begin[0] and row_number <= begin[1]:
                    continue
                self.tally.rows_read += 1
                if (item := self._render(row)) is not None:
                    items.append(item)
                    characters += len(item.rendered.text)
                if len(items) >= CHUNK_ROWS or characters > 2_000_000:
                    yield self._send(items, (file_number, row_number), done + reader.bytes_read, pool)
                    items, characters = [], 0
            done += reader.total_bytes
            # A chunk ends with its file, so that a part can begin with the next.
            yield self._send(items, (file_number + 1, 0), done, pool)
            items, characters = [], 0

    def _send(self, items: list[_Item], end: tuple[int, int], done: int, pool: Executor) -> _Chunk:
        encoded = pool.submit(self.tokenizer.encode_batch, [item.rendered for item in items])
        return _Chunk(items, encoded, end, self._snapshot(), done)

    def _snapshot(self) -> dict[str, Any]:
        """What reading has counted up to here; encoding counts the rest."""
        tally = self.tally
        return {
            "rows_read": tally.rows_read,
            "faulty": tally.counts.get("faulty", 0),
            "faulty_places": list(tally.places.get("faulty", ())),
            "tools_ignored": tally.tools_ignored,
            "ignored": dict(tally.ignored),
            "notes": dict(tally.notes),
        }

    def _render(self, row: Row) -> _Item | None:
        parsed = parse_row(row)
        for name in parsed.ignored:
            self.tally.ignored[name] = self.tally.ignored.get(name, 0) + 1
        for note in parsed.notes:
            self.tally.notes[note] = self.tally.notes.get(note, 0) + 1
        conversation = parsed.conversation
        if conversation is None:
            self._faulty(row.location, parsed.faults)
            return None
        try:
            rendered = self.tokenizer.render_marked(conversation, loss_on=self.loss_on)
        except InvalidData as error:
            self._faulty(row.location, [Fault(error.message, error.target, error.code, error.way_out)])
            return None
        if conversation.tools and not self._writes_tools:
            self.tally.tools_ignored += 1
        return _Item(row.number, conversation, rendered)

    def _faulty(self, place: str, faults: Iterable[Fault]) -> None:
        self.tally.happened("faulty", place)
        if self.on_faulty == "fail" and len(self.faults) < FAULTS_SHOWN:
            self.faults.extend(faults)
            del self.faults[FAULTS_SHOWN:]

    def _take(self, chunk: _Chunk) -> None:
        for item, encoded in zip(chunk.items, chunk.encoded.result(), strict=True):
            self._keep(item, encoded)
        if self.part.full and not self.faults:
            self._flush(chunk.end, chunk.tally)

    def _keep(self, item: _Item, encoded: Encoded) -> None:
        tally, conversation = self.tally, item.conversation
        if len(encoded.ids) > self.limit:
            if self.on_too_long == "fail":
                raise InvalidData(
                    f"the conversation has {len(encoded.ids):,} tokens, max_seq_length is {self.limit:,}",
                    target=conversation.source,
                    way_out="on_too_long=truncate_turns leaves out its oldest turns, drop leaves out the row; "
                    "or raise max_seq_length",
                )
            shorter = None if self.on_too_long == "drop" else self._shorten(conversation, encoded)
            if shorter is None:
                tally.happened("too_long", conversation.source)
                return
            conversation, removed = shorter
            encoded = self.tokenizer.encode(conversation, loss_on=self.loss_on)
            tally.happened("cut", conversation.source)
            tally.turns_removed += removed
        trained = encoded.trained_count
        if trained == 0:
            tally.happened("no_trained_tokens", conversation.source)
            return
        ends = self.tokenizer.contract.eos_token_ids
        tally.rows_kept += 1
        tally.tokens += len(encoded.ids)
        tally.trained_tokens += trained
        tally.longest = max(tally.longest, len(encoded.ids))
        tally.ends_trained += any(encoded.ids[span.end - 1] in ends for span in encoded.spans)
        tally.marked += encoded.method == "marked"
        if len(tally.previews) < PREVIEW_ROWS:
            tally.previews.append(asdict(mask_preview(self.tokenizer, conversation, encoded, limit=PREVIEW_TOKENS)))
        self.part.add(item.number, conversation, encoded)

    def _shorten(self, conversation: Conversation, encoded: Encoded) -> tuple[Conversation, int] | None:
        def measure(shorter: Conversation) -> int:
            return len(self.tokenizer.encode_text(self.tokenizer.render(shorter)))

        # Where the answers stand tells about how many exchanges have to go.
        excess = len(encoded.ids) - self.limit
        guess = sum(span.start < excess for span in encoded.spans)
        return shorten(conversation, self.limit, measure, guess=max(1, guess))

    # ── parts on disk

    def _flush(self, end: tuple[int, int], snapshot: dict[str, Any] | None = None) -> None:
        if self.part.rows:
            self.lengths.append(np.array([len(ids) for ids in self.part.ids], dtype=np.int32))
            write_part(self.folder, self.part_number, self.part)
            state = {"end": list(end), "tally": self._tally_at(snapshot)}
            write_json(self.folder / f"{self.part_number:05d}.state.json", state)
            self.part = Part()
            self.part_number += 1

    def _tally_at(self, snapshot: dict[str, Any] | None) -> dict[str, Any]:
        """The tally as it was when the part's last row had been read, not counting rows read ahead."""
        body = asdict(self.tally)
        if snapshot is not None:
            body["rows_read"] = snapshot["rows_read"]
            body["tools_ignored"] = snapshot["tools_ignored"]
            body["ignored"], body["notes"] = snapshot["ignored"], snapshot["notes"]
            body["counts"] = {**body["counts"], "faulty": snapshot["faulty"]}
            body["places"] = {**body["places"], "faulty": snapshot["faulty_places"]}
        return body

    def _resume(self) -> tuple[int, int]:
        """Take over whole parts of an earlier run; returns the file and row to go on with."""
        import pyarrow as pa

        end = (0, 0)
        while (state := read_state(self.folder / f"{self.part_number:05d}.state.json")) is not None:
            table = pa.ipc.open_file(pa.memory_map(str(self.folder / rows_name(self.part_number)))).read_all()
            self.lengths.append(np.diff(table["ids"].chunk(0).offsets.to_numpy()).astype(np.int32))
            end = (state["end"][0], state["end"][1])
            self.tally = _Tally(**state["tally"])
            self.part_number += 1
        for left in self.folder.iterdir():  # what was cut off while it was written
            stem = left.name.split(".")[0].rsplit("-", 1)[-1]
            if left.name.startswith(".") or not stem.isdigit() or int(stem) >= self.part_number:
                left.unlink()
        if self.part_number:
            self.reporter.log(f"going on after {self.tally.rows_read:,} rows that an earlier run has prepared")
        return end

    # ── telling

    def _values(self, resumed_rows: int, share: float) -> dict[str, Any]:
        seconds = max(1e-9, time.monotonic() - self.started)
        values: dict[str, Any] = {
            "rows": self.tally.rows_read,
            "rows_per_second": round((self.tally.rows_read - resumed_rows) / seconds, 1),
            "tokens": self.tally.tokens,
        }
        if 0 < share < 1:
            values["eta_s"] = round(seconds * (1 - share) / share, 1)
        return values

    def _progress(self, done: int, total: int, resumed_rows: int) -> None:
        self.reporter.progress(
            "prepare", done, total, unit="bytes", values=self._values(resumed_rows, done / max(1, total))
        )

    def report(self, sources: tuple[SourceFile, ...], key: str, today: datetime) -> PrepareReport:
        """The report of everything, resumed parts included."""
        tally = self.tally
        lengths = np.concatenate(self.lengths) if self.lengths else np.zeros(0, np.int32)
        edges, counts = length_histogram(lengths)
        reasons = ("too_long", "no_trained_tokens", "faulty")
        return PrepareReport(
            rows_read=tally.rows_read,
            rows_kept=tally.rows_kept,
            dropped={reason: tally.count(reason) for reason in reasons if tally.counts.get(reason)},
            cut=tally.count("cut"),
            turns_removed=tally.turns_removed,
            tokens=tally.tokens,
            trained_tokens=tally.trained_tokens,
            longest=tally.longest,
            mean_length=round(tally.tokens / max(1, tally.rows_kept), 2),
            histogram=Histogram(edges, counts),
            ends_trained=tally.ends_trained,
            marked=tally.marked,
            tools_ignored=tally.tools_ignored,
            ignored_fields=dict(Counter(tally.ignored).most_common()),
            notes=tally.notes,
            max_seq_length=self.limit,
            on_too_long=self.on_too_long,
            loss_on=self.loss_on,
            contract_sha256=self.tokenizer.contract.sha256,
            sources=sources,
            key=key,
            rendered_on=str(today.date()),
            seconds=round(time.monotonic() - self.started, 3),
            preview=tuple(
                MaskPreview(**{**part, "tokens": tuple(PreviewToken(**token) for token in part["tokens"])})
                for part in tally.previews
            ),
        )


def mask_preview(
    tokenizer: ChatTokenizer, conversation: Conversation, encoded: Encoded, *, limit: int | None = None
) -> MaskPreview:
    """A row token by token, the first ``limit`` of them."""
    text = tokenizer.render(conversation)
    offsets = tokenizer.offsets(text)
    trained = encoded.trained
    tokens: list[PreviewToken] = []
    position = 0
    for index, (id, (_, end)) in enumerate(zip(encoded.ids, offsets, strict=True)):
        if limit is not None and index >= limit:
            break
        # A character of several tokens is shown with its first.
        tokens.append(PreviewToken(id, text[position : max(position, end)], trained[index]))
        position = max(position, end)
    return MaskPreview(conversation.source, tuple(tokens), len(encoded.ids), encoded.trained_count)
