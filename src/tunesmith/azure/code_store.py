"""Code snapshots: folders of scripts that jobs and components run, kept in ``artifacts/codes/<id>``.

A snapshot is uploaded into a container of its own first; registering it seals it. What a name and a version lead to
is kept in the database's small facts, because Azure ML has code only as a part of jobs and components: it is no asset
that anybody looks for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from tunesmith.errors import AlreadyExists, NotFound, ValidationFailed
from tunesmith.records.base import utcnow
from tunesmith.storage.database import Database
from tunesmith.storage.names import check_relative
from tunesmith.storage.tables import KeyValueRow

if TYPE_CHECKING:
    from tunesmith.workspace import Services

_PREFIX = "azure.code:"
_SEALED = "azure.code-sealed:"


@dataclass(frozen=True, slots=True)
class CodeVersion:
    """A registered snapshot."""

    name: str
    version: str
    snapshot: str
    """Id of the container it was uploaded into."""
    path: str
    """The folder in it that is the code; empty for all of it."""
    created_at: datetime
    properties: Mapping[str, str] = field(default_factory=dict)
    """``hash_sha256`` is what clients ask by, so that they upload the same code once."""
    is_anonymous: bool = False

    @property
    def reference(self) -> str:
        """Its folder as a path in the datastore."""
        inner = f"/{self.path}" if self.path else ""
        return f"azureml://datastores/workspaceartifactstore/paths/codes/{self.snapshot}{inner}"


def snapshot_id(name: str, version: str) -> str:
    """The id of the container that a name and a version are uploaded into: the same however often one asks."""
    return hashlib.sha256(f"{name}\0{version}".encode()).hexdigest()[:32]


def is_sealed(database: Database, snapshot: str) -> bool:
    """Whether a snapshot is registered."""
    with database.reading() as session:
        return session.get(KeyValueRow, _SEALED + snapshot) is not None


class CodeStore:
    """Registers and finds snapshots."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def register(
        self, name: str, version: str, snapshot: str, path: str, *, properties: Mapping[str, str], is_anonymous: bool
    ) -> CodeVersion:
        """Register an uploaded snapshot. Asking for the same again gives the same.

        Raises:
            AlreadyExists: the version has another code.
            NotFound: nothing was uploaded.
            ValidationFailed: it is no folder, or an empty one.
        """
        check_relative(path, target="properties.codeUri")
        found = CodeVersion(name, version, snapshot, path, utcnow(), dict(properties), is_anonymous)
        folder = self._services.store.local_path(found.reference)
        if not folder.is_dir() or not any(folder.iterdir()):
            raise ValidationFailed("the code must be a folder with files", target="properties.codeUri")
        with self._services.database.session() as session:
            row = session.get(KeyValueRow, _key(name, version))
            if row is not None:
                known = _of(row.value)
                if (known.snapshot, known.path) != (snapshot, path):
                    raise AlreadyExists(
                        f"the code {name} has a version {version} already, and versions never change",
                        target="properties.codeUri",
                    )
                return known
            session.add(KeyValueRow(key=_key(name, version), value=_body(found)))
            session.merge(KeyValueRow(key=_SEALED + snapshot, value={"name": name, "version": version}))
        return found

    def get(self, name: str, version: str) -> CodeVersion:
        """A registered snapshot.

        Raises:
            NotFound: there is none.
        """
        with self._services.database.reading() as session:
            row = session.get(KeyValueRow, _key(name, version))
        if row is None:
            raise NotFound(f"there is no code {name[:80]!r} with the version {version[:80]!r}", target="code")
        return _of(row.value)

    def list(self, name: str | None = None, sha256: str | None = None) -> list[CodeVersion]:
        """The snapshots of a name, or of all names, newest first; ``sha256`` is a client's hash of the code."""
        found = [
            code
            for code in self._all()
            if (name is None or code.name == name) and (sha256 is None or code.properties.get("hash_sha256") == sha256)
        ]
        return sorted(found, key=lambda code: code.created_at, reverse=True)

    def at(self, folder: str) -> CodeVersion | None:
        """The snapshot whose code is the folder, or ``None``."""
        parts = folder.split("/codes/")[-1].split("/", 1)
        with self._services.database.reading() as session:
            row = session.get(KeyValueRow, _SEALED + parts[0])
        return None if row is None else self.get(row.value["name"], row.value["version"])

    def folder(self, code: CodeVersion) -> Path:
        """The code on this machine.

        Raises:
            NotFound: its files are gone.
        """
        return self._services.store.local_path(code.reference)

    def _all(self) -> Iterator[CodeVersion]:
        with self._services.database.reading() as session:
            rows = session.scalars(select(KeyValueRow).where(KeyValueRow.key.startswith(_PREFIX))).all()
        return (_of(row.value) for row in rows)


def _key(name: str, version: str) -> str:
    return _PREFIX + snapshot_id(name, version)


def _body(code: CodeVersion) -> dict[str, Any]:
    return {
        "name": code.name,
        "version": code.version,
        "snapshot": code.snapshot,
        "path": code.path,
        "created_at": code.created_at.isoformat(),
        "properties": dict(code.properties),
        "is_anonymous": code.is_anonymous,
    }


def _of(body: Mapping[str, Any]) -> CodeVersion:
    return CodeVersion(**{**body, "created_at": datetime.fromisoformat(body["created_at"])})
