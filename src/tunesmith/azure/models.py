"""Models of the workspace: registered from a job's output, an uploaded folder or a path in a datastore; read, listed,
archived, deleted. The files are downloaded from the datastore that ``modelUri`` names.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from pydantic import Field
from starlette.requests import Request

from tunesmith.assets.references import DatastoreReference, JobOutputReference, parse_reference
from tunesmith.azure import arm
from tunesmith.azure.asset_routes import STAGE, add_workspace_routes
from tunesmith.azure.context import AzureContext
from tunesmith.azure.datastores import DEFAULT
from tunesmith.errors import UserError, ValidationFailed
from tunesmith.records.assets import WORKSPACE, ModelVersion, RegisterModel, UpdateAsset
from tunesmith.storage.artifacts import ALIASES

ANONYMOUS = "azureml.isAnonymous"
"""The property of a model that was registered without a name, on its way into a deployment."""
_OWN = (STAGE, ANONYMOUS)


class ModelProperties(arm.ArmBody):
    """``properties`` of a model version."""

    model_uri: str
    model_type: Literal["mlflow_model", "custom_model", "triton_model"] = "custom_model"
    description: str = ""
    tags: arm.Texts = Field(default_factory=dict)
    properties: arm.Texts = Field(default_factory=dict)
    flavors: dict[str, Any] = Field(default_factory=dict)
    """Not kept: what the model can be loaded as stands in its own MLmodel file, and is read from there."""
    stage: str | None = None
    is_anonymous: bool = False
    is_archived: bool = False
    job_name: str | None = None
    """Read only, as the two after it: a client that changes a model sends them back."""
    provisioning_state: str | None = None
    system_metadata: Any = None


class ModelBody(arm.ArmResource):
    """A model version as it is sent."""

    properties: ModelProperties


def create_models_router(context: AzureContext) -> APIRouter:
    """The routes below ``/workspace/models``."""
    router = APIRouter()
    models = context.services.models

    add_workspace_routes(router, models, model_body)

    @router.put("/workspace/models/{name}/versions/{version}")
    def put_version(request: Request, name: str, version: str, data: arm.Json) -> Response:
        asked = arm.read_body(ModelBody, data, what="model").properties
        known = next((record for record in models.versions(name) if record.version == version), None)
        if known is None:
            return JSONResponse(model_body(request, _register(context, name, version, asked)), status_code=201)
        return JSONResponse(model_body(request, _change(context, known, asked)))

    return router


def model_uri(request: Request, record: ModelVersion) -> str:
    """Where the files of a registered model lie, as a path in the datastore that clients download from.

    A folder's ends with a slash: clients take it for the beginning of names, and version 1 is not 10.
    """
    named = arm.target(request)
    return (
        f"azureml://subscriptions/{named.subscription}/resourceGroups/{named.resource_group}"
        f"/workspaces/{named.workspace}/datastores/{DEFAULT}/paths/{_stored(record)}"
    )


def _stored(record: ModelVersion) -> str:
    """The path of a registered model in the datastore: its folder, or the one file that it was registered from."""
    path = f"models/{record.name}/{record.version}"
    folder = Path(record.path) if record.path is not None else None
    if folder is not None and folder.is_file():
        return path
    file = (record.source or "").rpartition("/")[2]
    if (
        file
        and folder is not None
        and [entry.name for entry in folder.iterdir()] == [file]
        and (folder / file).is_file()
    ):
        return f"{path}/{file}"
    return f"{path}/"


def model_body(request: Request, record: ModelVersion) -> dict[str, Any]:
    """A model version as Azure has it. ``flavors`` are those of its MLmodel file."""
    properties = {
        "modelType": record.type,
        "modelUri": model_uri(request, record),
        "description": record.description,
        "tags": record.tags,
        "properties": {key: value for key, value in record.properties.items() if key not in _OWN},
        "flavors": flavors_of(record.path),
        "isArchived": record.archived,
        "isAnonymous": record.properties.get(ANONYMOUS) == "true",
        "provisioningState": "Succeeded",
    }
    if STAGE in record.properties:
        properties["stage"] = record.properties[STAGE]
    if record.lineage is not None and record.lineage.job is not None:
        properties["jobName"] = record.lineage.job
    return {
        "id": arm.asset_id(request, "models", record),
        "name": record.version,
        "type": "Microsoft.MachineLearningServices/workspaces/models/versions",
        "properties": properties,
        "systemData": arm.system_data(record.created_at),
    }


def flavors_of(path: str | None) -> dict[str, Any]:
    """What the MLmodel file in a folder says that the model can be loaded as; nothing where there is no such file."""
    if path is None:
        return {}
    try:
        read = yaml.safe_load((Path(path) / "MLmodel").read_text("utf-8"))
    except (OSError, yaml.YAMLError):
        return {}
    flavors = read.get("flavors") if isinstance(read, Mapping) else None
    if not isinstance(flavors, Mapping):
        return {}
    return {
        str(name): {"data": {str(key): str(value) for key, value in data.items() if value is not None}}
        for name, data in flavors.items()
        if isinstance(data, Mapping)
    }


def _register(context: AzureContext, name: str, version: str, asked: ModelProperties) -> ModelVersion:
    if asked.model_type == "triton_model":
        raise arm.refuse("models for Triton are not served here", target="properties.modelType")
    own = {STAGE: asked.stage} if asked.stage is not None else {}
    if asked.is_anonymous:
        own[ANONYMOUS] = "true"
    record = context.services.models.register(
        RegisterModel(
            name=name,
            version=version,
            path=_path(asked.model_uri),
            type=asked.model_type,
            description=asked.description,
            tags=asked.tags,
            properties={**asked.properties, **own},
        )
    )
    if asked.is_archived:
        return context.services.models.update(name, version, UpdateAsset(archived=True), registry=WORKSPACE)
    return record


def _change(context: AzureContext, known: ModelVersion, asked: ModelProperties) -> ModelVersion:
    """What may change of a version that is there: description, tags, archived."""
    sources = {f"models/{known.name}/{known.version}", _stored(known).rstrip("/"), _place(known.source or "")}
    if _place(asked.model_uri) not in sources:
        raise UserError(
            f"Asset paths cannot be updated: {known.name}:{known.version} is registered from another path",
            target="properties.modelUri",
            way_out="register a new version",
        )
    kept = {key: value for key, value in known.properties.items() if key not in _OWN}
    fixed = {
        "modelType": asked.model_type == known.type,
        "properties": asked.properties in ({}, kept),
        "stage": asked.stage is None or asked.stage == known.properties.get(STAGE),
    }
    for field, same in fixed.items():
        if not same:
            raise ValidationFailed(
                f"{known.name}:{known.version} is registered, and of a version only description, tags and isArchived "
                "change",
                target=f"properties.{field}",
                way_out="register a new version",
            )
    change = UpdateAsset(description=asked.description, tags=asked.tags, archived=asked.is_archived)
    return context.services.models.update(known.name, known.version, change, registry=WORKSPACE)


def _path(uri: str) -> str:
    """What a registration takes from ``uri``: a job's output or a path in the datastore.

    A job's output lies in the datastore, too, and is taken as that job's, so that the model knows where it came from.
    A path of this machine is refused: clients upload their folders first, and never mean the server's.
    """
    reference = parse_reference(uri, bare="path", target="properties.modelUri")
    if isinstance(reference, DatastoreReference) and reference.datastore in ALIASES:
        first, *rest = reference.path.rstrip("/").split("/")
        if first == "jobs" and len(rest) >= 2:
            return str(JobOutputReference(rest[0], rest[1], "/".join(rest[2:])))
    if not isinstance(reference, JobOutputReference | DatastoreReference):
        raise ValidationFailed(
            f"{uri[:200]!r} is neither a job's output nor a path in a datastore",
            target="properties.modelUri",
            way_out="give azureml://jobs/JOB/outputs/OUTPUT, azureml://datastores/workspaceblobstore/paths/PATH, or a "
            "local folder, which the SDK uploads",
        )
    return str(reference)


def _place(uri: str) -> str:
    """``uri`` so that two spellings of one place are equal: its path in the datastore."""
    if not uri:
        return ""
    reference = parse_reference(uri, bare="path")
    if isinstance(reference, DatastoreReference) and reference.datastore in ALIASES:
        return reference.path.rstrip("/")
    if isinstance(reference, JobOutputReference):
        return "/".join(filter(None, ["jobs", reference.job, reference.output, reference.path.rstrip("/")]))
    return str(reference)
