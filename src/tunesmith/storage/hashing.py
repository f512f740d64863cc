"""Content hashes of files and folders.

A folder's hash is the SHA-256 over its files' relative paths and hashes, in order of the paths; times, modes and empty
folders do not count. A file's own hash is the plain SHA-256 that ``sha256sum`` prints.

Hashes of large files are remembered by (path, size, modification time in ns, inode), in memory and, where a cache
folder is given, on disk: one small file an entry, so that several processes may share it without a lock.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from contextlib import suppress
from pathlib import Path

from tunesmith.errors import InvalidData, NotFound
from tunesmith.storage.atomic import write_text

CHUNK = 1 << 20
CACHED_FROM = 1 << 20
"""Bytes from which a file's hash is worth remembering."""
SETTLED_NS = 2_000_000_000
"""A file changed less than this long ago is not remembered: it may change again within the clock's grain."""


class Hasher:
    """Hashes files and folders; safe to share between threads."""

    def __init__(self, cache: Path | None = None) -> None:
        self._cache = cache
        self._known: dict[tuple[str, int, int, int], str] = {}

    def file(self, path: Path) -> str:
        """SHA-256 of a file's content, as hex.

        Raises:
            NotFound: there is no such file.
        """
        try:
            status = path.stat()
        except FileNotFoundError:
            raise NotFound("no such file", target=str(path)) from None
        if status.st_size < CACHED_FROM:
            return _read(path)
        key = (os.path.abspath(path), status.st_size, status.st_mtime_ns, status.st_ino)  # noqa: PTH100
        known = self._known.get(key) or self._stored(key)
        if known is None:
            known = _read(path)
            after = path.stat()
            same = (after.st_size, after.st_mtime_ns) == (status.st_size, status.st_mtime_ns)
            if not same or time.time_ns() - status.st_mtime_ns < SETTLED_NS:
                return known
            self._store(key, known)
        self._known[key] = known
        return known

    def tree(self, path: Path) -> str:
        """The hash of a folder, or of a single file (then equal to ``file``).

        Raises:
            NotFound: ``path`` is not there.
            InvalidData: a link inside leads out of the folder, or to nothing.
        """
        if path.is_file():
            return self.file(path)
        total = hashlib.sha256()
        for relative in files_below(path):
            total.update(f"{relative}\0{self.file(path / relative)}\n".encode("utf-8", "surrogateescape"))
        return total.hexdigest()

    def _entry(self, key: tuple[str, int, int, int]) -> Path | None:
        if self._cache is None:
            return None
        return self._cache / f"{hashlib.sha256(key[0].encode('utf-8', 'surrogateescape')).hexdigest()}.json"

    def _stored(self, key: tuple[str, int, int, int]) -> str | None:
        entry = self._entry(key)
        if entry is None:
            return None
        with suppress(OSError, ValueError, KeyError, TypeError):
            body = json.loads(entry.read_text("utf-8"))
            if (body["size"], body["mtime_ns"], body["inode"]) == key[1:]:
                return str(body["sha256"])
        return None

    def _store(self, key: tuple[str, int, int, int], sha256: str) -> None:
        entry = self._entry(key)
        if entry is not None:
            body = {"path": key[0], "size": key[1], "mtime_ns": key[2], "inode": key[3], "sha256": sha256}
            with suppress(OSError):  # a cache that cannot be written only costs time
                write_text(entry, json.dumps(body))


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, without a cache."""
    return Hasher().file(path)


def tree_sha256(path: Path) -> str:
    """Hash of a folder or a file, without a cache."""
    return Hasher().tree(path)


def files_below(folder: Path) -> list[str]:
    """The relative paths (with '/') of every file below ``folder``, sorted by their bytes.

    Raises:
        NotFound: ``folder`` is not there.
        InvalidData: a link leads out of the folder, or to nothing.
    """
    if not folder.is_dir():
        raise NotFound("no such file or folder", target=str(folder))
    found: list[str] = []
    inside = folder.resolve()
    for root, folders, files in os.walk(folder):
        for name in folders + files:
            path = Path(root, name)
            if path.is_symlink() and not (path.exists() and path.resolve().is_relative_to(inside)):
                raise InvalidData(
                    "a link that leads out of its folder, or to nothing",
                    target=str(path),
                    way_out="replace the link by the file it should lead to",
                )
            if path.is_symlink() and path.is_dir():
                raise InvalidData("a link to a folder", target=str(path), way_out="replace the link by the folder")
        found += [Path(root, name).relative_to(folder).as_posix() for name in files]
    return sorted(found, key=os.fsencode)


def tree_size(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; 0 when it is not there."""
    if path.is_file():
        return path.stat().st_size
    return sum(os.lstat(os.path.join(root, name)).st_size for root, _, files in os.walk(path) for name in files)  # noqa: PTH118


def _read(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        buffer = bytearray(CHUNK)
        view = memoryview(buffer)
        while count := file.readinto(buffer):
            digest.update(view[:count])
    return digest.hexdigest()
