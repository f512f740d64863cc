"""Which file a blob is: containers over the workspace's artifact store, so that both are one and the same.

    azureml-blobstore-<workspace>   the datastore workspaceblobstore: the artifact store
    azureml                         the datastore workspaceartifactstore: the artifact store as well, and
                                    ExperimentRun/dcid.<run>/…, the logs and loose files of a run, where they lie
    mlflow                          the artifacts of MLflow's runs
    code-<id>                       one code snapshot, artifacts/codes/<id>; sealed once it is registered
    registry-azureml                the imported weights of the system registry's models, <model>/<version>/…

What the workspace itself keeps (registered assets, jobs' outputs) can be read here and not written.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tunesmith.assets.sources import UPLOADED
from tunesmith.azure.blob_errors import BlobError, no_container, not_found
from tunesmith.records.assets import SYSTEM_REGISTRY
from tunesmith.storage.atomic import ASIDE

KEPT = ("models", "data", "components", "jobs", "codes", "uploads")
"""Folders of the artifact store that the workspace keeps itself."""
RUNS = "ExperimentRun/dcid."
CODE_CONTAINER = re.compile(r"code-[0-9a-f]{32}")
BY_CONTENT = re.compile(rf"{UPLOADED}[0-9a-f]{{32,64}}/")
"""Where Azure ML's clients upload local files to, under the hash of their content."""
ARTIFACTS = "azureml"
MLFLOW = "mlflow"
REGISTRY = f"registry-{SYSTEM_REGISTRY}"

RunFiles = Callable[[str], Mapping[str, Path]]
"""The files of a run by their name, such as ``user_logs/std_log.txt``; empty when there is no such run."""


@dataclass(frozen=True, slots=True)
class Place:
    """A blob's file, whether it is there or not."""

    path: Path
    root: Path
    """The container's folder; emptied folders below it are removed."""
    refusal: Callable[[], str | None] = lambda: None
    """Says why it cannot be written now: a code snapshot is sealed while uploads into it may still go on."""
    by_content: bool = False
    """Its name has the hash of what is uploaded: whoever uploads the same at the same time means the same blob."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a listing: a blob, or a folder where a delimiter was given."""

    name: str
    path: Path | None
    """``None`` for a folder."""


