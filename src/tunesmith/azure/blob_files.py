"""Reads and writes blobs as files: written aside, checked, renamed; blocks wait on disk until their list comes.

A blob's metadata lies beside the store, in ``<home>/azure/blobs``, and counts only while the file is the one that it
was written for.
"""

from __future__ import annotations

import contextlib
import errno
import filecmp
import hashlib
import os
import secrets
import shutil
import stat
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate, parsedate_to_datetime
from pathlib import Path
from typing import IO, Any

from tunesmith.azure.blob_errors import BlobError, not_found
from tunesmith.azure.blob_places import Place
from tunesmith.pipelines.layout import read_json
from tunesmith.storage.atomic import ASIDE, aside_path, disk_full_named, remove, sync_folder, write_json

EXISTS = "BlobAlreadyExists"
BLOCK_LIFETIME_S = 7 * 24 * 3600
"""Blocks whose list never came are removed after this, as Azure does."""


@dataclass(frozen=True, slots=True)
class Sidecar:
    """What is kept beside a blob's bytes."""

    kind: str = "BlockBlob"
    metadata: Mapping[str, str] = field(default_factory=dict)
    content: Mapping[str, str] = field(default_factory=dict)
    """HTTP headers of the content, such as ``Content-Type``."""
    stamp: str = ""
    """Changes whenever this does."""


@dataclass(frozen=True, slots=True)
class Properties:
    """A blob as it is now."""

    size: int
    modified: float
    """Unix seconds."""
    etag: str
    sidecar: Sidecar

    @property
    def last_modified(self) -> str:
        """As an HTTP date."""
        return formatdate(self.modified, usegmt=True)


