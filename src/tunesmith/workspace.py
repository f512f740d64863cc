"""Opens a workspace: makes its folder where there is none, opens its database, and holds its services together.

The server opens one for its whole life; it is the only process that does, because it is the only writer. Everything
else speaks HTTP to it.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from tunesmith.assets.components import ComponentService
from tunesmith.assets.data import DataService
from tunesmith.assets.environments import EnvironmentService
from tunesmith.assets.models import IMPORT_PROPERTY, ModelService
from tunesmith.assets.references import AssetReference, parse_asset, parse_reference
from tunesmith.assets.registry import SystemRegistry, registries
from tunesmith.assets.service import AssetService
from tunesmith.assets.sources import Sources
from tunesmith.components.admission import make_admission
from tunesmith.components.checks import CHECKS
from tunesmith.compute.service import ComputeService
from tunesmith.compute.sizes import difference
from tunesmith.endpoints.service import EndpointService
from tunesmith.errors import AlreadyExists, Conflict, Failure, NotFound, TunesmithError
from tunesmith.generate.engines.exports import exports_of
from tunesmith.models.package import ModelPackage
from tunesmith.pipelines.assets_resolver import AssetResolver, check_spec
from tunesmith.pipelines.service import JobService
from tunesmith.records.assets import (
    SYSTEM_REGISTRY,
    WORKSPACE,
    AssetKind,
    AssetVersion,
    EnvironmentVersion,
    ImportModel,
    ModelVersion,
    Registry,
)
from tunesmith.records.base import Record, utcnow
from tunesmith.records.jobs import Job, SubmitJob
from tunesmith.records.workspace import ServerAddress
from tunesmith.settings import Settings
from tunesmith.storage import atomic, names
from tunesmith.storage.artifacts import ArtifactStore
from tunesmith.storage.database import Database
from tunesmith.storage.hashing import Hasher
from tunesmith.storage.ownership import claim
from tunesmith.storage.paths import WorkspacePaths
from tunesmith.storage.secrets import Secrets
from tunesmith.tracking.service import Tracking

if TYPE_CHECKING:
    from tunesmith.models.catalogue import CatalogueEntry

FORMAT_VERSION = 1
"""Of the folder. A folder with a larger one is refused."""

IMPORT_COMPONENT = f"azureml://registries/{SYSTEM_REGISTRY}/components/model_import/labels/latest"
IMPORT_EXPERIMENT = "Imports"
INSTALLED_ENVIRONMENT = "installed"
"""The system registry's one environment."""


class WorkspaceFile(Record):
    """``workspace.json``."""

    id: str
    name: str
    format_version: Literal[1] = 1
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Services:
    """An open workspace."""

    settings: Settings
    paths: WorkspacePaths
    id: str
    name: str
    created_at: datetime
    database: Database
    store: ArtifactStore
    secrets: Secrets
    hasher: Hasher
    system: SystemRegistry
    computes: ComputeService
    models: ModelService
    data: DataService
    components: ComponentService
    environments: EnvironmentService
    jobs: JobService
    endpoints: EndpointService
    tracking: Tracking

    def registries(self) -> list[Registry]:
        """The workspace's own shelf and the system registry."""
        return registries(self.system)

    def assets(self, kind: AssetKind) -> AssetService[Any]:
        """The service of a kind of asset."""
        services: Mapping[AssetKind, AssetService[Any]] = {
            "models": self.models,
            "data": self.data,
            "components": self.components,
            "environments": self.environments,
        }
        return services[kind]

    def import_model(self, request: ImportModel) -> Job | None:
        """Start the job that fetches a model's weights; ``None`` where they are here already.

        ``name`` is a registry's model, whose own source is taken where none is given, or, with a source, a new name
        on the workspace's shelf: then the model is registered there once its weights are here.

        Raises:
            NotFound: no registry has the name, and no source is given.
            AlreadyExists: its weights are here from another source than the one that is asked for.
            Conflict: the import goes on already, or the weights to be replaced are in use.
        """
        target = self._import_target(request)
        if target.state == "imported" and not request.force:
            if request.source is not None and request.source != target.source:
                raise AlreadyExists(
                    f"the weights of {target.name} {target.version} are here, and come from {target.source}",
                    target=target.id,
                    way_out="import them anew with --force, or choose another name or version",
                )
            return None
        if target.state == "importing":
            raise Conflict(
                f"{target.name} {target.version} is being imported", target=target.id, way_out="tunesmith jobs list"
            )
        if request.force:
            self.models.check_unused(target)
        return self.jobs.submit(
            SubmitJob(
                display_name=f"Import {target.name}",
                experiment_name=IMPORT_EXPERIMENT,
                component=IMPORT_COMPONENT,
                properties={IMPORT_PROPERTY: target.id},
                inputs={
                    "name": target.name,
                    "version": target.version,
                    "registry": target.registry,
                    "source": request.source or target.source or "",
                    "force": "true" if request.force else "false",
                },
            )
        )

    def close(self) -> None:
        """Stop what was started and close the database. Jobs and instances go on."""
        self.tracking.stop()
        self.database.close()

    def _import_target(self, request: ImportModel) -> ModelVersion:
        wanted = parse_asset(request.name, kind="models", target="name")
        registry = request.registry or wanted.registry
        version = request.version or wanted.version
        if registry != WORKSPACE:
            try:
                return self.models.get(
                    wanted.name,
                    version,
                    label=wanted.label if version is None else None,
                    registry=registry or SYSTEM_REGISTRY,
                )
            except NotFound:
                if registry is not None or request.source is None:
                    raise
        if request.source is None:
            raise NotFound(
                f"no registry has a model {wanted.name!r}",
                target="source",
                way_out=f"say where its weights are: tunesmith models import {wanted.name} --from SOURCE",
            )
        return self.models.new_import(wanted.name, version, request.source, force=request.force)


