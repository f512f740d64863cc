"""Files of a package: hashed while written, synced, and made visible by one rename.

Knows nothing of models. A folder is written aside under a hidden name next to its destination (the same disk, so that
the rename is atomic) and is either wholly there or not there at all.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from tunesmith.errors import DiskFull, InvalidModel

CHUNK = 4 << 20
_ASIDE = re.compile(r"^\.(?P<name>.+)\.aside-(?P<pid>\d+)-[0-9a-f]{8}$")
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

Advance = Callable[[int], None]
"""Told how many more bytes are done."""


def sha256_of(path: Path, advance: Advance | None = None) -> str:
    """The sha256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            if advance:
                advance(len(chunk))
    return digest.hexdigest()


def copy_hashed(source: Path, destination: Path, advance: Advance | None = None) -> str:
    """Copy a file and return its sha256: the hash is of the bytes that were written."""
    digest = hashlib.sha256()
    with source.open("rb") as reader, destination.open("xb") as writer:
        while chunk := reader.read(CHUNK):
            writer.write(chunk)
            digest.update(chunk)
            if advance:
                advance(len(chunk))
    return digest.hexdigest()


def link_or_copy(source: Path, destination: Path) -> None:
    """Give ``source`` a second name; copy it where the file system has no hard links."""
    try:
        os.link(source, destination)
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise
        shutil.copyfile(source, destination)


def sync_tree(folder: Path) -> None:
    """Flush every file and folder under ``folder`` to the disk."""
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def free_bytes(folder: Path) -> int:
    """Free bytes on the disk of ``folder``, or of its first parent that exists."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def require_room(folder: Path, needed: int, what: str) -> None:
    """Raise ``DiskFull`` when ``needed`` bytes and a small margin do not fit on the disk of ``folder``."""
    free = free_bytes(folder)
    if needed + (64 << 20) > free:
        raise disk_full(folder, what, needed=needed, free=free)


def disk_full(folder: Path, what: str, *, needed: int | None = None, free: int | None = None) -> DiskFull:
    """The error for a disk that is full."""
    free = free_bytes(folder) if free is None else free
    size = f"needs {needed / 1e9:.2f} GB and " if needed is not None else ""
    return DiskFull(
        f"no room to write {what}: it {size}{free / 1e9:.2f} GB is free",
        target=str(folder),
        way_out="free some space on this disk, or put the workspace on a larger one (--workspace)",
        extra={"needed": needed, "free": free},
    )


@contextmanager
def no_room_is_disk_full(folder: Path, what: str) -> Iterator[None]:
    """Turn the system's "no space left" into ``DiskFull`` with the place and the free bytes."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise disk_full(folder, what) from error
        raise
    except Exception as error:  # the safetensors library wraps the system's error in its own
        if "No space left on device" in str(error) or "os error 28" in str(error) or "os error 27" in str(error):
            raise disk_full(folder, what) from error
        raise


def sweep_aside(parent: Path) -> None:
    """Remove what a killed process left half made in ``parent``; folders of living processes stay."""
    if not parent.is_dir():
        return
    for path in parent.iterdir():
        found = _ASIDE.match(path.name)
        if found and not _alive(int(found["pid"])):
            shutil.rmtree(path, ignore_errors=True)


def new_aside(parent: Path, name: str) -> Path:
    """A new hidden folder in ``parent``, named so that ``sweep_aside`` knows it after a kill."""
    aside = parent / f".{name}.aside-{os.getpid()}-{uuid4().hex[:8]}"
    aside.mkdir()
    return aside


@contextmanager
def written_aside(destination: Path, what: str) -> Iterator[Path]:
    """A new folder next to ``destination`` that takes its name when the block ends well.

    Everything in it is synced first. On any fault, also a keyboard interrupt, it is removed. Raises ``FileExistsError``
    if ``destination`` came into being meanwhile, and ``DiskFull`` when the disk has no room.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    sweep_aside(destination.parent)
    aside = new_aside(destination.parent, destination.name)
    try:
        with no_room_is_disk_full(destination.parent, what):
            yield aside
            sync_tree(aside)
        try:
            aside.rename(destination)
        except OSError as error:
            if error.errno in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
                raise FileExistsError(errno.EEXIST, "already there", str(destination)) from error
            raise
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    descriptor = os.open(destination.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def safe_relative(name: str, *, where: Path) -> str:
    """``name`` itself if it is a plain relative path that stays inside its folder; else ``InvalidModel``."""
    parts = name.split("/")
    if (
        not name
        or name.startswith("/")
        or "\\" in name
        or "\0" in name
        or any(part in {"", ".", ".."} for part in parts)
    ):
        raise InvalidModel(
            f"the file name {name!r} leads out of the folder",
            target=str(where),
            way_out="use a model whose index names plain files beside it",
        )
    return name


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