class BlobFiles:
    """Files as blobs.

    Args:
        folder: where metadata and blocks are kept; on the file system of the artifact store, so that renames do.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()

    # ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────

    def properties(self, place: Place, name: str) -> Properties:
        """A blob's properties.

        Raises:
            BlobError: it is not there.
        """
        found = self.peek(place)
        if found is None:
            raise not_found(name)
        return found

    def peek(self, place: Place) -> Properties | None:
        """A blob's properties, or ``None`` when it is not there."""
        return self.at(place.path)

    def at(self, path: Path) -> Properties | None:
        """The properties of the blob that a file is, or ``None`` where there is no file."""
        try:
            status = path.stat()
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return None
            raise
        return self._of(path, status) if stat.S_ISREG(status.st_mode) else None

    def open(self, place: Place, name: str) -> tuple[IO[bytes], Properties]:
        """The bytes of a blob, and the properties of just these bytes.

        Raises:
            BlobError: it is not there.
        """
        try:
            file = place.path.open("rb")
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise not_found(name) from None
        return file, self._of(place.path, os.fstat(file.fileno()))

    def _of(self, path: Path, status: os.stat_result) -> Properties:
        body = read_json(self._sidecar_path(path))
        sidecar = Sidecar()
        modified = status.st_mtime
        if isinstance(body, dict) and body.get("file") == _identity(status):
            sidecar = Sidecar(body["kind"], body["metadata"], body["content"], body["stamp"])
            modified = max(modified, float(body["t"]))
        told = f"{_identity(status)} {sidecar.stamp}"
        return Properties(
            size=status.st_size,
            modified=modified,
            etag=f'"0x{hashlib.sha256(told.encode()).hexdigest()[:16].upper()}"',
            sidecar=sidecar,
        )

    # ── writing ─────────────────────────────────────────────────────────────────────────────────────────────────

    def new_aside(self, place: Place) -> Path:
        """Where a body is written until it is whole; its folder is made.

        Raises:
            BlobError: the place cannot be written, or lies below or above another blob.
        """
        _check_writable(place)
        try:
            place.path.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            message = "a blob has the name of a folder on the way to this one, which a file system cannot hold"
            raise BlobError(409, "PathConflict", message) from None
        return aside_path(place.path)

    def put(self, place: Place, aside: Path, sidecar: Sidecar, conditions: Mapping[str, str]) -> Properties:
        """Make a whole ``aside`` the blob, if the conditions still hold.

        Where the name has the content's hash, a blob that must not be there yet and is, with the same bytes, is what
        was asked for: two scripts that upload one file at the same time would otherwise fail by chance.

        Raises:
            BlobError: the place cannot be written any more, a condition does not hold, or a folder is in the place.
        """
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        with self._lock:
            _check_writable(place)  # the body took its time, and the snapshot may be sealed by now
            there = self.peek(place)
            try:
                check_conditions(conditions, there, writing=True)
            except BlobError as refused:
                same = place.by_content and refused.code == EXISTS and filecmp.cmp(aside, place.path, shallow=False)
                if there is None or not same:
                    raise
                return there
            if place.path.is_dir():
                message = "there is a folder of this name with blobs in it, which a file system cannot hold beside it"
                raise BlobError(409, "PathConflict", message)
            aside.replace(place.path)
            sync_folder(place.path.parent)
            self._write_sidecar(place.path, sidecar)
            found = self.peek(place)
        assert found is not None
        return found

    def check_early(self, place: Place, conditions: Mapping[str, str]) -> None:
        """Refuse what need not be received: conditions that do not hold now. They are checked again at the end.

        Raises:
            BlobError: see ``check_conditions``.
        """
        try:
            check_conditions(conditions, self.peek(place), writing=True)
        except BlobError as refused:
            if not (place.by_content and refused.code == EXISTS):  # it may be the same
                raise

    def change(
        self, place: Place, name: str, conditions: Mapping[str, str], **changes: Mapping[str, str]
    ) -> Properties:
        """Replace the metadata, or the headers of the content.

        Raises:
            BlobError: it is not there, is kept by the workspace, or a condition does not hold.
        """
        with self._lock:
            _check_writable(place)
            before = self.properties(place, name)
            check_conditions(conditions, before, writing=True)
            old = before.sidecar
            sidecar = Sidecar(old.kind, changes.get("metadata", old.metadata), changes.get("content", old.content))
            self._write_sidecar(place.path, sidecar)
            return self.properties(place, name)

    def append(self, place: Place, name: str, block: Path, conditions: Mapping[str, str]) -> tuple[int, Properties]:
        """Add a block to an append blob; where it begins, and the blob after it.

        Raises:
            BlobError: it is no append blob, or a condition does not hold.
        """
        with self._lock:
            _check_writable(place)
            before = self.properties(place, name)
            check_conditions(conditions, before, writing=True)
            if before.sidecar.kind != "AppendBlob":
                raise BlobError(409, "InvalidBlobType", "the blob is no append blob")
            wanted = conditions.get("x-ms-blob-condition-appendpos")
            if wanted is not None and wanted != str(before.size):
                raise BlobError(412, "AppendPositionConditionNotMet", f"the blob has {before.size} bytes, not {wanted}")
            most = conditions.get("x-ms-blob-condition-maxsize")
            if most is not None and not (most.isascii() and most.isdigit() and len(most) <= 18):
                raise BlobError(
                    400, "InvalidHeaderValue", f"x-ms-blob-condition-maxsize: {most[:40]!r} is no number of bytes"
                )
            if most is not None and before.size + block.stat().st_size > int(most):
                raise BlobError(412, "MaxBlobSizeConditionNotMet", f"the blob would have more than {most} bytes")
            if place.path.stat().st_nlink > 1:  # a registered asset shares the file, and must not change with it
                aside = aside_path(place.path)
                shutil.copy2(place.path, aside)
                aside.replace(place.path)
            try:
                with disk_full_named(place.path), place.path.open("ab") as target, block.open("rb") as source:
                    shutil.copyfileobj(source, target, 1 << 20)
                    target.flush()
                    os.fsync(target.fileno())
            except BaseException:
                os.truncate(place.path, before.size)
                raise
            self._write_sidecar(place.path, before.sidecar)
            return before.size, self.properties(place, name)

    def delete(self, place: Place, name: str, conditions: Mapping[str, str]) -> None:
        """Remove a blob, and the folders that it leaves empty.

        Raises:
            BlobError: it is not there, is kept by the workspace, or a condition does not hold.
        """
        with self._lock:
            _check_writable(place)
            check_conditions(conditions, self.properties(place, name), writing=True)
            remove(place.path)
            self._sidecar_path(place.path).unlink(missing_ok=True)
            folder = place.path.parent
            while folder != place.root and folder.is_relative_to(place.root):
                with contextlib.suppress(OSError):  # not empty
                    folder.rmdir()
                if folder.exists():
                    break
                folder = folder.parent

    # ── blocks ──────────────────────────────────────────────────────────────────────────────────────────────────

    def block_aside(self, place: Place) -> Path:
        """Where a block is written until it is whole."""
        _check_writable(place)
        folder = self._blocks(place.path)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder / f".{secrets.token_hex(8)}{ASIDE}"

    def keep_block(self, place: Place, block: str, aside: Path) -> None:
        """Keep a whole block under its id; one of the same id is replaced."""
        aside.replace(self._blocks(place.path) / _block_name(block))

    def commit(
        self, place: Place, blocks: Sequence[str], sidecar: Sidecar, conditions: Mapping[str, str]
    ) -> Properties:
        """Make the blob of its blocks, in order.

        Raises:
            BlobError: a block is not here, or a condition does not hold; the blocks stay.
        """
        self.check_early(place, conditions)
        folder = self._blocks(place.path)
        for block in blocks:
            if not (folder / _block_name(block)).is_file():
                raise BlobError(400, "InvalidBlockList", f"there is no uncommitted block {block!r}")
        aside = self.new_aside(place)
        size = sum((folder / _block_name(block)).stat().st_size for block in blocks)
        try:
            with disk_full_named(place.path, size), aside.open("xb") as target:
                for block in blocks:
                    with (folder / _block_name(block)).open("rb") as source:
                        shutil.copyfileobj(source, target, 1 << 20)
            found = self.put(place, aside, sidecar, conditions)
        finally:
            aside.unlink(missing_ok=True)
        remove(folder)
        return found

    def sweep(self) -> None:
        """Remove blocks that wait for their list since long, and metadata whose blob is gone."""
        blocks = self._folder / "blocks"
        if blocks.is_dir():
            for folder in blocks.iterdir():
                with contextlib.suppress(FileNotFoundError):  # its list came just now
                    if time.time() - folder.stat().st_mtime > BLOCK_LIFETIME_S:
                        remove(folder)
        for sidecar in (self._folder / "metadata").glob("*/*.json"):
            with self._lock:  # a blob of this name may be written just now
                body = read_json(sidecar)
                if not isinstance(body, dict) or not Path(str(body.get("path"))).exists():
                    sidecar.unlink(missing_ok=True)

    def _blocks(self, path: Path) -> Path:
        return self._folder / "blocks" / _key(path)

    def _sidecar_path(self, path: Path) -> Path:
        key = _key(path)
        return self._folder / "metadata" / key[:2] / f"{key}.json"

    def _write_sidecar(self, path: Path, sidecar: Sidecar) -> None:
        body: dict[str, Any] = {
            "path": str(path),
            "file": _identity(path.stat()),
            "kind": sidecar.kind,
            "metadata": dict(sidecar.metadata),
            "content": dict(sidecar.content),
            "stamp": secrets.token_hex(6),
            "t": time.time(),
        }
        write_json(self._sidecar_path(path), body, indent=None)