def open_workspace(settings: Settings) -> Services:
    """Open the workspace of ``settings``; a folder that holds none becomes one.

    Raises:
        Conflict: a newer Tunesmith made the folder or its database, or the database is another workspace's.
        Failure: ``workspace.json`` is damaged.
        UserError, Unreachable: the database or the artifact store cannot be opened.
    """
    paths = WorkspacePaths(settings.home)
    names.PLAIN_NAME.check(settings.name, "name")
    paths.make()
    info = _workspace_file(paths, settings.name)
    secrets = Secrets(paths)
    assert secrets.token  # made with the workspace, so that a client finds it
    database = Database(settings.database_url or paths.database_file)
    try:
        claim(database, info.id, info.name)
        return _services(settings, paths, info, secrets, database)
    except BaseException:
        database.close()
        raise


def _services(
    settings: Settings, paths: WorkspacePaths, info: WorkspaceFile, secrets: Secrets, database: Database
) -> Services:
    store = ArtifactStore(settings.artifact_url or paths.artifacts, cache=paths.artifact_cache)
    # Only the server writes these, so what is aside was left by one that was killed.
    for kind in ("models", "data", "components"):
        atomic.sweep(paths.artifacts / kind)
    hasher = Hasher(paths.hash_cache)
    system = SystemRegistry(_system_assets)
    sources = Sources(database, store, paths)
    computes = ComputeService(database, paths.home, created_at=info.created_at)
    tracking = Tracking(paths, database, store, when_asked=settings.mlflow == "asked")

    def before_delete(model: ModelVersion) -> int:
        if model.registry == WORKSPACE:
            tracking.unlink_model(model.name, model.version)
        try:
            package = ModelPackage.open(Path(model.path or ""))
        except TunesmithError:  # other files than a model's
            return 0
        return sum(atomic.remove(path) for path in exports_of(package, paths.engine_exports))

    models = ModelService(
        database,
        store,
        system,
        paths=paths,
        sources=sources,
        hasher=hasher,
        before_delete=before_delete,
    )
    data = DataService(database, store, system, paths=paths, sources=sources, hasher=hasher)
    components = ComponentService(
        database, store, system, paths=paths, sources=sources, hasher=hasher, check=check_spec
    )

    environments = EnvironmentService(database, store, system, paths=paths)

    def step_environment(job: Job) -> dict[str, str]:
        address = _server(paths)
        if address is None:
            return {}
        variables = {
            "MLFLOW_TRACKING_URI": f"{address.url}/mlflow",
            "MLFLOW_TRACKING_TOKEN": secrets.token,
            "MLFLOW_EXPERIMENT_NAME": job.experiment_name,
        }
        if address.certificate is not None:
            variables["MLFLOW_TRACKING_SERVER_CERT_PATH"] = address.certificate
        run_id = tracking.start_run(job.name)
        return {**variables, "MLFLOW_RUN_ID": run_id} if run_id is not None else variables

    def instance_type_difference(name: str) -> str | None:
        return difference(computes.size(name, target="instance_type"), computes.machine())

    def adapter(reference: str) -> tuple[str, Path]:
        """An adapter that is a registered model, or the output of a job or a folder."""
        parsed = parse_reference(reference, kind="models", bare="asset", target="adapters")
        if isinstance(parsed, AssetReference):
            model = models.fetch(parsed, target="adapters")
            return model.id, Path(model.path or "")
        source = sources.find(reference, target="adapters")
        return source.reference, source.path

    return Services(
        settings=settings,
        paths=paths,
        id=info.id,
        name=info.name,
        created_at=info.created_at,
        database=database,
        store=store,
        secrets=secrets,
        hasher=hasher,
        system=system,
        computes=computes,
        models=models,
        data=data,
        components=components,
        environments=environments,
        jobs=JobService(
            database,
            paths,
            store,
            AssetResolver(
                components=components,
                models=models,
                data=data,
                sources=sources,
                computes=computes,
                environments=environments,
                checks=CHECKS,
            ),
            admit=make_admission(computes, models),
            environment=step_environment,
        ),
        endpoints=EndpointService(
            database,
            secrets,
            models.fetch,
            folder=paths.endpoints,
            base_url=lambda: address.url if (address := _server(paths)) else "",
            describe_instance_type=instance_type_difference,
            probes_of=lambda model: _greedy_probes(paths, model),
            resolve_adapter=adapter,
        ),
        tracking=tracking,
    )


