"""Parts of a prepared data set as Arrow files: each is written aside, synced and renamed, so that what has its name
is whole.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.chat.rows import EncodedRow
from tunesmith.errors import DiskFull, InvalidData

PART_ROWS = 4096
PART_TOKENS = 8_000_000


class Part:
    """Rows of a part that is being filled."""

    def __init__(self) -> None:
        self.ids: list[np.ndarray] = []
        self.spans: list[np.ndarray] = []
        self.rows: list[int] = []
        self.locations: list[str] = []
        self.conversations: list[str] = []
        self._tokens = 0

    def add(self, row: EncodedRow) -> None:
        """Take a row that was kept."""
        assert row.ids is not None
        assert row.spans is not None
        self.ids.append(row.ids)
        self.spans.append(row.spans)
        self.rows.append(row.number)
        self.locations.append(row.place)
        self.conversations.append(row.conversation)
        self._tokens += row.length

    @property
    def full(self) -> bool:
        """Whether it is time to write it."""
        return len(self.rows) >= PART_ROWS or self._tokens >= PART_TOKENS

    def lengths(self) -> np.ndarray:
        """Tokens of each row, int32."""
        return np.array([len(ids) for ids in self.ids], dtype=np.int32)


@dataclass(frozen=True, slots=True)
class OpenPart:
    """A part mapped into memory. ``ids`` and ``spans`` are flat; row ``i`` has the values between offsets ``i`` and
    ``i + 1``.
    """

    ids: np.ndarray
    id_offsets: np.ndarray
    spans: np.ndarray
    """Beginnings and ends of runs of trained tokens, in turn."""
    span_offsets: np.ndarray
    table: Any
    """The Arrow table: ``row`` and ``location`` beside the lists."""

    def lengths(self) -> np.ndarray:
        """Tokens of each row, int32."""
        return np.diff(self.id_offsets).astype(np.int32)


def rows_file(number: int) -> str:
    """The name of the file of a part's ids."""
    return f"rows-{number:05d}.arrow"


def conversations_file(number: int) -> str:
    """The name of the file of a part's conversations."""
    return f"conversations-{number:05d}.arrow"


def open_part(folder: Path, number: int) -> OpenPart:
    """Map a part into memory. Raises ``InvalidData`` if it is damaged."""
    import pyarrow as pa

    path = folder / rows_file(number)
    try:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        ids, spans = table["ids"].chunk(0), table["spans"].chunk(0)
    except (pa.ArrowException, OSError, KeyError, IndexError) as error:
        raise InvalidData(f"damaged: {error}", target=str(path), way_out="prepare the conversations again") from error
    return OpenPart(
        ids.values.to_numpy(zero_copy_only=True),
        ids.offsets.to_numpy(zero_copy_only=True),
        spans.values.to_numpy(zero_copy_only=True),
        spans.offsets.to_numpy(zero_copy_only=True),
        table,
    )


def write_part(folder: Path, number: int, part: Part) -> None:
    """Write a part's conversations, then its rows."""
    import pyarrow as pa

    def lists(arrays: Sequence[np.ndarray]) -> Any:
        offsets = np.zeros(len(arrays) + 1, dtype=np.int32)
        np.cumsum([len(array) for array in arrays], out=offsets[1:])
        values = np.concatenate(arrays)
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))

    locations = pa.array(part.locations, pa.string())
    numbers = pa.array(part.rows, pa.int64())
    rows = pa.table({"ids": lists(part.ids), "spans": lists(part.spans), "row": numbers, "location": locations})
    texts = pa.table({"conversation": pa.array(part.conversations, pa.large_string()), "location": locations})
    for name, table, compression in (
        (conversations_file(number), texts, "zstd"),
        (rows_file(number), rows, None),  # mapped into memory, so as it is
    ):
        aside = folder / f".{name}"
        options = pa.ipc.IpcWriteOptions(compression=compression)
        with (
            pa.OSFile(str(aside), "wb") as sink,
            pa.ipc.new_file(sink, table.schema, options=options) as writer,
        ):
            writer.write_table(table)
        _sync(aside)
        aside.replace(folder / name)


def write_json(path: Path, body: Any) -> None:
    """Write a JSON file whole."""
    aside = path.with_name(f".{path.name}")
    aside.write_text(json.dumps(body, ensure_ascii=False), encoding="utf-8")
    _sync(aside)
    aside.replace(path)


def read_state(path: Path) -> dict[str, Any] | None:
    """What was written when a part was done; ``None`` if it was not."""
    try:
        body = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return body if isinstance(body, dict) else None


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def move(folder: Path, output: Path) -> None:
    """Give a finished folder its name, across file systems if need be."""
    output.parent.mkdir(parents=True, exist_ok=True)
    if output.is_dir():
        output.rmdir()  # empty: checked before
    try:
        folder.rename(output)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        aside = output.with_name(f".{output.name}.moving")
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(folder, aside)
        aside.rename(output)
        shutil.rmtree(folder)


def disk_error(error: OSError, folder: Path) -> Exception:
    """``DiskFull`` for an error that says so, the error itself otherwise."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return error
    return DiskFull(
        "no room to write the prepared rows",
        target=str(folder),
        way_out="free some room and run again; the rows prepared so far are kept",
        extra={"free": shutil.disk_usage(folder).free},
    )
