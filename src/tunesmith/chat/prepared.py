"""A prepared data set: token ids and the tokens that carry loss, in Arrow files that are mapped into memory, never
loaded.

    <folder>/prepare.json              the report: what was read, kept, dropped, cut; hashes; a preview
    <folder>/rows-00000.arrow …        ids, runs of trained tokens, row number and place in the source
    <folder>/conversations-00000.arrow …   the conversations themselves, as JSON text

Written by ``prepare.py``; this module only reads.
"""

from __future__ import annotations

import bisect
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.chat.messages import Conversation
from tunesmith.errors import InvalidData, NotFound

REPORT_FILE = "prepare.json"
FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class Count:
    """How many rows something happened to, and where: the first places only, the count is exact."""

    count: int = 0
    places: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file the rows came from."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class PreviewToken:
    """One token of a preview: its id, the text it stands for, and whether it carries loss."""

    id: int
    text: str
    trained: bool


@dataclass(frozen=True, slots=True)
class MaskPreview:
    """One row, token by token."""

    location: str
    tokens: tuple[PreviewToken, ...]
    total: int
    """Tokens of the row; ``tokens`` may be fewer."""
    trained: int
    """Tokens of the row that carry loss."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of lengths: ``counts[i]`` rows have ``edges[i] <= length < edges[i + 1]``."""

    edges: tuple[int, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PrepareReport:
    """What a preparation did. Counts are exact; lists of places are capped."""

    rows_read: int
    rows_kept: int
    dropped: Mapping[str, Count]
    """By reason: ``too_long``, ``no_trained_tokens``, ``faulty``."""
    cut: Count
    """Rows shortened by whole turns."""
    turns_removed: int
    tokens: int
    trained_tokens: int
    longest: int
    """Tokens of the longest kept row."""
    mean_length: float
    histogram: Histogram
    ends_trained: int
    """Rows in which an end-of-turn token carries loss: without it a model does not learn to stop."""
    marked: int
    """Rows whose answers were found by marking, the template not being prefix-stable for them."""
    tools_ignored: int
    """Rows with tools that the model's template does not write."""
    ignored_fields: Mapping[str, int]
    notes: Mapping[str, int]
    max_seq_length: int
    on_too_long: str
    loss_on: str
    contract_sha256: str
    sources: tuple[SourceFile, ...]
    key: str
    """Hash of everything the rows depend on: an equal key means equal rows."""
    rendered_on: str
    """The day that templates may print."""
    seconds: float
    preview: tuple[MaskPreview, ...] = ()
    format_version: int = FORMAT_VERSION

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> PrepareReport:
        """Read the JSON form back."""

        def count(part: Mapping[str, Any]) -> Count:
            return Count(part["count"], tuple(part["places"]))

        return cls(
            **{
                **body,
                "dropped": {reason: count(part) for reason, part in body["dropped"].items()},
                "cut": count(body["cut"]),
                "histogram": Histogram(tuple(body["histogram"]["edges"]), tuple(body["histogram"]["counts"])),
                "sources": tuple(SourceFile(**part) for part in body["sources"]),
                "preview": tuple(
                    MaskPreview(**{**part, "tokens": tuple(PreviewToken(**token) for token in part["tokens"])})
                    for part in body["preview"]
                ),
            }
        )


@dataclass(slots=True)
class _Part:
    ids: np.ndarray
    id_offsets: np.ndarray
    spans: np.ndarray
    span_offsets: np.ndarray
    table: Any
    keep: list[Any] = field(default_factory=list)


class Prepared:
    """Opened with ``Prepared.open``. Rows are numbered from 0 in the order of the source."""

    def __init__(self, folder: Path, report: PrepareReport, parts: list[_Part]) -> None:
        self.folder = folder
        self.report = report
        self._parts = parts
        counts = [len(part.id_offsets) - 1 for part in parts]
        self._starts = [0, *np.cumsum(counts, dtype=np.int64).tolist()] if counts else [0]
        self.lengths: np.ndarray = (
            np.concatenate([np.diff(part.id_offsets) for part in parts]).astype(np.int32)
            if parts
            else np.zeros(0, np.int32)
        )
        """Tokens of each row, int32 of shape (rows,)."""

    @classmethod
    def open(cls, folder: Path) -> Prepared:
        """Map a prepared folder into memory. Raises ``NotFound`` or ``InvalidData`` if it is none, or is not whole."""
        import pyarrow as pa

        path = folder / REPORT_FILE
        if not path.is_file():
            raise NotFound(
                "not a prepared data set: no prepare.json",
                target=str(folder),
                way_out="prepare the conversations first",
            )
        try:
            report = PrepareReport.from_dict(json.loads(path.read_bytes()))
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidData(
                f"prepare.json cannot be read: {error}", target=str(path), way_out="prepare the conversations again"
            ) from error
        parts: list[_Part] = []
        for file in sorted(folder.glob("rows-*.arrow")):
            try:
                table = pa.ipc.open_file(pa.memory_map(str(file))).read_all()
            except (pa.ArrowInvalid, OSError) as error:
                raise InvalidData(
                    f"damaged: {error}", target=str(file), way_out="prepare the conversations again"
                ) from error
            ids, spans = table["ids"].chunk(0), table["spans"].chunk(0)
            parts.append(
                _Part(
                    ids.values.to_numpy(zero_copy_only=True),
                    ids.offsets.to_numpy(zero_copy_only=True),
                    spans.values.to_numpy(zero_copy_only=True),
                    spans.offsets.to_numpy(zero_copy_only=True),
                    table,
                )
            )
        prepared = cls(folder, report, parts)
        if prepared.rows != report.rows_kept:
            raise InvalidData(
                f"{prepared.rows} rows where the report has {report.rows_kept}",
                target=str(folder),
                way_out="prepare the conversations again",
            )
        return prepared

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return self._starts[-1]

    def __len__(self) -> int:
        return self.rows

    def _find(self, row: int) -> tuple[_Part, int]:
        if not 0 <= row < self.rows:
            raise IndexError(f"row {row} of {self.rows}")
        part = bisect.bisect_right(self._starts, row) - 1
        return self._parts[part], row - self._starts[part]

    def row(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids (int32, a view of the file) and whether each carries loss (bool), both of shape (length,)."""
        part, at = self._find(row)
        ids = part.ids[part.id_offsets[at] : part.id_offsets[at + 1]]
        trained = np.zeros(len(ids), dtype=bool)
        spans = part.spans[part.span_offsets[at] : part.span_offsets[at + 1]]
        for start, end in spans.reshape(-1, 2).tolist():
            trained[start:end] = True
        return ids, trained

    def trained_counts(self) -> np.ndarray:
        """Tokens that carry loss in each row, int32 of shape (rows,)."""
        counts = [
            np.add.reduceat(
                (part.spans[1::2] - part.spans[0::2]), (part.span_offsets[:-1] // 2).astype(np.int64)
            )  # every row has at least one span
            for part in self._parts
        ]
        return np.concatenate(counts).astype(np.int32) if counts else np.zeros(0, np.int32)

    def location(self, row: int) -> str:
        """Where a row came from, ``file:line``."""
        part, at = self._find(row)
        return str(part.table["location"][at].as_py())

    def source_row(self, row: int) -> int:
        """The number of a row in its source, from 0; rows that were dropped are counted there."""
        part, at = self._find(row)
        return int(part.table["row"][at].as_py())

    def conversations(self) -> Iterator[Conversation]:
        """The conversations of the rows, in order, cut as the rows are."""
        import pyarrow as pa

        for file in sorted(self.folder.glob("conversations-*.arrow")):
            with pa.memory_map(str(file)) as source:
                reader = pa.ipc.open_file(source)
                for index in range(reader.num_record_batches):
                    batch = reader.get_batch(index)
                    for text, place in zip(batch["conversation"], batch["location"], strict=True):
                        yield Conversation.from_json(text.as_py(), source=place.as_py())
