"""Writing prepared rows: parts as Arrow files, each aside, synced and renamed, so that what has its name is whole."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.chat.encoded import Encoded
from tunesmith.chat.messages import Conversation
from tunesmith.errors import DiskFull

PART_ROWS = 4096
PART_TOKENS = 8_000_000


class Part:
    """Rows of the part being filled."""

    def __init__(self) -> None:
        self.ids: list[np.ndarray] = []
        self.spans: list[list[int]] = []
        self.rows: list[int] = []
        self.locations: list[str] = []
        self.conversations: list[str] = []
        self.tokens = 0

    def add(self, number: int, conversation: Conversation, encoded: Encoded) -> None:
        """Take a row."""
        self.ids.append(np.array(encoded.ids, dtype=np.int32))
        self.spans.append([edge for span in encoded.spans for edge in (span.start, span.end)])
        self.rows.append(number)
        self.locations.append(conversation.source)
        self.conversations.append(conversation.to_json())
        self.tokens += len(encoded.ids)

    @property
    def full(self) -> bool:
        """Whether it is time to write it."""
        return len(self.rows) >= PART_ROWS or self.tokens >= PART_TOKENS


def rows_name(number: int) -> str:
    """The file of a part's rows."""
    return f"rows-{number:05d}.arrow"


def write_part(folder: Path, number: int, part: Part) -> None:
    """Write a part's conversations, then its rows."""
    import pyarrow as pa

    def lists(arrays: Sequence[Any]) -> pa.ListArray:
        offsets = np.zeros(len(arrays) + 1, dtype=np.int32)
        np.cumsum([len(array) for array in arrays], out=offsets[1:])
        values = np.concatenate([np.asarray(array, dtype=np.int32) for array in arrays])
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))

    locations = pa.array(part.locations, pa.string())
    rows = pa.table(
        {
            "ids": lists(part.ids),
            "spans": lists(part.spans),
            "row": pa.array(part.rows, pa.int64()),
            "location": locations,
        }
    )
    texts = pa.table({"conversation": pa.array(part.conversations, pa.large_string()), "location": locations})
    for name, table, compression in (
        (f"conversations-{number:05d}.arrow", texts, "zstd"),
        (rows_name(number), rows, None),
    ):
        aside = folder / f".{name}"
        with (
            pa.OSFile(str(aside), "wb") as sink,
            pa.ipc.new_file(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer,
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
    except OSError:  # another file system
        aside = output.with_name(f".{output.name}.moving")
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(folder, aside)
        aside.rename(output)
        shutil.rmtree(folder)


def disk_error(error: OSError, folder: Path) -> Exception:
    """``DiskFull`` for an error that says so, the error itself otherwise."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(folder).free
        return DiskFull(
            "no room to write the prepared rows",
            target=str(folder),
            way_out="free some room and run again; the rows prepared so far are kept",
            extra={"free": free},
        )
    return error
