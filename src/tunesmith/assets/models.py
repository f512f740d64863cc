"""Models: the registry's, whose weights come when first needed, and those registered in this workspace."""

from __future__ import annotations

import builtins
import json
import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from tunesmith.assets.lineage import lineage_of
from tunesmith.assets.references import AssetReference
from tunesmith.assets.registry import SystemRegistry
from tunesmith.assets.service import AssetService
from tunesmith.assets.sources import Source, Sources
from tunesmith.errors import AlreadyExists, Conflict, InvalidModel
from tunesmith.records.assets import WORKSPACE, Lineage, LineageItem, ModelVersion, RegisterModel
from tunesmith.records.base import utcnow
from tunesmith.records.jobs import JobStatus
from tunesmith.storage import atomic
from tunesmith.storage.artifacts import ArtifactStore
from tunesmith.storage.database import Database
from tunesmith.storage.hashing import Hasher
from tunesmith.storage.paths import WorkspacePaths
from tunesmith.storage.tables import AssetRow, JobRow

if TYPE_CHECKING:
    from tunesmith.models.package import ModelPackage

log = logging.getLogger("tunesmith.assets")

IMPORT_PROPERTY = "tunesmith.import"
"""The property of a job that imports a model; its value is the model's id."""

EVALUATION_OUTPUT = "evaluation_result"
"""The output of a job that its evaluation is in."""


