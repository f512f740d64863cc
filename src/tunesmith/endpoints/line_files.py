"""Files of JSON lines that keep to a size: the newest is written, the oldest goes.

For one writing thread; readers may come from any process.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from io import BufferedWriter
from pathlib import Path

REMOVED_FILE = "removed.json"


class _Lines:
    """A file that is open for lines, and its size."""

    _file: BufferedWriter | None = None
    _size = 0

    def _put(self, line: bytes) -> None:
        assert self._file is not None
        self._file.write(line + b"\n")
        self._size += len(line) + 1

    def flush(self) -> None:
        """Hand what is buffered to the system."""
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        """Close the file; the next line opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None


class RotatingLines(_Lines):
    """``path``, and what was in it before as ``path.1`` (the newest) to ``path.N``. Nothing is made before the first
    line."""

    def __init__(self, path: Path, *, max_bytes: int, backups: int) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._backups = backups

    def write(self, line: bytes) -> None:
        """Add one line, without its end."""
        if self._file is None or self._size + len(line) >= self._max_bytes:
            self._open(rotate=self._file is not None)
        self._put(line)

    def _open(self, *, rotate: bool) -> None:
        self.close()
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        there = self.path.stat().st_size if self.path.exists() else 0
        if rotate or there >= self._max_bytes:
            for number in range(self._backups, 0, -1):
                source = self.path if number == 1 else _numbered(self.path, number - 1)
                if source.exists():
                    source.replace(_numbered(self.path, number))
            there = 0
        self._file = _append(self.path)
        self._size = there


def newest_lines(path: Path, backups: int) -> Iterator[bytes]:
    """The lines of a ``RotatingLines``, the newest first. A line that is being written is left out."""
    for number in range(backups + 1):
        try:
            data = (path if number == 0 else _numbered(path, number)).read_bytes()
        except FileNotFoundError:
            continue
        yield from reversed(data.split(b"\n")[:-1])


class NumberedLines(_Lines):
    """Files ``00001.jsonl``, ``00002.jsonl``, … in ``folder``, together no larger than ``max_bytes``.

    What goes to make room is counted in ``removed.json``.
    """

    def __init__(self, folder: Path, *, file_bytes: int) -> None:
        self.folder = folder
        self._file_bytes = file_bytes

    def write(self, line: bytes, *, max_bytes: int) -> None:
        """Add one line, without its end."""
        limit = min(self._file_bytes, max(1, max_bytes // 4))
        if self._file is None or self._size + len(line) >= limit:
            self._next(limit, len(line), max_bytes)
        self._put(line)

    def _next(self, limit: int, coming: int, max_bytes: int) -> None:
        was_open = self._file is not None
        self.close()
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        files = numbered_files(self.folder)
        last = files[-1] if files else self.folder / "00000.jsonl"
        there = last.stat().st_size if files else 0
        if not files or was_open or there + coming >= limit:
            last, there = self.folder / f"{int(last.stem) + 1:05d}.jsonl", 0
        sizes = {path: path.stat().st_size for path in files}
        for path in files:
            if path == last or sum(sizes.values()) + limit <= max_bytes:
                break
            self._remove(path)
            del sizes[path]
        self._file = _append(last)
        self._size = there

    def _remove(self, path: Path) -> None:
        count = removed(self.folder) + path.read_bytes().count(b"\n")
        (self.folder / REMOVED_FILE).write_text(json.dumps({"lines": count}), "utf-8")
        path.unlink()


def numbered_files(folder: Path) -> list[Path]:
    """The files of a ``NumberedLines``, the oldest first."""
    return sorted(path for path in folder.glob("*.jsonl") if path.stem.isdigit())


def removed(folder: Path) -> int:
    """How many lines went to make room."""
    try:
        return int(json.loads((folder / REMOVED_FILE).read_bytes())["lines"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return 0


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


def _append(path: Path) -> BufferedWriter:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    return os.fdopen(descriptor, "ab")
