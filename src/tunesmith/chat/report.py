"""The report of a check: plain values. ``validation.py`` makes it, ``render.py`` shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from tunesmith.chat.statistics import Lengths
from tunesmith.errors import Fault

Level = Literal["error", "warning"]
"""``error``: the row, or the file from there on, cannot be trained on. ``warning``: it can, but is it meant?"""


def counted(count: int, noun: str) -> str:
    """A count with its noun."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


@dataclass(frozen=True, slots=True)
class Finding:
    """Everything of one kind that was found: the exact count, and the first places."""

    code: str
    level: Level
    count: int
    faults: tuple[Fault, ...]


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """A file that was read."""

    path: str
    format: str
    """jsonl, json, csv, tsv or parquet; empty if it is none of them."""
    bytes: int
    rows: int


@dataclass(frozen=True, slots=True)
class TokenReport:
    """What training would see, for one model and one policy."""

    lengths: Lengths
    """Of all rows that can be encoded, before anything is cut."""
    contract_sha256: str
    loss_on: str
    on_too_long: str
    max_seq_length: int | None
    """``None``: no limit was given, nothing is cut."""
    kept_rows: int
    cut_rows: int
    """Rows among those kept that lose their oldest turns."""
    exchanges_removed: int
    dropped_too_long: int
    dropped_without_loss: int
    tokens: int
    """Of the rows kept, after cutting: one epoch."""
    trained_tokens: int
    """Those of them that carry loss."""
    packed_sequences: int | None
    """Sequences of ``max_seq_length`` tokens that hold the rows kept, packed; ``None`` without a limit."""
    ends_trained: int
    """Rows kept in which an end-of-turn token carries loss."""
    marked: int
    """Rows whose answers were found by marking, the template not being prefix-stable for them."""


@dataclass(frozen=True)
class CheckReport:
    """Everything ``check`` found. Counts are exact; lists of places are capped."""

    files: tuple[CheckedFile, ...]
    rows: int
    """Rows read, faulty ones as well."""
    sound_rows: int
    """Rows without an error."""
    findings: tuple[Finding, ...]
    """Errors first, then warnings; the more frequent first."""
    formats: Mapping[str, int]
    """Rows by format."""
    roles: Mapping[str, int]
    """Messages by role."""
    answers: int
    """Messages of the assistant that would carry loss."""
    characters: int
    with_tools: int
    """Rows with tools or tool calls."""
    duplicate_rows: int
    """Rows that repeat an earlier one."""
    notes: Mapping[str, int]
    """What was set right, by code, in how many rows; see ``parsing.NOTES``."""
    ignored_fields: Mapping[str, int]
    """Fields without a meaning here, and in how many rows or messages they are."""
    tokens: TokenReport | None
    seconds: float
    kept_lengths: np.ndarray = field(repr=False, compare=False, default_factory=lambda: np.zeros(0, np.int32))
    """Tokens of each row kept, int32: what an estimate of a run starts from. Not in ``to_dict``."""

    @property
    def sound(self) -> bool:
        """Whether there are rows and none has an error."""
        return self.rows > 0 and not self.errors

    @property
    def errors(self) -> int:
        """How many errors there are."""
        return sum(finding.count for finding in self.findings if finding.level == "error")

    @property
    def warnings(self) -> int:
        """How many warnings there are."""
        return sum(finding.count for finding in self.findings if finding.level == "warning")

    def faults(self, level: Level | None = None, *, limit: int | None = None) -> list[Fault]:
        """The faults kept, some of each kind: with a ``limit`` every kind has its turn."""
        queues = [list(finding.faults) for finding in self.findings if level in (None, finding.level)]
        if limit is not None:
            share, taken = 0, 0
            while taken < limit and any(len(queue) > share for queue in queues):
                share += 1
                taken = sum(min(share, len(queue)) for queue in queues)
            queues = [queue[:share] for queue in queues]
        return [fault for queue in queues for fault in queue][:limit]

    def summary(self) -> str:
        """The report in one line."""
        verb = "is" if self.rows == 1 else "are"
        parts = [f"{self.sound_rows:,} of {counted(self.rows, 'conversation')} {verb} sound"]
        parts += [counted(self.errors, "error")] if self.errors else []
        parts += [counted(self.warnings, "warning")] if self.warnings else []
        if self.tokens is not None:
            parts.append(f"{counted(self.tokens.tokens, 'token')}, {self.tokens.trained_tokens:,} with loss")
            parts += [f"{counted(self.tokens.cut_rows, 'row')} cut"] if self.tokens.cut_rows else []
            dropped = self.tokens.dropped_too_long + self.tokens.dropped_without_loss
            parts += [f"{counted(dropped, 'row')} dropped"] if dropped else []
        return "; ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        from dataclasses import asdict

        return {
            "sound": self.sound,
            "summary": self.summary(),
            "files": [asdict(file) for file in self.files],
            "rows": self.rows,
            "sound_rows": self.sound_rows,
            "errors": self.errors,
            "warnings": self.warnings,
            "findings": [
                {
                    "code": finding.code,
                    "level": finding.level,
                    "count": finding.count,
                    "faults": [fault.to_dict() for fault in finding.faults],
                }
                for finding in self.findings
            ],
            "formats": dict(self.formats),
            "roles": dict(self.roles),
            "answers": self.answers,
            "characters": self.characters,
            "with_tools": self.with_tools,
            "duplicate_rows": self.duplicate_rows,
            "notes": dict(self.notes),
            "ignored_fields": dict(self.ignored_fields),
            "tokens": None if self.tokens is None else asdict(self.tokens),
            "seconds": self.seconds,
        }
