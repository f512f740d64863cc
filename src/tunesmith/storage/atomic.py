"""Write aside, sync, rename: a reader sees the old whole or the new whole, also after a kill or a power cut.

Aside files and folders are named ``.<name>.<random>.aside`` and lie beside their target, so the rename never crosses
a file system. ``sweep`` removes those that a kill left behind.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tunesmith.errors import AlreadyExists, DiskFull

ASIDE = ".aside"


def aside_path(target: Path) -> Path:
    """A fresh path beside ``target`` for the half-made."""
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}{ASIDE}")


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:  # some network file systems cannot sync a folder
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Sync every file and folder below ``folder``, and itself."""
    for root, _, files in os.walk(folder):
        for name in files:
            path = Path(root, name)
            if path.is_symlink():
                continue
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        sync_folder(Path(root))


@contextmanager
def disk_full_named(target: Path, needed: int | None = None) -> Iterator[None]:
    """Turn "no space left" into ``DiskFull``, which names the place and the free bytes."""
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        raise disk_full(target, needed) from error


def disk_full(target: Path, needed: int | None = None) -> DiskFull:
    """The error for a full disk at ``target``."""
    free: int | None = None
    with suppress(OSError):
        free = shutil.disk_usage(_existing(target)).free
    extra = {key: value for key, value in {"needed": needed, "free": free}.items() if value is not None}
    amount = f" ({free / 1e9:.1f} GB free)" if free is not None else ""
    return DiskFull(
        f"no space left on the disk{amount}",
        target=str(target),
        way_out="free some space there, or move the workspace: --workspace or TUNESMITH_HOME",
        extra=extra,
    )


def _existing(path: Path) -> Path:
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def write_bytes(path: Path, data: bytes, *, mode: int = 0o600, replace: bool = True) -> None:
    """Write ``data`` to ``path``, whole or not at all.

    Raises:
        AlreadyExists: ``path`` is there and ``replace`` is false; of several writers at once, one wins.
        DiskFull: no room.
    """
    aside = aside_path(path)
    with disk_full_named(path, len(data)):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if replace:
                aside.replace(path)
            else:
                os.link(aside, path)
                aside.unlink()
        except BaseException as error:
            aside.unlink(missing_ok=True)
            if isinstance(error, FileExistsError):
                raise AlreadyExists("the file is already there", target=str(path)) from None
            raise
        sync_folder(path.parent)


def write_text(path: Path, text: str, *, mode: int = 0o600, replace: bool = True) -> None:
    """``write_bytes`` for UTF-8 text."""
    write_bytes(path, text.encode("utf-8"), mode=mode, replace=replace)


def write_json(path: Path, value: Any, *, mode: int = 0o600, replace: bool = True, indent: int | None = 1) -> None:
    """``write_bytes`` for a JSON value (or a pydantic model)."""
    body = value.model_dump(mode="json") if hasattr(value, "model_dump") else value
    write_text(path, json.dumps(body, ensure_ascii=False, indent=indent) + "\n", mode=mode, replace=replace)


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; when the block ends well it becomes ``target``, otherwise it is removed.

    Raises:
        AlreadyExists: ``target`` is there already.
        DiskFull: no room.
    """
    if target.exists():
        raise AlreadyExists("the folder is already there", target=str(target))
    aside = aside_path(target)
    with disk_full_named(target):
        aside.mkdir(parents=True, mode=0o700)
        try:
            yield aside
            sync_tree(aside)
            place(aside, target)
        except BaseException:
            remove(aside)
            raise


def place(aside: Path, target: Path) -> None:
    """Rename a finished, synced ``aside`` to ``target``, which must not be there.

    Raises:
        AlreadyExists: ``target`` is there; a folder that is not empty is never replaced.
    """
    if target.exists():
        raise AlreadyExists("it is already there", target=str(target))
    try:
        aside.rename(target)
    except OSError as error:
        if error.errno in {errno.EEXIST, errno.ENOTEMPTY}:
            raise AlreadyExists("it is already there", target=str(target)) from None
        raise
    sync_folder(target.parent)


def remove(path: Path) -> int:
    """Remove a file or a folder and return the bytes that this gives back; 0 when it is not there.

    It vanishes in one step (renamed aside first), so that a kill leaves nothing that looks whole. A file that has
    another hard link gives nothing back.
    """
    if not path.exists() and not path.is_symlink():
        return 0
    gone = path if path.name.endswith(ASIDE) else aside_path(path)
    if gone != path:
        path.rename(gone)
    freed = size_on_disk(gone)
    if gone.is_dir() and not gone.is_symlink():
        shutil.rmtree(gone)
    else:
        gone.unlink()
    return freed


def size_on_disk(path: Path) -> int:
    """Bytes that removing ``path`` would give back (files with one link), or 0 when it is not there."""
    if path.is_symlink() or not path.exists():
        return 0
    if path.is_file():
        status = path.stat()
        return status.st_size if status.st_nlink == 1 else 0
    total = 0
    seen: dict[tuple[int, int], int] = {}
    for root, _, files in os.walk(path):
        for name in files:
            status = os.lstat(os.path.join(root, name))  # noqa: PTH118
            if status.st_nlink == 1:
                total += status.st_size
            else:  # every link of it may lie in this folder
                key = (status.st_dev, status.st_ino)
                seen[key] = seen.get(key, 0) + 1
                if seen[key] == status.st_nlink:
                    total += status.st_size
    return total


def sweep(folder: Path) -> int:
    """Remove what a killed process left aside anywhere below ``folder``; bytes freed. Only when nobody writes there."""
    freed = 0
    for root, folders, files in os.walk(folder):
        for name in [n for n in folders if n.startswith(".") and n.endswith(ASIDE)]:
            folders.remove(name)
            freed += remove(Path(root, name))
        for name in files:
            if name.startswith(".") and name.endswith(ASIDE):
                freed += remove(Path(root, name))
    return freed
