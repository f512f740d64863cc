"""Environments: recorded and shown. Steps run in the environment that is installed; none is built."""

from __future__ import annotations

from typing import Any, Literal

import yaml
from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from pydantic import Field
from starlette.requests import Request

from tunesmith.azure import arm
from tunesmith.azure.asset_routes import add_registry_routes, add_workspace_routes
from tunesmith.azure.context import AzureContext
from tunesmith.azure.paths import PROVIDER
from tunesmith.errors import AlreadyExists
from tunesmith.records.assets import WORKSPACE, EnvironmentVersion, UpdateAsset

ANONYMOUS = "azureml.isAnonymous"
"""In the spec of an environment that was registered without a name."""

NO_REBUILD = "Disabled"
"""The one ``autoRebuild`` there is."""


class EnvironmentProperties(arm.ArmBody):
    """``properties`` of an environment version."""

    image: str | None = None
    conda_file: str | None = None
    """The text of the file."""
    build: Any = None
    """A build context, which is refused: no image is ever built."""
    inference_config: dict[str, Any] | None = None
    os_type: Literal["Linux"] = "Linux"
    description: str = ""
    tags: arm.Texts = Field(default_factory=dict)
    properties: arm.Texts = Field(default_factory=dict)
    is_anonymous: bool = False
    is_archived: bool = False
    auto_rebuild: str | None = None
    stage: str | None = None
    environment_type: str | None = None
    """Read only, as the next."""
    provisioning_state: str | None = None


class EnvironmentBody(arm.ArmResource):
    """An environment version as it is sent."""

    properties: EnvironmentProperties


def create_environments_router(context: AzureContext) -> APIRouter:
    """The routes of environments."""
    router = APIRouter()
    environments = context.services.environments

    @router.put("/workspace/environments/{name}/versions/{version}")
    def put_environment(request: Request, name: str, version: str, data: arm.Json) -> Response:
        asked = arm.read_body(EnvironmentBody, data, what="environment").properties
        if asked.build is not None:
            raise arm.refuse(
                "environments are not built here: a step runs in the environment that is installed",
                target="properties.build",
                way_out="name an image or a conda file, which are recorded, and install what the step needs",
            )
        if asked.auto_rebuild is not None and asked.auto_rebuild != NO_REBUILD:
            raise arm.refuse(
                "an environment that is never built is not built anew",
                target="properties.autoRebuild",
                way_out="leave it out",
            )
        if asked.stage is not None:
            raise arm.refuse("environments here have no stage", target="properties.stage", way_out="use a tag")
        spec = _spec(asked)
        known = next((record for record in environments.versions(name) if record.version == version), None)
        if known is None:
            record = environments.register(name, spec, version=version, description=asked.description, tags=asked.tags)
            if asked.is_archived:
                record = environments.archive(name, version)
            return JSONResponse(environment_body(request, record), status_code=201)
        if known.spec != spec:
            raise AlreadyExists(
                f"the environment {name!r} has a version {version!r} already, and versions never change",
                target="version",
                way_out="choose another version",
            )
        change = UpdateAsset(description=asked.description, tags=asked.tags, archived=asked.is_archived)
        return JSONResponse(environment_body(request, environments.update(name, version, change, registry=WORKSPACE)))

    add_workspace_routes(router, environments, environment_body)
    add_registry_routes(router, environments, environment_body)
    return router


def environment_body(request: Request, record: EnvironmentVersion) -> dict[str, Any]:
    """An environment version as Azure has it. What is installed here is shown as a conda file."""
    own = record.registry == WORKSPACE
    properties: dict[str, Any] = {
        "environmentType": "UserCreated" if own else "Curated",
        "osType": "Linux",
        "description": record.description,
        "tags": record.tags,
        "properties": record.spec.get("properties") or {},
        "isAnonymous": record.spec.get(ANONYMOUS) is True,
        "isArchived": record.archived,
        "autoRebuild": NO_REBUILD,
        "provisioningState": "Succeeded",
    }
    for key, field in _FIELDS.items():
        if record.spec.get(key) is not None:
            properties[field] = record.spec[key]
    if isinstance(record.spec.get("distributions"), list):
        properties["condaFile"] = yaml.safe_dump(
            {"name": record.name, "dependencies": [{"pip": list(record.spec["distributions"])}]}, sort_keys=False
        )
    return {
        "id": arm.asset_id(request, "environments", record),
        "name": record.version,
        "type": f"{PROVIDER}/{'workspaces' if own else 'registries'}/environments/versions",
        "properties": properties,
        "systemData": arm.system_data(record.created_at),
    }


_FIELDS = {"image": "image", "conda_file": "condaFile", "inference_config": "inferenceConfig"}


def _spec(asked: EnvironmentProperties) -> dict[str, Any]:
    """What is recorded, in the words of Azure ML's YAML."""
    found: dict[str, Any] = {
        "image": asked.image,
        "conda_file": asked.conda_file,
        "inference_config": asked.inference_config,
        "properties": asked.properties or None,
        ANONYMOUS: asked.is_anonymous or None,
    }
    return {key: value for key, value in found.items() if value is not None}