def _check_writable(place: Place) -> None:
    why = place.refusal()
    if why is not None:
        raise BlobError(403, "AuthorizationPermissionMismatch", why)


def check_conditions(headers: Mapping[str, str], blob: Properties | None, *, writing: bool) -> None:
    """HTTP's conditional headers, as blob storage answers them.

    Raises:
        BlobError: 409 for a blob that must not be there, 304 for one that was not changed since, else 412.
    """
    failed = BlobError(412, "ConditionNotMet", "a condition of the request does not hold")
    wanted, unwanted = headers.get("if-match"), headers.get("if-none-match")
    if wanted is not None and (blob is None or (wanted != "*" and blob.etag not in _etags(wanted))):
        raise failed
    if unwanted is not None and blob is not None:
        if unwanted.strip() == "*":
            raise BlobError(409, EXISTS, "the blob is already there") if writing else failed
        if blob.etag in _etags(unwanted):
            raise failed if writing else BlobError(304, "ConditionNotMet", "not modified")
    if blob is None:
        return
    since, until = headers.get("if-modified-since"), headers.get("if-unmodified-since")
    if since is not None and int(blob.modified) <= _seconds(since):
        raise failed if writing else BlobError(304, "ConditionNotMet", "not modified")
    if until is not None and int(blob.modified) > _seconds(until):
        raise failed


def _etags(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _seconds(text: str) -> float:
    try:
        return parsedate_to_datetime(text).timestamp()
    except ValueError:
        raise BlobError(400, "InvalidHeaderValue", f"{text[:60]!r} is not a date of HTTP") from None


def _identity(status: os.stat_result) -> str:
    return f"{status.st_ino}-{status.st_size}-{status.st_mtime_ns}"


def _key(path: Path) -> str:
    return hashlib.sha256(str(path).encode("utf-8", "surrogateescape")).hexdigest()


def _block_name(block: str) -> str:
    return hashlib.sha256(block.encode("utf-8", "surrogatepass")).hexdigest()
