"""Runs a batch: several lines at once, every answer on disk as it comes, in the order of the input at the end.

``OUT.batch.json`` beside the output says what run it belongs to. When the same batch is started again, the lines that
are in the output are kept and the rest is asked; a torn last line is cut off.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunesmith.cli.batch_askers import Asker, EngineGone
from tunesmith.cli.batch_rows import Overview, Row, answered, error_of, failed, key_of, read_rows
from tunesmith.errors import (
    Conflict,
    Failure,
    InvalidData,
    NotAuthenticated,
    TooManyRequests,
    TunesmithError,
    Unavailable,
    Unreachable,
)
from tunesmith.storage.atomic import write_json

TRIES = 6
"""How often a line is asked while the endpoint is too busy or away."""
LONGEST_PAUSE = 30.0
_AGAIN = (TooManyRequests, Unavailable, Unreachable)
_FATAL = (EngineGone, NotAuthenticated, Unreachable)
"""Errors that every further line would meet too: the run stops, to be gone on with later."""


@dataclass(slots=True)
class Progress:
    """Where a batch is."""

    rows: int
    kept: int = 0
    """Lines that an earlier run had answered."""
    failed: int = 0
    """Lines whose error is in the output, those that an earlier run left included."""
    answered: int = 0
    """By this run."""
    tokens: int = 0
    began: float = field(default_factory=time.monotonic)
    errors: Counter[str] = field(default_factory=Counter)
    """Those of ``failed`` by code."""
    examples: dict[str, str] = field(default_factory=dict)
    """The first error of each code, with its line."""

    @property
    def done(self) -> int:
        """Lines in the output."""
        return self.kept + self.answered + self.failed

    @property
    def seconds(self) -> float:
        """Since this run began."""
        return time.monotonic() - self.began


@dataclass(frozen=True, slots=True)
class Earlier:
    """What earlier runs left in the output and is not asked again."""

    answered: set[str] = field(default_factory=set)
    """Keys of rows."""
    failed: dict[str, tuple[str, str]] = field(default_factory=dict)
    """By the key of the row: the error's code, and what it says with its line."""


def state_file(out: Path) -> Path:
    """Where what run ``out`` belongs to is written."""
    return out.with_name(out.name + ".batch.json")


def earlier(out: Path, run: Mapping[str, Any], *, retry_errors: bool, overwrite: bool) -> Earlier:
    """The lines that need no asking; the output is made ready to be written on.

    Raises ``Conflict`` when the output belongs to another run.
    """
    state = state_file(out)
    if overwrite:
        out.unlink(missing_ok=True)
        state.unlink(missing_ok=True)
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        write_json(state, run)
        out.touch()
        return Earlier()
    known = json.loads(state.read_text(encoding="utf-8")) if state.exists() else None
    if known != run:
        differ = [name for name in run if known is not None and known.get(name) != run[name]]
        raise Conflict(
            "there are answers in it already"
            + (f", of a run with another {', '.join(differ)}" if differ else ", of a run that is over or unknown"),
            target=str(out),
            way_out="give another --out, or --overwrite to begin anew",
        )
    found = Earlier()
    kept: dict[str, bytes] = {}
    lines = out.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        if not line.endswith(b"\n"):
            break  # the line that a kill tore
        try:
            value = json.loads(line)
            key, error = key_of(value), error_of(value)
        except (ValueError, TunesmithError) as fault:
            raise InvalidData(f"is no line of a batch's output: {fault}", target=f"{out}:{number}") from None
        if error is not None and retry_errors:
            continue
        kept[key] = line
        if error is None:
            found.answered.add(key)
        else:
            found.failed[key] = error
    _replace(out, kept.values())
    return found