def _greedy_probes(paths: WorkspacePaths, model: ModelVersion) -> Path | None:
    """The evaluation that recorded the model's greedy answers, where its job still has it."""
    if model.lineage is None or model.lineage.job is None:
        return None
    folder = paths.job_output(model.lineage.job, "evaluation_result")
    return folder if folder.is_dir() else None


def _workspace_file(paths: WorkspacePaths, name: str) -> WorkspaceFile:
    path = paths.workspace_file
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        info = WorkspaceFile(id=str(uuid.uuid4()), name=name, created_at=utcnow())
        atomic.write_json(path, info)
        return info
    try:
        return WorkspaceFile.model_validate_json(text)
    except ValidationError as error:
        fault = error.errors()[0]
        if fault["loc"] == ("format_version",):
            raise Conflict(
                f"the workspace's folder has format {fault['input']}, and this Tunesmith knows {FORMAT_VERSION}",
                target=str(path),
                way_out="install the newer Tunesmith again, or use another folder",
            ) from None
        raise Failure(
            f"the file is damaged: {fault['msg']}", target=str(path), way_out="put a copy of it back"
        ) from None


def _server(paths: WorkspacePaths) -> ServerAddress | None:
    """The server that runs over this workspace, which is this process once it listens."""
    with suppress(OSError, ValidationError):
        return ServerAddress.model_validate_json(paths.server_file.read_bytes())
    return None


def _system_assets(kind: AssetKind) -> Sequence[AssetVersion]:
    """What the system registry ships."""
    from tunesmith.components import catalogue as components
    from tunesmith.models import catalogue as models

    if kind == "models":
        return [_base_model(entry, components.RELEASED) for entry in models.entries()]
    if kind == "components":
        return components.entries()
    return [_installed_environment(components.RELEASED)] if kind == "environments" else []


def _base_model(entry: CatalogueEntry, released: datetime) -> ModelVersion:
    return ModelVersion(
        registry=SYSTEM_REGISTRY,
        name=entry.name,
        version=entry.version,
        id=str(AssetReference(entry.name, entry.version, registry=SYSTEM_REGISTRY, kind="models")),
        description=entry.description,
        tags=dict(entry.tags),
        created_at=released,
        license=entry.license,
        source=entry.source,
        architecture=entry.architecture,
        parameter_count=entry.parameter_count,
        context_length=entry.context_length,
    )


def _installed_environment(released: datetime) -> EnvironmentVersion:
    """The environment that every step runs in: what is installed here, locked and hashed."""
    from tunesmith.pipelines.fingerprints import environment_lock, text_sha256

    lock = environment_lock()
    sha256 = text_sha256("\n".join(lock))
    version = sha256[:12]
    return EnvironmentVersion(
        registry=SYSTEM_REGISTRY,
        name=INSTALLED_ENVIRONMENT,
        version=version,
        id=str(AssetReference(INSTALLED_ENVIRONMENT, version, registry=SYSTEM_REGISTRY, kind="environments")),
        description="What is installed where the server runs; steps run in it, none is built for them",
        created_at=released,
        spec={"distributions": lock},
        sha256=sha256,
    )
