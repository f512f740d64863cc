"""Rows that say the same, found by hash in bounded memory: 24 bytes a row, and beyond two million rows on disk."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson

from tunesmith.chat.messages import Conversation

_RECORD = np.dtype([("high", "<u8"), ("low", "<u8"), ("place", "<u8")])
_ROWS_IN_MEMORY = 2_000_000
_BUCKETS = 64


def content_hash(conversation: Conversation) -> bytes:
    """16 bytes that are equal for conversations that say the same; which messages are trained on does not matter."""
    parts: list[str] = []
    for message in conversation.messages:
        parts += (message.role, message.content)
        if message.tool_calls:
            calls = [[call.name, call.arguments] for call in message.tool_calls]
            parts.append(orjson.dumps(calls, option=orjson.OPT_SORT_KEYS).decode())
        if message.reasoning_content:
            parts.append(message.reasoning_content)
    if conversation.tools:
        parts.append(orjson.dumps(conversation.tools, option=orjson.OPT_SORT_KEYS).decode())
    text = "\x1f".join(parts)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class Duplicates:
    """What was found. A place is the number that was given with a row."""

    rows: int
    """Rows that repeat an earlier one."""
    groups: int
    """Different conversations that are there more than once."""
    examples: tuple[tuple[int, int], ...]
    """(a repeated row, the first row that says the same), by place; the first ones only."""


class DuplicateFinder:
    """``add`` rows in ascending order of ``place``, then ``result``. Close it, or use it with ``with``."""

    def __init__(self, *, rows_in_memory: int = _ROWS_IN_MEMORY) -> None:
        self._limit = rows_in_memory * _RECORD.itemsize
        self._buffer = bytearray()
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> DuplicateFinder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, digest: bytes, place: int) -> None:
        """Take a row by the hash of its content."""
        self._buffer += digest + place.to_bytes(8, "little")
        if len(self._buffer) >= self._limit:
            self._spill()

    def result(self, *, examples: int = 20) -> Duplicates:
        """What was found so far."""
        if self._folder is None:
            return _find(np.frombuffer(bytes(self._buffer), _RECORD), examples)
        self._spill()
        parts = [_find(np.fromfile(path, _RECORD), examples) for path in sorted(Path(self._folder.name).iterdir())]
        found = sorted(example for part in parts for example in part.examples)
        return Duplicates(sum(part.rows for part in parts), sum(part.groups for part in parts), tuple(found[:examples]))

    def close(self) -> None:
        """Delete what was written to disk."""
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _spill(self) -> None:
        """Equal hashes go to the same file, so each file can be looked at alone."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="tunesmith-duplicates-")
        records = np.frombuffer(bytes(self._buffer), _RECORD)
        buckets = records["low"] % _BUCKETS
        for bucket in range(_BUCKETS):
            with (Path(self._folder.name) / f"{bucket:02d}").open("ab") as file:
                file.write(records[buckets == bucket].tobytes())
        self._buffer.clear()


def _find(records: np.ndarray, examples: int) -> Duplicates:
    if records.size < 2:
        return Duplicates(0, 0, ())
    records = records[np.lexsort((records["place"], records["low"], records["high"]))]
    same = np.zeros(records.size, dtype=bool)
    same[1:] = (records["high"][1:] == records["high"][:-1]) & (records["low"][1:] == records["low"][:-1])
    if not same.any():
        return Duplicates(0, 0, ())
    firsts = np.maximum.accumulate(np.where(same, 0, np.arange(records.size)))
    repeated = np.flatnonzero(same)
    order = repeated[np.argsort(records["place"][repeated], kind="stable")][:examples]
    pairs = tuple((int(records["place"][at]), int(records["place"][firsts[at]])) for at in order)
    return Duplicates(int(same.sum()), int(np.unique(firsts[repeated]).size), pairs)
