"""Components: those of the system registry, and those that users register, with or without a name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from pydantic import Field
from starlette.requests import Request

from tunesmith.assets.references import AssetReference, parse_reference
from tunesmith.azure import arm
from tunesmith.azure.asset_routes import add_registry_routes, add_workspace_routes
from tunesmith.azure.code_assets import code_folder
from tunesmith.azure.component_specs import (
    ANONYMOUS_PROPERTY,
    CODE_PROPERTY,
    ENVIRONMENT_PROPERTY,
    HASH_PROPERTY,
    OWN_PROPERTIES,
    from_wire,
    kept_properties,
    to_wire,
)
from tunesmith.azure.context import AzureContext
from tunesmith.azure.paths import PROVIDER
from tunesmith.errors import AlreadyExists, ValidationFailed
from tunesmith.records.assets import WORKSPACE, ComponentVersion, RegisterComponent, UpdateAsset


class ComponentProperties(arm.ArmBody):
    """``properties`` of a component version."""

    component_spec: dict[str, Any]
    description: str | None = None
    tags: arm.Texts = Field(default_factory=dict)
    properties: arm.Texts = Field(default_factory=dict)
    is_anonymous: bool = False
    is_archived: bool = False
    stage: str | None = None
    provisioning_state: str | None = None


class ComponentBody(arm.ArmResource):
    """A component version as it is sent."""

    properties: ComponentProperties


def create_components_router(context: AzureContext) -> APIRouter:
    """The routes of components."""
    router = APIRouter()
    components = context.services.components

    @router.put("/workspace/components/{name}/versions/{version}")
    def put_component(request: Request, name: str, version: str, data: arm.Json) -> Response:
        asked = arm.read_body(ComponentBody, data, what="component").properties
        if asked.stage is not None:
            raise arm.refuse("components have no stage here", target="properties.stage", way_out="leave it out")
        known = next((record for record in components.versions(name) if record.version == version), None)
        if known is None:
            record = _register(context, name, version, asked)
            return JSONResponse(component_body(request, record), status_code=201)
        _check_same(known, asked)
        change = UpdateAsset(
            description=asked.description if asked.description is not None else None,
            tags=asked.tags,
            archived=asked.is_archived,
        )
        return JSONResponse(component_body(request, components.update(name, version, change, registry=WORKSPACE)))

    add_workspace_routes(router, components, component_body)
    add_registry_routes(router, components, component_body)
    return router


def component_body(request: Request, record: ComponentVersion) -> dict[str, Any]:
    """A component version as Azure has it."""
    own = record.registry == WORKSPACE
    kept = kept_properties(record)
    return {
        "id": arm.asset_id(request, "components", record),
        "name": record.version,
        "type": f"{PROVIDER}/{'workspaces' if own else 'registries'}/components/versions",
        "properties": {
            "componentSpec": to_wire(record, lambda reference: wire_id(request, str(reference))),
            "description": record.description,
            "tags": record.tags,
            "properties": {key: value for key, value in kept.items() if key not in OWN_PROPERTIES},
            "isAnonymous": kept.get(ANONYMOUS_PROPERTY) == "true",
            "isArchived": record.archived,
            "provisioningState": "Succeeded",
        },
        "systemData": arm.system_data(record.created_at),
    }


def wire_id(request: Request, reference: str) -> str:
    """The id that a client knows for a reference to an asset: a registry's stays, one of this workspace becomes ARM's.

    What is no reference to an asset (code, a name that only the client knows) stays as it is.
    """
    if "/codes/" in reference or reference.startswith("azureml://registries/"):
        return reference
    try:
        found = parse_reference(reference, kind="components", target="component")
    except ValidationFailed:
        return reference
    if not isinstance(found, AssetReference) or found.registry not in {None, WORKSPACE} or found.version is None:
        return reference
    return arm.resource_id(request, "components", found.name, "versions", found.version)


def _register(context: AzureContext, name: str, version: str, asked: ComponentProperties) -> ComponentVersion:
    spec = from_wire(asked.component_spec)
    kind = str(spec.get("type", "command"))
    if kind not in {"command", "pipeline"}:
        raise arm.refuse(
            f"components of the type {kind[:40]!r} are not here; command and pipeline are",
            target="properties.componentSpec.type",
        )
    properties = {**_texts(spec.get("properties")), **asked.properties}
    if asked.is_anonymous:
        properties[ANONYMOUS_PROPERTY] = "true"
    code = spec.pop("code", None)
    if isinstance(code, str) and code:
        properties[CODE_PROPERTY] = code
        spec["code"] = str(code_folder(context, code, target="properties.componentSpec.code"))
    environment = spec.get("environment")
    if isinstance(environment, str):
        properties[ENVIRONMENT_PROPERTY] = environment
        spec["environment"] = arm.short_reference(environment)
    if asked.description is not None:
        spec["description"] = asked.description
    spec |= {"name": name, "tags": {**_texts(spec.get("tags")), **asked.tags}, "properties": properties}
    record = context.services.components.register(RegisterComponent(spec=spec, version=version))
    if asked.is_archived:
        return context.services.components.archive(name, version)
    return record


def _check_same(known: ComponentVersion, asked: ComponentProperties) -> None:
    """Only the description, the tags and whether it is archived may change.

    Raises:
        AlreadyExists: the version is another component.
    """
    given, kept = asked.properties.get(HASH_PROPERTY), kept_properties(known).get(HASH_PROPERTY)
    same = given == kept if given and kept else _essence(asked.component_spec) == _essence(to_wire(known, str))
    if not same:
        raise AlreadyExists(
            f"the component {known.name!r} has a version {known.version!r} already, and versions never change",
            target="version",
            way_out="leave the version out to get the next number, or choose another",
        )


def _essence(spec: Mapping[str, Any]) -> Any:
    """What a version consists of, alike for what a client first sends and what it sends back."""
    found = from_wire(spec)
    inputs = {name: {**entry, "type": str(entry.get("type", "")).lower()} for name, entry in _entries(found, "inputs")}
    outputs = {name: str(entry.get("type", "")).lower() for name, entry in _entries(found, "outputs")}
    return found.get("command"), inputs, outputs, found.get("code"), found.get("jobs")


def _entries(spec: Mapping[str, Any], key: str) -> list[tuple[str, Mapping[str, Any]]]:
    return [(name, entry) for name, entry in (spec.get(key) or {}).items() if isinstance(entry, Mapping)]


def _texts(value: Any) -> dict[str, str]:
    return {str(key): str(item) for key, item in value.items()} if isinstance(value, Mapping) else {}