class Places:
    """Maps containers and names of blobs to files.

    Args:
        root: the artifact store's folder.
        mlflow: the folder of MLflow's artifacts.
        packages: the folder of the system registry's imported models.
        workspace_id: a part of the first container's name.
        run_files: the files of a run.
        sealed: whether the code snapshot of that id is registered.
    """

    def __init__(
        self,
        root: Path,
        mlflow: Path,
        packages: Path,
        workspace_id: str,
        *,
        run_files: RunFiles,
        sealed: Callable[[str], bool],
    ) -> None:
        self._root = root
        self._mlflow = mlflow
        self._packages = packages
        self.blob_container = f"azureml-blobstore-{workspace_id}"
        self._run_files = run_files
        self._sealed = sealed

    def check_container(self, container: str) -> None:
        """Refuse a container that is not there.

        Raises:
            BlobError: 404.
        """
        self._folder(container)

    def place(self, container: str, name: str) -> Place:
        """The file of a blob.

        Raises:
            BlobError: no such container, or no name for a blob here.
        """
        root = self._folder(container)
        _check_name(name)
        if container == ARTIFACTS and name.startswith(RUNS):
            run, _, inner = name.removeprefix(RUNS).partition("/")
            path = self._run_files(run).get(inner)
            if path is None:
                raise not_found(name)
            return Place(path, root, lambda: "what a run wrote stays as it is")
        path = root.joinpath(*name.split("/"))
        if not within(path, root):  # the last part may be a link, too
            raise BlobError(400, "InvalidUri", f"{name[:300]!r} leads out of its container")
        by_content = container == self.blob_container and BY_CONTENT.match(name) is not None
        return Place(path, root, lambda: self._refusal(container, name), by_content)

    def list(self, container: str, prefix: str, *, delimiter: str) -> Iterator[Entry]:
        """Blobs whose name begins with ``prefix``, in the order of their names.

        With a delimiter, what lies deeper than the next one after the prefix is told as its folder alone.
        """
        root = self._folder(container)
        if container == ARTIFACTS and prefix.startswith(RUNS):
            run, _, inner = prefix.removeprefix(RUNS).partition("/")
            files = self._run_files(run)
            names = sorted(name for name in files if name.startswith(inner))
            yield from _folded([(f"{RUNS}{run}/{name}", files[name]) for name in names], prefix, delimiter)
            return
        folder, _, rest = prefix.rpartition("/")
        if any(part in ("", ".", "..") for part in folder.split("/")) and folder:
            return
        top = root.joinpath(*folder.split("/")) if folder else root
        if top.is_dir() and within(top, root):
            for entry in _below(top, f"{folder}/" if folder else "", rest, deep=not delimiter):
                if entry.path is None or not entry.path.is_symlink() or within(entry.path, root):
                    yield entry

    def _folder(self, container: str) -> Path:
        if container in (self.blob_container, ARTIFACTS):
            return self._root
        if container == MLFLOW:
            return self._mlflow
        if container == REGISTRY:
            return self._packages
        if CODE_CONTAINER.fullmatch(container):
            return self._root / "codes" / container.removeprefix("code-")
        raise no_container(container)

    def _refusal(self, container: str, name: str) -> str | None:
        if CODE_CONTAINER.fullmatch(container):
            sealed = self._sealed(container.removeprefix("code-"))
            return "the code snapshot is registered, and versions never change" if sealed else None
        if container == REGISTRY:
            return "the weights of a registry's model stay as they were imported"
        first = name.split("/", 1)[0]
        if container != MLFLOW and first in KEPT:
            return f"{first}/ holds what the workspace keeps itself; write to another folder"
        return None


def within(path: Path, root: Path) -> bool:
    """Whether ``path`` lies below ``root`` once every link is followed."""
    try:
        return path.resolve().is_relative_to(root.resolve())
    except RuntimeError:  # a link that leads to itself
        return False


def _check_name(name: str) -> None:
    parts = name.split("/")
    if not name or len(name) > 1024 or "\\" in name or "\0" in name:
        raise BlobError(400, "InvalidResourceName", f"{name[:300]!r} is not a name for a blob here")
    for part in parts:
        if part in ("", ".", ".."):
            raise BlobError(400, "InvalidUri", f"{name[:300]!r} has an empty part, '.' or '..'")
        if part.endswith(ASIDE) or len(part.encode("utf-8", "surrogateescape")) > 255:
            raise BlobError(
                400, "InvalidResourceName", f"{part[:300]!r} is not a name for a part of a blob's name here"
            )


def _below(folder: Path, prefix: str, start: str, *, deep: bool) -> Iterator[Entry]:
    """The files below a folder whose name there begins with ``start``, in the order of whole names."""
    with os.scandir(folder) as scan:
        entries = [
            (entry.name + ("/" if entry.is_dir(follow_symlinks=False) else ""), Path(entry.path))
            for entry in scan
            if entry.name.startswith(start) and not entry.name.endswith(ASIDE)
        ]
    for name, path in sorted(entries):
        if not name.endswith("/"):
            yield Entry(prefix + name, path)
        elif deep:
            yield from _below(path, prefix + name, "", deep=True)
        elif next(_below(path, "", "", deep=True), None) is not None:  # a folder without blobs is none
            yield Entry(prefix + name, None)


def _folded(files: list[tuple[str, Path]], prefix: str, delimiter: str) -> Iterator[Entry]:
    told = set()
    for name, path in files:
        head, separator, _ = name[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
        if not separator:
            yield Entry(name, path)
        elif head not in told:
            told.add(head)
            yield Entry(f"{prefix}{head}{delimiter}", None)
