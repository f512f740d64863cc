"""Files that are whole or not there: written aside, synced, renamed; and hashed."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tunesmith.errors import DiskFull


def sha256_file(path: Path) -> str:
    """The file's hash."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write a whole file aside, sync it and rename it into place."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def sync_folder(folder: Path) -> None:
    """Make every file of ``folder`` and the folder itself safe against a power cut."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def new_folder(destination: Path) -> Iterator[Path]:
    """A folder to fill, which becomes ``destination`` when the block ends well and vanishes when it does not.

    Raises:
        DiskFull: there was no room.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    aside = destination.with_name(f".{destination.name}.{os.getpid()}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        yield aside
        sync_folder(aside)
        if destination.exists():
            shutil.rmtree(destination)
        aside.rename(destination)
        sync_folder_entry(destination.parent)
    except BaseException as error:
        shutil.rmtree(aside, ignore_errors=True)
        if is_disk_full(error):
            raise disk_full(destination) from error
        raise


def sync_folder_entry(folder: Path) -> None:
    """Make a rename inside ``folder`` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_disk_full(error: BaseException) -> bool:
    """Whether ``error`` says that there is no room, in any of the ways libraries say it."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    text = str(error)
    return "No space left on device" in text or "os error 28" in text


def disk_full(place: Path, needed: int | None = None) -> DiskFull:
    """The error for a full disk at ``place``; ``needed`` is in bytes."""
    there = place
    while not there.exists() and there != there.parent:
        there = there.parent
    free = shutil.disk_usage(there).free
    asked = f"{needed / 1e6:,.0f} MB are needed and " if needed else ""
    return DiskFull(
        f"no room to write: {asked}{free / 1e6:,.0f} MB are free",
        target=str(place),
        way_out="free some space (save_total_limit 1 keeps only the last and the best checkpoint), "
        "then resume from the last checkpoint",
        extra={"free": free, **({"needed": needed} if needed else {})},
    )
