"""The artifact store: a folder of the workspace, or anywhere that fsspec reaches.

A thing in the store has a URI that does not say where the store lies:

    azureml://datastores/workspaceartifactstore/paths/models/my-model/3

So the workspace's folder may move, and a store may be copied to a bucket, without a change in the database. In a
folder, things appear whole: copied or linked aside, synced, renamed. A bucket has no rename; there a thing counts once
its row is in the database, which is written after the upload.
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

from tunesmith.errors import AlreadyExists, Failure, NotFound, Unreachable, UserError, ValidationFailed
from tunesmith.storage import atomic, names
from tunesmith.storage.hashing import files_below, tree_size

DATASTORE = "workspaceartifactstore"
"""The artifact store's name as a datastore."""
ALIASES = frozenset({DATASTORE, "workspaceblobstore"})
"""Names that lead here; the second is Azure ML's default datastore."""
PREFIX = f"azureml://datastores/{DATASTORE}/paths/"


class ArtifactStore:
    """Publishes, finds and deletes files and folders.

    Args:
        url: a folder's path, or an fsspec URL (``s3://bucket/prefix``, ``memory://name``).
        cache: where local copies of remote things lie; needed for a URL.
    """

    def __init__(self, url: str | Path, *, cache: Path | None = None) -> None:
        text = str(url)
        self._filesystem: Any = None
        if "://" in text and not text.startswith("file://"):
            import fsspec

            if cache is None:
                raise ValueError("a remote artifact store needs a cache folder")
            try:
                self._filesystem, remote = fsspec.core.url_to_fs(text)
            except (ImportError, ValueError) as error:
                raise UserError(
                    f"the artifact store cannot be opened: {error}",
                    target=text,
                    way_out="install the fsspec package of that scheme (s3fs, adlfs, gcsfs), or correct the URL",
                ) from None
            self._remote = str(remote).rstrip("/")
            self._cache = cache
            self.root: Path | None = None
        else:
            self.root = Path(text.removeprefix("file://"))
        self.url = text

    @staticmethod
    def uri_for(*parts: str) -> str:
        """The URI of the thing at ``parts``; each part is a name."""
        if not parts:
            raise ValidationFailed("a URI of the artifact store needs at least one part")
        return PREFIX + "/".join(names.PLAIN_NAME.check(part, "artifact") for part in parts)

    @staticmethod
    def owns(uri: str) -> bool:
        """Whether ``uri`` lies in this store."""
        return uri.startswith(tuple(f"azureml://datastores/{name}/paths/" for name in ALIASES))

    def local_path(self, uri: str) -> Path:
        """The thing's path on this machine; from a remote store it is fetched first.

        Raises:
            NotFound: it is not in the store.
        """
        relative = _relative(uri)
        if self.root is not None:
            path = names.safe_join(self.root, relative, target=uri)
            if not path.exists():
                raise NotFound("it is not in the artifact store", target=uri)
            return path
        return self._fetch(uri, relative)

    def path_for(self, uri: str) -> Path | None:
        """Where the thing lies or would lie in a store that is a folder; ``None`` for a remote store."""
        return names.safe_join(self.root, _relative(uri), target=uri) if self.root is not None else None

    def exists(self, uri: str) -> bool:
        """Whether the thing is in the store."""
        relative = _relative(uri)
        if self.root is not None:
            return names.safe_join(self.root, relative, target=uri).exists()
        return bool(self._filesystem.exists(f"{self._remote}/{relative}"))

    def publish(self, local: Path, uri: str, *, link: bool = False) -> int:
        """Put the file or folder ``local`` into the store as ``uri``; the bytes it has.

        ``link``: the source never changes again (a finished job's output), so hard links do, where the file system
        has them; otherwise it is copied.

        Raises:
            NotFound: ``local`` is not there.
            AlreadyExists: the URI is taken. Nothing is ever replaced.
            DiskFull: no room; nothing half-made is left.
        """
        if not local.exists():
            raise NotFound("no such file or folder", target=str(local))
        if self.exists(uri):
            raise AlreadyExists("it is already in the artifact store", target=uri)
        relative = _relative(uri)
        if self.root is None:
            return self._upload(local, uri, relative)
        target = names.safe_join(self.root, relative, target=uri)
        aside = atomic.aside_path(target)
        size = tree_size(local)
        with atomic.disk_full_named(target, size):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                _copy(local, aside, link=link)
                if aside.is_dir():
                    atomic.sync_tree(aside)
                else:
                    _sync_file(aside)
                atomic.place(aside, target)
            except BaseException:
                atomic.remove(aside)
                raise
        return size

    def adopt(self, local: Path, uri: str) -> int:
        """``publish`` for a thing that was made beside the store and may be moved: no copy is left. Bytes it has."""
        if self.root is None:
            size = self.publish(local, uri)
            atomic.remove(local)
            return size
        target = names.safe_join(self.root, _relative(uri), target=uri)
        size = tree_size(local)
        target.parent.mkdir(parents=True, exist_ok=True)
        if local.is_dir():
            atomic.sync_tree(local)
        try:
            atomic.place(local, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            self.publish(local, uri)
            atomic.remove(local)
        return size

    def size(self, uri: str) -> int:
        """Bytes of the thing; 0 when it is not there."""
        relative = _relative(uri)
        if self.root is not None:
            return tree_size(names.safe_join(self.root, relative, target=uri))
        remote = f"{self._remote}/{relative}"
        return int(self._filesystem.du(remote)) if self._filesystem.exists(remote) else 0

    def delete(self, uri: str) -> int:
        """Remove the thing and return the bytes freed; 0 when it is not there.

        Files that are hard links of files elsewhere (a job's output) give nothing back until those go too.
        """
        relative = _relative(uri)
        if self.root is not None:
            return atomic.remove(names.safe_join(self.root, relative, target=uri))
        freed = self.size(uri)
        if freed or self.exists(uri):
            self._filesystem.rm(f"{self._remote}/{relative}", recursive=True)
        atomic.remove(names.safe_join(self._cache, relative, target=uri))
        return freed

    def _upload(self, local: Path, uri: str, relative: str) -> int:
        size = 0
        files = files_below(local) if local.is_dir() else [""]
        try:
            for name in files:
                source = local / name if name else local
                remote = f"{self._remote}/{relative}/{name}" if name else f"{self._remote}/{relative}"
                self._filesystem.makedirs(remote.rsplit("/", 1)[0], exist_ok=True)
                self._filesystem.put_file(str(source), remote)
                size += source.stat().st_size
        except OSError as error:
            self.delete(uri)
            raise Unreachable(
                f"the upload failed: {error}",
                target=self.url,
                way_out="check that the store can be reached and that its credentials may write",
            ) from error
        return size

    def _fetch(self, uri: str, relative: str) -> Path:
        target = names.safe_join(self._cache, relative, target=uri)
        if target.exists():
            return target
        remote = f"{self._remote}/{relative}"
        if not self._filesystem.exists(remote):
            raise NotFound("it is not in the artifact store", target=uri)
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = atomic.aside_path(target)
        with atomic.disk_full_named(target):
            try:
                if self._filesystem.isdir(remote):
                    for name in self._filesystem.find(remote):
                        inner = str(name).removeprefix(remote).lstrip("/")
                        path = names.safe_join(aside, inner, target=uri)
                        path.parent.mkdir(parents=True, exist_ok=True)
                        self._filesystem.get_file(name, str(path))
                else:
                    self._filesystem.get_file(remote, str(aside))
                atomic.place(aside, target)
            except AlreadyExists:  # another thread was first
                atomic.remove(aside)
            except BaseException:
                atomic.remove(aside)
                raise
        return target


def _relative(uri: str) -> str:
    for name in ALIASES:
        prefix = f"azureml://datastores/{name}/paths/"
        if uri.startswith(prefix):
            relative = uri.removeprefix(prefix).strip("/")
            if relative:
                return names.check_relative(relative, target=uri)
    raise ValidationFailed(f"{uri[:200]!r} is not in the artifact store", way_out=f"such a URI begins with {PREFIX}")


def _copy(source: Path, target: Path, *, link: bool) -> None:
    def one(origin: str, destination: str, *, follow_symlinks: bool = True) -> str:
        if link and not os.path.islink(origin):  # noqa: PTH114
            try:
                os.link(origin, destination)
            except OSError as error:
                if error.errno not in {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EACCES}:
                    raise
            else:
                return destination
        return shutil.copy2(origin, destination)

    if source.is_dir():
        files_below(source)  # refuses links that lead out, before anything is copied
        try:
            shutil.copytree(source, target, copy_function=one, symlinks=False)
        except shutil.Error as error:
            _raise_first(error)
    else:
        one(str(source), str(target))


def _raise_first(error: shutil.Error) -> None:
    """copytree gathers its errors as texts; a full disk must keep its errno to be told apart."""
    text = str(error)
    if os.strerror(errno.ENOSPC) in text or os.strerror(errno.EDQUOT) in text:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
    raise Failure(f"copying failed: {text[:500]}") from error


def _sync_file(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
