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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.chat.messages import Conversation
from tunesmith.chat.parts import OpenPart, conversations_file, open_part
from tunesmith.chat.preview import MaskPreview
from tunesmith.chat.statistics import Histogram, Lengths
from tunesmith.errors import InvalidData, NotFound

REPORT_FILE = "prepare.json"
FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class Count:
    """How many rows something happened to, and where: the count is exact, only the first places are kept."""

    count: int = 0
    places: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file the rows came from."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class PrepareReport:
    """What a preparation did."""

    rows_read: int
    rows_kept: int
    dropped: Mapping[str, Count]
    """By reason: ``too_long``, ``no_trained_tokens``, ``faulty``."""
    cut: Count
    """Rows kept that lost their oldest exchanges (a user's message with all that answers it)."""
    exchanges_removed: int
    tokens: int
    trained_tokens: int
    lengths: Lengths
    """Of the rows kept, in tokens."""
    ends_trained: int
    """Rows in which an end-of-turn token carries loss: without it a model does not learn to stop."""
    marked: int
    """Rows whose answers were found by marking, the template not being prefix-stable for them."""
    surplus_prompt: str
    """What the generation prompt has that finished conversations do not; see ``ChatContract``."""
    tools_ignored: int
    """Rows with tools that the model's template does not write."""
    ignored_fields: Mapping[str, int]
    notes: Mapping[str, int]
    """What was set right, by code; see ``parsing.NOTES``."""
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
    """The first rows, token by token."""
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
                "lengths": Lengths(
                    **{**body["lengths"], "histogram": Histogram.from_dict(body["lengths"]["histogram"])}
                ),
                "sources": tuple(SourceFile(**part) for part in body["sources"]),
                "preview": tuple(MaskPreview.from_dict(part) for part in body["preview"]),
            }
        )


class Prepared:
    """Opened with ``Prepared.open``. Rows are numbered from 0 in the order of the source."""

    def __init__(self, folder: Path, report: PrepareReport, parts: list[OpenPart]) -> None:
        self.folder = folder
        self.report = report
        self._parts = parts
        lengths = [part.lengths() for part in parts]
        self.lengths: np.ndarray = np.concatenate(lengths) if lengths else np.zeros(0, np.int32)
        """Tokens of each row, int32 of shape (rows,)."""
        self._starts = [0]
        for part in lengths:
            self._starts.append(self._starts[-1] + len(part))

    @classmethod
    def open(cls, folder: Path) -> Prepared:
        """Map a prepared folder into memory. Raises ``NotFound`` if it is none, ``InvalidData`` if it is not whole."""
        path = folder / REPORT_FILE
        if not path.is_file():
            raise NotFound(
                "not a prepared data set: no prepare.json",
                target=str(folder),
                way_out="prepare the conversations first",
            )
        again = "prepare the conversations again"
        try:
            body = json.loads(path.read_bytes())
            version = body.get("format_version")
            report = PrepareReport.from_dict(body) if version == FORMAT_VERSION else None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidData(f"cannot be read: {error}", target=str(path), way_out=again) from error
        if report is None:
            message = f"format version {version}; this release reads version {FORMAT_VERSION}"
            raise InvalidData(message, target=str(path), way_out=again)
        count = len(list(folder.glob("rows-*.arrow")))
        prepared = cls(folder, report, [open_part(folder, number) for number in range(count)])
        if prepared.rows != report.rows_kept:
            message = f"{prepared.rows:,} rows where the report has {report.rows_kept:,}"
            raise InvalidData(message, target=str(folder), way_out=again)
        return prepared

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return self._starts[-1]

    def __len__(self) -> int:
        return self.rows

    def _find(self, row: int) -> tuple[OpenPart, int]:
        if not 0 <= row < self.rows:
            raise IndexError(f"row {row} of {self.rows}")
        part = bisect.bisect_right(self._starts, row) - 1
        return self._parts[part], row - self._starts[part]

    def row(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids (int32, a view of the file) and whether each carries loss (bool), both of shape (length,)."""
        part, at = self._find(row)
        ids = part.ids[part.id_offsets[at] : part.id_offsets[at + 1]]
        trained = np.zeros(len(ids), dtype=bool)
        edges = part.spans[part.span_offsets[at] : part.span_offsets[at + 1]].tolist()
        for start, end in zip(edges[::2], edges[1::2], strict=True):
            trained[start:end] = True
        return ids, trained

    def trained_counts(self) -> np.ndarray:
        """Tokens that carry loss in each row, int32 of shape (rows,)."""
        counts = [np.zeros(0, np.int32)]
        for part in self._parts:
            sizes = part.spans[1::2] - part.spans[0::2]
            # Every row has a span, so no two of these positions are equal.
            counts.append(np.add.reduceat(sizes, part.span_offsets[:-1] // 2).astype(np.int32))
        return np.concatenate(counts)

    def location(self, row: int) -> str:
        """Where a row came from, ``file:line``."""
        part, at = self._find(row)
        return str(part.table["location"][at].as_py())

    def source_row(self, row: int) -> int:
        """The number of a row in its file, from 0; rows that were dropped are counted there."""
        part, at = self._find(row)
        return int(part.table["row"][at].as_py())

    def conversations(self) -> Iterator[Conversation]:
        """The conversations of the rows, in order, cut as the rows are."""
        import pyarrow as pa

        for number in range(len(self._parts)):
            with pa.memory_map(str(self.folder / conversations_file(number))) as source:
                reader = pa.ipc.open_file(source)
                for index in range(reader.num_record_batches):
                    batch = reader.get_batch(index)
                    for text, place in zip(batch["conversation"], batch["location"], strict=True):
                        yield Conversation.from_json(text.as_py(), source=place.as_py())