def run_batch(
    asker: Asker,
    source: Path,
    overview: Overview,
    out: Path,
    *,
    defaults: Mapping[str, Any],
    kept: Earlier,
    concurrency: int,
    watch: Callable[[Progress], None],
) -> Progress:
    """Ask every line that is not in ``kept``. ``watch`` is called about ten times a second.

    What the run belongs to is forgotten only when every line is answered, so that what failed can be asked again.

    Raises what stops the whole run; the answers so far are in ``out``.
    """
    progress = Progress(overview.rows, kept=len(kept.answered))
    for code, words in kept.failed.values():
        _count_error(progress, code, words)
    known = kept.answered | kept.failed.keys()
    rows = (row for row in read_rows(source, defaults) if row.key not in known)
    workers = _Workers(asker, rows, concurrency)
    try:
        with out.open("a", encoding="utf-8") as file:
            while not workers.finished:
                outcome = workers.next()
                if outcome is not None:
                    file.write(json.dumps(outcome.line, ensure_ascii=False) + "\n")
                    file.flush()
                    _count(progress, outcome)
                watch(progress)
    finally:
        workers.stop()
    watch(progress)
    if workers.fatal is not None:
        raise workers.fatal
    _in_order(out, source)
    if not progress.failed:
        state_file(out).unlink(missing_ok=True)
    return progress


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a row."""

    row: Row
    line: dict[str, Any]
    """For the output."""
    error: TunesmithError | None = None


class _Workers:
    """Daemon threads that ask, so that Ctrl-C need not wait for answers."""

    def __init__(self, asker: Asker, rows: Iterator[Row], count: int) -> None:
        self._asker = asker
        self._rows = rows
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._results: queue.Queue[Outcome | None] = queue.Queue()
        self._running = count
        self.fatal: TunesmithError | None = None
        for _ in range(count):
            threading.Thread(target=self._work, daemon=True).start()

    @property
    def finished(self) -> bool:
        """Whether every thread has ended and its outcomes are taken."""
        return self._running == 0

    def next(self) -> Outcome | None:
        """An outcome, or None when a tenth of a second passed without one or a thread has ended."""
        try:
            outcome = self._results.get(timeout=0.1)
        except queue.Empty:
            return None
        if outcome is None:
            self._running -= 1
        return outcome

    def stop(self) -> None:
        """Take no further line."""
        self._stop.set()

    def _work(self) -> None:
        try:
            while not self._stop.is_set():
                with self._lock:
                    row = next(self._rows, None)
                if row is None:
                    return
                found = self._answer(row)
                if found is not None:
                    self._results.put(found)
        finally:
            self._results.put(None)

    def _answer(self, row: Row) -> Outcome | None:
        """None when the run stops before there is an answer."""
        if row.fault is not None:
            return Outcome(row, failed(row, row.fault), row.fault)
        for attempt in range(1, TRIES + 1):
            try:
                return Outcome(row, answered(row, self._asker.ask(row.url, row.body)))
            except _AGAIN as error:
                if attempt < TRIES:
                    pause = float(error.extra.get("retry_after") or 0.5 * 2**attempt)
                    if self._stop.wait(min(pause, LONGEST_PAUSE)):
                        return None
                    continue
                if isinstance(error, _FATAL):
                    self._end(error)
                    return None
                return Outcome(row, failed(row, error), error)
            except _FATAL as error:
                self._end(error)
                return None
            except TunesmithError as error:
                return Outcome(row, failed(row, error), error)
            except Exception as error:
                self._end(Failure(f"{type(error).__name__}: {error}"))
                return None
        raise AssertionError("unreachable")

    def _end(self, error: TunesmithError) -> None:
        """Stop the run."""
        self.fatal = self.fatal or error
        self._stop.set()


def _count(progress: Progress, outcome: Outcome) -> None:
    row, error = outcome.row, outcome.error
    if error is not None:
        # A row's own fault names its place already.
        _count_error(progress, error.code, f"line {row.number}: {error}" if row.fault is None else str(error))
        return
    progress.answered += 1
    answer = outcome.line["response"]["body"] if row.openai else outcome.line
    progress.tokens += int(answer["usage"]["completion_tokens"])


def _count_error(progress: Progress, code: str, words: str) -> None:
    progress.failed += 1
    progress.errors[code] += 1
    progress.examples.setdefault(code, words)


def _in_order(out: Path, source: Path) -> None:
    """Sort the lines of ``out`` as those of ``source``. Raises ``InvalidData`` where one has no row or comes twice."""
    lines: dict[str, bytes] = {}
    with out.open("rb") as file:
        for number, line in enumerate(file, start=1):
            key = key_of(json.loads(line))
            if key in lines:
                raise InvalidData(f"the answer of {key!r} is there twice", target=f"{out}:{number}")
            lines[key] = line
    ordered = [lines.pop(row.key) for row in read_rows(source, {}) if row.key in lines]
    if lines:
        raise InvalidData(
            f"{len(lines):,} lines answer no line of {source}, first {next(iter(lines))!r}",
            target=str(out),
            way_out="nothing was removed; if the input was changed meanwhile, begin anew with --overwrite",
        )
    _replace(out, ordered)


def _replace(out: Path, lines: Any) -> None:
    aside = out.with_name(out.name + ".part")
    with aside.open("wb") as file:
        file.writelines(lines)
    aside.replace(out)
