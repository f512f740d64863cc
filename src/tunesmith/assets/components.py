"""Components: typed steps and graphs of steps, as Azure ML's YAML describes them."""

from __future__ import annotations

import builtins
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tunesmith.assets.references import DatastoreReference, parse_reference
from tunesmith.assets.registry import SystemRegistry
from tunesmith.assets.service import AssetService
from tunesmith.assets.sources import Sources
from tunesmith.errors import ValidationFailed
from tunesmith.records.assets import ComponentVersion, RegisterComponent
from tunesmith.storage.artifacts import ArtifactStore
from tunesmith.storage.database import Database
from tunesmith.storage.hashing import Hasher
from tunesmith.storage.paths import WorkspacePaths
from tunesmith.storage.tables import AssetRow

CheckSpec = Callable[[Mapping[str, Any]], str]
"""Checks a component's mapping and returns the hash of what it does; raises ``ValidationFailed`` with every fault."""

NO_CODE = (".git", "__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".ipynb_checkpoints", ".venv")
"""Folders that are never part of a component's code."""


class ComponentService(AssetService[ComponentVersion]):
    """Components.

    Args:
        database, store, system, paths: see ``AssetService``.
        sources: finds the code.
        hasher: hashes it.
        check: knows the schema.
    """

    kind = "components"
    word = "component"

    def __init__(
        self,
        database: Database,
        store: ArtifactStore,
        system: SystemRegistry,
        *,
        paths: WorkspacePaths,
        sources: Sources,
        hasher: Hasher,
        check: CheckSpec,
    ) -> None:
        super().__init__(database, store, system, paths=paths)
        self._sources = sources
        self._hasher = hasher
        self._check = check

    def register(self, request: RegisterComponent) -> ComponentVersion:
        """Register a component from its YAML. The folder in ``code`` is copied: the component keeps this snapshot.

        The version is that of the request, else that of the YAML, else the next whole number.

        Raises:
            ValidationFailed: the schema is not kept; every fault at once.
            AlreadyExists: the version is taken.
            NotFound: the code is not there.
        """
        spec = dict(request.spec)
        name = spec.get("name")
        if not isinstance(name, str) or not name:
            raise ValidationFailed("a component to register needs a name", target="name")
        asked = request.version or (str(spec["version"]) if spec.get("version") is not None else None)
        with self._registering(name, asked) as version:
            spec["version"] = version
            sha256 = self._check(spec)
            uri = self._uri(name, version)
            size = 0
            code = self._code(spec, request.base_path)
            if code is not None:
                place = f"{uri}/code"
                size = self._snapshot(code, place)
                spec["code"] = place
            else:
                uri = ""
            return self._keep(
                name,
                version,
                description=str(spec.get("description") or ""),
                tags={str(key): str(value) for key, value in (spec.get("tags") or {}).items()},
                uri=uri or None,
                sha256=sha256,
                size_bytes=size,
                body={
                    "type": spec.get("type", "command"),
                    "display_name": str(spec.get("display_name") or name),
                    "is_deterministic": bool(spec.get("is_deterministic", True)),
                    "spec": spec,
                },
            )

    def code(self, version: ComponentVersion) -> Path | None:
        """The folder with the code of a registered component on this machine; ``None`` when it has none."""
        code = version.spec.get("code")
        return self._store.local_path(code) if isinstance(code, str) and self._store.owns(code) else None

    def _code(self, spec: Mapping[str, Any], base_path: str | None) -> Path | None:
        code = spec.get("code")
        if code is None:
            return None
        if not isinstance(code, str):
            raise ValidationFailed("code must be the path of a folder", target="code")
        if isinstance(parse_reference(code, bare="path", target="code"), DatastoreReference):
            return self._store.local_path(code)
        return self._sources.find(code, target="code", base=Path(base_path) if base_path else None).path

    def _snapshot(self, code: Path, uri: str) -> int:
        if code.is_file():
            return self._store.publish(code, f"{uri}/{code.name}")
        with tempfile.TemporaryDirectory(prefix="tunesmith-code-") as folder:
            copy = Path(folder, "code")
            shutil.copytree(code, copy, ignore=shutil.ignore_patterns(*NO_CODE))
            return self._store.publish(copy, uri)

    def _record(self, row: AssetRow, labels: builtins.list[str]) -> ComponentVersion:
        return ComponentVersion(**self._common(row, labels), **row.body, sha256=row.sha256 or "")
