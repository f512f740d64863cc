"""Data assets: files and folders of conversations, kept as they were when they were registered."""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from pathlib import Path

from tunesmith.assets.registry import SystemRegistry
from tunesmith.assets.service import AssetService
from tunesmith.assets.sources import Sources
from tunesmith.errors import InvalidData, TunesmithError
from tunesmith.records.assets import DataVersion, RegisterData
from tunesmith.storage.artifacts import ArtifactStore
from tunesmith.storage.database import Database
from tunesmith.storage.hashing import Hasher, tree_size
from tunesmith.storage.paths import WorkspacePaths
from tunesmith.storage.tables import AssetRow


@dataclass(frozen=True, slots=True)
class DataFacts:
    """What a look into the file tells; both are unknown for files that are not rows of conversations."""

    rows: int | None = None
    format: str | None = None


LOOKED_AT_BYTES = 256_000_000
"""Larger data is not counted at registration, which would take longer than anybody waits; a check of it does."""


class DataService(AssetService[DataVersion]):
    """Data assets.

    Args:
        database, store, system, paths: see ``AssetService``.
        sources: finds what is to be registered.
        hasher: hashes it.
    """

    kind = "data"
    word = "data asset"

    def __init__(
        self,
        database: Database,
        store: ArtifactStore,
        system: SystemRegistry,
        *,
        paths: WorkspacePaths,
        sources: Sources,
        hasher: Hasher,
    ) -> None:
        super().__init__(database, store, system, paths=paths)
        self._sources = sources
        self._hasher = hasher

    def register(self, request: RegisterData) -> DataVersion:
        """Copy a file or folder into the artifact store under a name and a version.

        Raises:
            ValidationFailed: the name, the version or the path is faulty.
            AlreadyExists: the version is taken.
            NotFound: nothing is at the path.
            InvalidData: a folder where a file is wanted, or the other way round; an empty one.
            DiskFull: no room.
        """
        with self._registering(request.name, request.version) as version:
            source = self._sources.find(request.path)
            _check_type(source.path, request.type)
            sha256 = self._hasher.tree(source.path)
            # The file keeps its name, because its ending says its format.
            uri = self._uri(request.name, version)
            folder = request.type != "uri_file"
            place = uri if folder else f"{uri}/{source.path.name}"
            size = self._store.publish(source.path, place, link=source.settled)
            facts = look_into(source.path, size)
            return self._keep(
                request.name,
                version,
                description=request.description,
                tags=dict(request.tags),
                properties=dict(request.properties),
                uri=uri,
                sha256=sha256,
                size_bytes=size,
                body={
                    "type": request.type,
                    "file": None if folder else source.path.name,
                    "rows": facts.rows,
                    "format": facts.format,
                    "source": source.reference,
                },
            )

    def local_path(self, version: DataVersion) -> Path:
        """The file or folder on this machine; fetched first when the artifact store is remote."""
        if Path(version.path).is_absolute():
            return Path(version.path)
        return self._store.local_path(version.path)

    def _record(self, row: AssetRow, labels: builtins.list[str]) -> DataVersion:
        uri = row.uri or ""
        if row.body.get("file"):
            uri = f"{uri}/{row.body['file']}"
        place = self._store.path_for(uri)
        return DataVersion(
            **self._common(row, labels),
            type=row.body["type"],
            path=str(place) if place is not None else uri,
            sha256=row.sha256 or "",
            size_bytes=row.size_bytes or 0,
            rows=row.body.get("rows"),
            format=row.body.get("format"),
            source=row.body.get("source"),
        )


def look_into(path: Path, size: int) -> DataFacts:
    """Rows and format of a file or folder of ``size`` bytes; unknown where it is large or no data of ours.

    Whether the rows are right is another question, which ``tunesmith data check`` answers.
    """
    from tunesmith.chat.formats import detect_format
    from tunesmith.chat.readers import RowReader, find_files

    if size > LOOKED_AT_BYTES:
        return DataFacts()
    rows, format = 0, None
    try:
        for file in find_files(path):
            # Reading Parquet would load Arrow into this process, for a number.
            if file.suffix.lower() == ".parquet":
                return DataFacts()
            for row in RowReader(file):
                rows += 1
                if format is None and row.data is not None:
                    format = detect_format(row.data)
    except TunesmithError:
        return DataFacts()
    return DataFacts(rows, format)


def _check_type(path: Path, wanted: str) -> None:
    if wanted == "uri_file" and not path.is_file():
        raise InvalidData("a folder, where a file is wanted", target=str(path), way_out="give type: uri_folder")
    if wanted != "uri_file" and not path.is_dir():
        raise InvalidData("a file, where a folder is wanted", target=str(path), way_out="give type: uri_file")
    if wanted == "mltable" and not (path / "MLTable").is_file():
        raise InvalidData("the folder has no file named MLTable", target=str(path), way_out="give type: uri_folder")
    if tree_size(path) == 0:
        raise InvalidData("it is empty", target=str(path), way_out="register a file that has rows")
