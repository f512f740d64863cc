"""The routes that all kinds of assets share, on the workspace's shelf and in the registry.

``/workspace/KIND`` and ``/registry/R/KIND``: names, one name, the versions of a name, one version. The newest version
is the first of a list; ``azureml_default`` is what clients ask for where they name none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from tunesmith.assets.service import AssetService
from tunesmith.azure import arm
from tunesmith.azure.paths import PROVIDER
from tunesmith.errors import NotFound
from tunesmith.records.assets import WORKSPACE, AssetVersion, DataVersion, UpdateAsset

R = TypeVar("R", bound=AssetVersion)
Body = Callable[[Request, Any], dict[str, Any]]

DEFAULT_LABEL = "azureml_default"
STAGE = "azureml.stage"
"""The property that keeps a version's ``stage``, for which there is no field of its own."""


class ContainerProperties(arm.ArmBody):
    """``properties`` of a name, as they are sent to archive or restore it."""

    is_archived: bool = False
    description: str | None = None
    tags: arm.Texts | None = None
    properties: arm.Texts | None = None
    latest_version: str | None = None
    next_version: str | None = None
    provisioning_state: str | None = None
    data_type: str | None = None
    """Sent back for data assets."""


class ContainerBody(arm.ArmResource):
    """A name as it is sent."""

    properties: ContainerProperties = Field(default_factory=ContainerProperties)


def add_registry_routes(router: APIRouter, service: AssetService[R], body: Body) -> None:
    """The routes below ``/registry/R/KIND``, which only read."""
    kind = service.kind

    @router.get(f"/registry/{{registry}}/{kind}")
    def names(request: Request, registry: str) -> dict[str, Any]:
        return _names(request, service, service.list(registry.lower(), archived=True))

    @router.get(f"/registry/{{registry}}/{kind}/{{name}}")
    def one_name(request: Request, registry: str, name: str) -> dict[str, Any]:
        return container_body(request, service, _known(service, name, registry.lower()))

    @router.get(f"/registry/{{registry}}/{kind}/{{name}}/versions")
    def versions(request: Request, registry: str, name: str) -> dict[str, Any]:
        return _versions(request, service.versions(name, registry=registry.lower()), body)

    @router.get(f"/registry/{{registry}}/{kind}/{{name}}/versions/{{version}}")
    def one_version(request: Request, registry: str, name: str, version: str) -> dict[str, Any]:
        return body(request, _one(service, name, version, registry.lower()))

    @router.get(f"/registry/{{registry}}/{kind}/{{name}}/labels/{{label}}")
    def labelled(request: Request, registry: str, name: str, label: str) -> dict[str, Any]:
        return body(request, service.get(name, label=label, registry=registry.lower()))


def add_workspace_routes(router: APIRouter, service: AssetService[R], body: Body) -> None:
    """The routes below ``/workspace/KIND``, but for registering a version."""
    kind = service.kind

    @router.get(f"/workspace/{kind}")
    def names(request: Request) -> dict[str, Any]:
        return _names(request, service, service.list(WORKSPACE, archived=True))

    @router.get(f"/workspace/{kind}/{{name}}")
    def one_name(request: Request, name: str) -> dict[str, Any]:
        return container_body(request, service, _known(service, name, WORKSPACE))

    @router.put(f"/workspace/{kind}/{{name}}")
    def change_name(request: Request, name: str, data: arm.Json) -> dict[str, Any]:
        asked = arm.read_body(ContainerBody, data, what=service.word).properties
        known = _known(service, name, WORKSPACE)
        shown = container_body(request, service, known)["properties"]
        for field, given in (
            ("description", asked.description),
            ("tags", asked.tags),
            ("properties", asked.properties),
        ):
            if given and given != shown[field]:
                raise arm.refuse(
                    f"a name has the {field} of its newest version, and none of its own",
                    target=f"properties.{field}",
                    way_out="describe a version",
                )
        for record in known:
            if record.archived != asked.is_archived:
                service.update(name, record.version, UpdateAsset(archived=asked.is_archived), registry=WORKSPACE)
        return container_body(request, service, _known(service, name, WORKSPACE))

    @router.get(f"/workspace/{kind}/{{name}}/versions")
    def versions(request: Request, name: str) -> dict[str, Any]:
        return _versions(request, service.versions(name), body)

    @router.get(f"/workspace/{kind}/{{name}}/versions/{{version}}")
    def one_version(request: Request, name: str, version: str) -> dict[str, Any]:
        return body(request, _one(service, name, version, WORKSPACE))

    @router.delete(f"/workspace/{kind}/{{name}}/versions/{{version}}")
    def delete_version(name: str, version: str) -> Response:
        service.delete(name, version, registry=WORKSPACE)
        return Response(status_code=200)


def container_body(request: Request, service: AssetService[R], versions: Sequence[R]) -> dict[str, Any]:
    """A name, with what its versions (at least one, the newest first) make of it."""
    latest = next((version for version in versions if not version.archived), versions[0])
    own = latest.registry == WORKSPACE
    kept = {"dataType": latest.type} if isinstance(latest, DataVersion) else {}
    return {
        "id": arm.resource_id(request, service.kind, latest.name)
        if own
        else f"azureml://registries/{latest.registry}/{service.kind}/{latest.name}",
        "name": latest.name,
        "type": f"{PROVIDER}/{'workspaces' if own else 'registries'}/{service.kind}",
        "properties": {
            **kept,
            "description": latest.description,
            "tags": latest.tags,
            "properties": {},
            "isArchived": all(version.archived for version in versions),
            "latestVersion": latest.version,
            "nextVersion": service.next_version(latest.name) if own else None,
            "provisioningState": "Succeeded",
        },
        "systemData": arm.system_data(versions[-1].created_at, versions[0].created_at),
    }


def _names(request: Request, service: AssetService[R], records: Sequence[R]) -> dict[str, Any]:
    options = arm.list_options(request)
    by_name: dict[str, list[R]] = {}
    for record in records:
        if not record.name.startswith(HIDDEN):
            by_name.setdefault(record.name, []).append(record)
    found = [
        versions
        for versions in by_name.values()
        if arm.in_view(all(version.archived for version in versions), options.view)
    ]
    found.sort(key=lambda versions: versions[0].created_at, reverse=True)
    return arm.page(request, found, lambda versions: container_body(request, service, versions), options)


def _versions(request: Request, records: Sequence[R], body: Body) -> dict[str, Any]:
    options = arm.list_options(request, "stage", "version", "tags", "$tags")
    shown = [
        record for record in records if arm.in_view(record.archived, options.view) and _asked(record, options.extra)
    ]
    return arm.page(request, shown, lambda record: body(request, record), options)


def _asked(record: AssetVersion, asked: Mapping[str, str]) -> bool:
    if "version" in asked and record.version != asked["version"]:
        return False
    if "stage" in asked and record.properties.get(STAGE) != asked["stage"]:
        return False
    return arm.has_tags(record.tags, asked.get("$tags", asked.get("tags", "")))


def _one(service: AssetService[R], name: str, version: str, registry: str) -> R:
    if version == DEFAULT_LABEL:
        return service.get(name, registry=registry)
    return service.get(name, version, registry=registry)


def _known(service: AssetService[R], name: str, registry: str) -> Sequence[R]:
    found = service.versions(name, registry=registry)
    if not found:
        raise NotFound(f"there is no {service.word} {name[:80]!r}", target="name")
    return found


HIDDEN = ("azureml_anonymous", "CliV2AnonymousEnvironment")
"""Names that clients give to what a job brings along; not shown among the names."""
