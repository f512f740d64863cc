"""Registries and their assets: models, data, components, environments."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Path, Query
from fastapi.responses import FileResponse

from tunesmith.errors import NotFound
from tunesmith.records.assets import (
    AssetKind,
    AssetVersion,
    ComponentVersion,
    DataVersion,
    EnvironmentVersion,
    ImportModel,
    ModelVersion,
    RegisterComponent,
    RegisterData,
    RegisterModel,
    Registry,
    UpdateAsset,
)
from tunesmith.records.base import Request
from tunesmith.records.jobs import Job
from tunesmith.records.workspace import Deleted, FileEntry
from tunesmith.server.dependencies import ServicesOf
from tunesmith.server.folders import list_files, send_file

router = APIRouter()

A = TypeVar("A", bound=AssetVersion)

RegistryName = Annotated[str, Path(description="`workspace` for the workspace's own shelf, or a registry: `azureml`.")]
Name = Annotated[str, Path(description="Name of the asset.")]
Version = Annotated[str, Path(description="Any version string.")]


class Resolve(Request):
    """A reference to look up."""

    kind: AssetKind
    reference: str
    """`azureml://registries/R/models/N/versions/V`, `azureml:N:V`, `N@latest`, `N:V` or `N`."""


@router.get("/registries", tags=["registries"])
def list_registries(services: ServicesOf) -> list[Registry]:
    """The shelves: the workspace's own and the registries."""
    return services.registries()


@router.post("/resolve", tags=["registries"])
def resolve(
    services: ServicesOf, request: Resolve
) -> ModelVersion | DataVersion | ComponentVersion | EnvironmentVersion:
    """The asset version that a reference points at."""
    found: ModelVersion | DataVersion | ComponentVersion | EnvironmentVersion
    found = services.assets(request.kind).resolve(request.reference)
    return found


def _routes(kind: AssetKind, record: type[A]) -> None:
    """The routes that every kind of asset has."""
    one = kind.rstrip("s") if kind != "data" else "data asset"
    base = f"/registries/{{registry}}/{kind}"

    def list_versions(
        services: ServicesOf,
        registry: RegistryName,
        name: Annotated[str | None, Query(description="Only this name, all its versions.")] = None,
        search: Annotated[str | None, Query(description="Words in the name, the description or the tags.")] = None,
        tag: Annotated[str | None, Query(description="`key` or `key=value`.")] = None,
        archived: Annotated[bool, Query(description="Also the archived ones.")] = False,
    ) -> Any:
        return services.assets(kind).list(registry=registry, name=name, search=search, tag=tag, archived=archived)

    def list_of_name(services: ServicesOf, registry: RegistryName, name: Name) -> Any:
        found = services.assets(kind).list(registry=registry, name=name, archived=True)
        if not found:
            raise NotFound(f"there is no {one} {name!r} in {registry}", target=f"{registry}/{kind}/{name}")
        return found

    def get_version(services: ServicesOf, registry: RegistryName, name: Name, version: Version) -> Any:
        return services.assets(kind).get(name, version, registry=registry)

    def get_label(services: ServicesOf, registry: RegistryName, name: Name, label: str) -> Any:
        return services.assets(kind).get(name, label=label, registry=registry)

    def update_version(
        services: ServicesOf, registry: RegistryName, name: Name, version: Version, request: UpdateAsset
    ) -> Any:
        return services.assets(kind).update(name, version, request, registry=registry)

    def delete_version(services: ServicesOf, registry: RegistryName, name: Name, version: Version) -> Deleted:
        return Deleted(freed_bytes=services.assets(kind).delete(name, version, registry=registry))

    tags: list[Any] = [kind]
    many: Any = list[record]  # type: ignore[valid-type]
    add = router.add_api_route
    version = f"{base}/{{name}}/versions/{{version}}"
    label = f"{base}/{{name}}/labels/{{label}}"
    word = one.replace(" ", "_")
    add(base, list_versions, response_model=many, tags=tags, name=f"list_{kind}", summary=f"List {kind}")
    for path, method, route, answer, name, summary in (
        (f"{base}/{{name}}", "GET", list_of_name, many, f"list_{word}_versions", f"All versions of a {one}"),
        (version, "GET", get_version, record, f"get_{word}_version", f"One version of a {one}"),
        (label, "GET", get_label, record, f"get_{word}_by_label", f"A {one} by label"),
        (
            version,
            "PATCH",
            update_version,
            record,
            f"update_{word}_version",
            f"Describe, tag, archive or restore a {one}",
        ),
        (version, "DELETE", delete_version, Deleted, f"delete_{word}_version", f"Delete a version of a {one}"),
    ):
        add(path, route, methods=[method], response_model=answer, tags=tags, name=name, summary=summary)


_routes("models", ModelVersion)
_routes("data", DataVersion)
_routes("components", ComponentVersion)
_routes("environments", EnvironmentVersion)


@router.get("/registries/{registry}/models/{name}/versions/{version}/files", tags=["models"])
def list_model_files(services: ServicesOf, registry: RegistryName, name: Name, version: Version) -> list[FileEntry]:
    """The files of a model."""
    return list_files(_folder(services, registry, name, version))


@router.get(
    "/registries/{registry}/models/{name}/versions/{version}/files/{path:path}",
    tags=["models"],
    response_class=FileResponse,
)
def get_model_file(
    services: ServicesOf, registry: RegistryName, name: Name, version: Version, path: str
) -> FileResponse:
    """One file of a model."""
    return send_file(_folder(services, registry, name, version), path)


@router.post("/models", tags=["models"], status_code=201)
def register_model(services: ServicesOf, request: RegisterModel) -> ModelVersion:
    """Register a model on the workspace's shelf, from a job's output or a folder."""
    return services.models.register(request)


@router.post("/models/import", tags=["models"], status_code=202)
def import_model(services: ServicesOf, request: ImportModel) -> Job | None:
    """Start the job that fetches a model's weights; `null` where they are here already."""
    return services.import_model(request)


@router.post("/data", tags=["data"], status_code=201)
def register_data(services: ServicesOf, request: RegisterData) -> DataVersion:
    """Register a file or folder of conversations; its bytes are copied."""
    return services.data.register(request)


@router.post("/components", tags=["components"], status_code=201)
def register_component(services: ServicesOf, request: RegisterComponent) -> ComponentVersion:
    """Register a component from its YAML, given as a mapping."""
    return services.components.register(request)


def _folder(services: Any, registry: str, name: str, version: str) -> Any:
    from pathlib import Path as FilePath

    model = services.models.get(name, version, registry=registry)
    if model.path is None:
        raise NotFound(
            f"the weights of {model.name}:{model.version} are not here yet",
            target=model.id,
            way_out=f"import them: `tunesmith models import {model.name}`",
        )
    return FilePath(model.path)