class ModelService(AssetService[ModelVersion]):
    """Models.

    Args:
        database, store, system, paths: see ``AssetService``.
        sources: finds what is to be registered.
        hasher: hashes what is no package.
        before_delete: called before a model's files go; removes what was made of them and returns the bytes freed.
    """

    kind = "models"
    word = "model"

    def __init__(
        self,
        database: Database,
        store: ArtifactStore,
        system: SystemRegistry,
        *,
        paths: WorkspacePaths,
        sources: Sources,
        hasher: Hasher,
        before_delete: Callable[[ModelVersion], int] = lambda _model: 0,
    ) -> None:
        super().__init__(database, store, system, paths=paths)
        self._sources = sources
        self._hasher = hasher
        self._before_delete = before_delete
        self._packages: dict[Path, tuple[int, dict[str, Any]]] = {}
        self._packages_lock = threading.Lock()

    def register(self, request: RegisterModel) -> ModelVersion:
        """Register a model package, an MLflow model folder that holds one, or (``custom_model``) any files.

        The files are linked (a job's output) or copied into the artifact store; a version appears whole or not at all.

        Raises:
            ValidationFailed: the name, the version, the path or the gate is faulty.
            AlreadyExists: the version is taken.
            NotFound: the job, its output or the files are not there.
            InvalidModel: the folder is no model that can be served.
            Conflict: the job has not ended well, or the gate does not hold; the message has the numbers.
            DiskFull: no room.
        """
        with self._registering(request.name, request.version) as version:
            source = self._sources.find(request.path)
            facts = self._facts(source, request)
            metrics = self._metrics(source, request.gate)
            uri = self._uri(request.name, version)
            place = uri if source.path.is_dir() else f"{uri}/{source.path.name}"  # a file keeps its name
            size = self._store.publish(source.path, place, link=source.settled)
            body: dict[str, Any] = {
                "type": request.type,
                "source": source.reference,
                "metrics": metrics,
                "lineage": lineage_of(
                    source, self._paths, sha256=facts["sha256"], template=facts.get("chat_contract")
                ).model_dump(mode="json"),
                **{key: value for key, value in facts.items() if key != "sha256"},
            }
            return self._keep(
                request.name,
                version,
                description=request.description,
                tags=dict(request.tags),
                properties=dict(request.properties),
                uri=uri,
                sha256=facts["sha256"],
                size_bytes=size,
                body=body,
            )

    def new_import(self, name: str, version: str | None, source: str, *, force: bool = False) -> ModelVersion:
        """What a model will be on the workspace's shelf once a job has imported it from ``source``.

        Nothing is kept: the version appears when the package is there and the job has ended.

        Raises:
            ValidationFailed: the name or the version is faulty.
            AlreadyExists: the version is taken, and ``force`` asks to replace it.
        """
        if version is not None and any(item.version == version for item in self.versions(name)):
            if force:
                raise AlreadyExists(
                    f"the model {name!r} has a version {version!r} already, and versions never change",
                    target="version",
                    way_out="leave the version out to get the next number, or delete it first",
                )
            return self.get(name, version, registry=WORKSPACE)
        with self._registering(name, version) as chosen:
            model = ModelVersion(
                registry=WORKSPACE,
                name=name,
                version=chosen,
                id=str(AssetReference(name, chosen)),
                source=source,
                created_at=utcnow(),
            )
        return model.model_copy(update={"state": "importing"}) if self._is_importing(model.id) else model

    def versions(self, name: str, *, registry: str = WORKSPACE) -> builtins.list[ModelVersion]:
        """See ``AssetService``; what was imported onto the shelf meanwhile is there."""
        self._adopt_imports()
        return super().versions(name, registry=registry)

    def list(
        self,
        registry: str | None = None,
        *,
        name: str | None = None,
        search: str | None = None,
        tag: str | None = None,
        archived: bool = False,
    ) -> builtins.list[ModelVersion]:
        """See ``AssetService``; what was imported onto the shelf meanwhile is there."""
        self._adopt_imports()
        return super().list(registry, name=name, search=search, tag=tag, archived=archived)

    def fetch(self, reference: str | AssetReference, *, target: str | None = None) -> ModelVersion:
        """The model behind ``reference``, with its files on this machine: ``path`` is set.

        A registered model in a remote artifact store is downloaded. A registry's model that was never imported is an
        error that says how to import it.

        Raises:
            NotFound: there is no such model.
            InvalidModel: its weights are not on this machine.
        """
        model = self.resolve(reference, target=target)
        if model.path is not None:
            return model
        if model.state == "imported":
            return model.model_copy(update={"path": str(self._store.local_path(self._uri(model.name, model.version)))})
        doing = "are being imported" if model.state == "importing" else "are not on this machine"
        raise InvalidModel(
            f"the weights of {model.name} {model.version} {doing}",
            target=target or model.id,
            way_out=f"import them first: tunesmith models import {model.name}",
        )

    def package_folder(self, model: ModelVersion) -> Path:
        """Where the package of a registry's model lies, or will lie once imported."""
        return self._paths.package(model.registry, model.name, model.version)

    def delete(self, name: str, version: str, *, registry: str | None = None) -> int:
        """Delete a registered model; of a registry's model, remove the imported weights. The bytes freed.

        Raises:
            NotFound: there is no such version.
            Conflict: a deployment serves it, or a job that has not ended uses it.
        """
        with self._lock:
            if registry != self._system.name:
                self._writable(name, registry)
                model = self.get(name, version, registry=WORKSPACE)
                self.check_unused(model)
                return self._before_delete(model) + super().delete(name, version, registry=registry)
            model = self.get(name, version, registry=registry)
            self.check_unused(model)
            return self._before_delete(model) + atomic.remove(self.package_folder(model))

    # Records

    def _record(self, row: AssetRow, labels: builtins.list[str]) -> ModelVersion:
        place = self._store.path_for(row.uri) if row.uri else None
        return ModelVersion(
            **self._common(row, labels),
            **row.body,
            state="imported",
            path=str(place) if place is not None and place.exists() else None,
            size_bytes=row.size_bytes,
            sha256=row.sha256,
        )

    def _system_record(self, record: ModelVersion) -> ModelVersion:
        folder = self.package_folder(record)
        manifest = self._manifest(folder)
        if manifest is None:
            busy = self._is_importing(record.id)
            return record.model_copy(update={"state": "importing"}) if busy else record
        sizes = [entry["bytes"] for entry in manifest["files"].values()]
        return record.model_copy(
            update={
                "state": "imported",
                "path": str(folder),
                "source": manifest["origin"]["source"],
                "architecture": manifest["architecture"],
                "parameter_count": manifest["parameter_count"],
                "context_length": manifest["context_length"],
                "chat_contract": manifest["chat_contract"],
                "sha256": manifest["sha256"],
                "size_bytes": sum(sizes),
            }
        )

    def _manifest(self, folder: Path) -> dict[str, Any] | None:
        """The package's manifest, read once for each time it changes; ``None`` when there is no package."""
        path = folder / "package.json"
        try:
            changed = path.stat().st_mtime_ns
        except OSError:
            return None
        with self._packages_lock:
            known = self._packages.get(path)
            if known is None or known[0] != changed:
                try:
                    body = json.loads(path.read_text("utf-8"))
                except (OSError, ValueError):
                    return None
                known = self._packages[path] = (changed, body)
            return known[1]

    def _adopt_imports(self) -> None:
        """Register the packages that import jobs put down for the workspace's own shelf."""
        root = self._paths.packages / WORKSPACE
        if not root.is_dir():
            return
        for folder in sorted(path for path in root.glob("*/*") if not path.name.startswith(".")):
            with self._lock:
                self._adopt(folder)

    def _adopt(self, folder: Path) -> None:
        from tunesmith.models.package import ModelPackage

        name, version = folder.parent.name, folder.name
        model_id = str(AssetReference(name, version))
        if not folder.is_dir() or self._is_importing(model_id):  # its step still reads it
            return
        try:
            package = ModelPackage.open(folder)
            origin = package.manifest.origin
            item = LineageItem(role="source", reference=origin.source, sha256=origin.sha256 or package.sha256)
            with self._registering(name, version):
                uri = self._uri(name, version)
                size = self._store.adopt(folder, uri)
                lineage = Lineage(created_by="import", items=[item]).model_dump(mode="json")
                body = {"type": "mlflow_model", "source": origin.source, "lineage": lineage, **_facts_of(package)}
                self._keep(name, version, uri=uri, sha256=package.sha256, size_bytes=size, body=body)
        except (InvalidModel, AlreadyExists) as error:
            log.warning("the import of %s cannot be kept: %s", model_id, error)
            atomic.remove(folder)
        with suppress(OSError):  # other versions may be there
            folder.parent.rmdir()

    def _is_importing(self, model_id: str) -> bool:
        ended = [status.value for status in JobStatus if status.terminal]
        with self._database.reading() as session:
            rows: Sequence[Any] = session.scalars(select(JobRow.properties).where(JobRow.status.not_in(ended))).all()
        return any(properties.get(IMPORT_PROPERTY) == model_id for properties in rows)

    # What is registered

    def _facts(self, source: Source, request: RegisterModel) -> dict[str, Any]:
        from tunesmith.models.package import ModelPackage

        try:
            package = ModelPackage.open(source.path, full=True)
        except InvalidModel as error:
            if request.type == "custom_model" and not _claims_package(source.path):
                return {"sha256": self._hasher.tree(source.path)}
            error.target = error.target or "path"
            raise
        return {"sha256": package.sha256, **_facts_of(package)}

    def _metrics(self, source: Source, rule: str | None) -> dict[str, float]:
        """The numbers of the job's evaluation; refuses where ``rule`` does not hold for them."""
        from tunesmith.evaluate.gate import check_rule
        from tunesmith.evaluate.result import EvaluationResult, gate

        if rule is not None:
            check_rule(rule)
        folder = self._evaluation(source)
        if folder is None:
            if rule is None:
                return {}
            raise Conflict(
                f"the gate {rule!r} needs an evaluation, and there is none of this model",
                target="gate",
                way_out="register the output of a job that evaluates (give it a test file), or leave the gate out",
            )
        result = EvaluationResult.load(folder)
        if rule is not None:
            gate(rule, result).require()
        return result.metrics

    def _evaluation(self, source: Source) -> Path | None:
        if source.job is None:
            return None
        with self._database.reading() as session:
            row = session.get(JobRow, source.job)
        output = row.outputs.get(EVALUATION_OUTPUT) if row is not None else None
        if output is None or not output.get("path"):
            return None
        from tunesmith.evaluate.result import RESULT_FILE

        folder = Path(output["path"])
        # A job without conversations to test on has the folder, and in it only why nothing was measured.
        return folder if (folder / RESULT_FILE).is_file() else None


def _facts_of(package: ModelPackage) -> dict[str, Any]:
    """The fields of a record that a package's manifest has."""
    manifest = package.manifest
    return {
        "license": manifest.license,
        "architecture": manifest.architecture,
        "parameter_count": manifest.parameter_count,
        "context_length": manifest.context_length,
        "chat_contract": manifest.chat_contract,
    }


def _claims_package(path: Path) -> bool:
    return (path / "package.json").is_file() or (path / "MLmodel").is_file()
