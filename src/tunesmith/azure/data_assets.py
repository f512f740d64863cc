"""Data assets of the workspace: registered from an upload, a path in a datastore or a job's output."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from pydantic import Field
from starlette.requests import Request

from tunesmith.assets.references import DatastoreReference, JobOutputReference, parse_reference
from tunesmith.azure import arm
from tunesmith.azure.asset_routes import add_workspace_routes
from tunesmith.azure.context import AzureContext
from tunesmith.azure.datastores import DEFAULT
from tunesmith.errors import UserError, ValidationFailed
from tunesmith.records.assets import WORKSPACE, DataVersion, RegisterData, UpdateAsset
from tunesmith.storage.artifacts import ALIASES

DataType = Literal["uri_file", "uri_folder", "mltable"]


class PathFixed(UserError):
    """A version that is there was sent with other data. Code and message are those that the SDK looks for."""

    code = "UserError"


class DataProperties(arm.ArmBody):
    """``properties`` of a data version."""

    data_uri: str
    data_type: DataType = "uri_folder"
    description: str = ""
    tags: arm.Texts = Field(default_factory=dict)
    properties: arm.Texts = Field(default_factory=dict)
    referenced_uris: list[str] = Field(default_factory=list)
    """Not kept: an MLTable's own file names them."""
    is_anonymous: bool = False
    is_archived: bool = False
    provisioning_state: str | None = None


class DataBody(arm.ArmResource):
    """A data version as it is sent."""

    properties: DataProperties


def create_data_router(context: AzureContext) -> APIRouter:
    """The routes below ``/workspace/data``."""
    router = APIRouter()
    data = context.services.data

    add_workspace_routes(router, data, _answer)

    @router.put("/workspace/data/{name}/versions/{version}")
    def put_version(request: Request, name: str, version: str, body: arm.Json) -> Response:
        asked = arm.read_body(DataBody, body, what="data asset").properties
        known = next((record for record in data.versions(name) if record.version == version), None)
        if known is not None:
            return JSONResponse(_answer(request, _change(context, known, asked)))
        record = data.register(
            RegisterData(
                name=name,
                version=version,
                path=_path(asked.data_uri),
                type=asked.data_type,
                description=asked.description,
                tags=asked.tags,
                properties=asked.properties,
            )
        )
        if asked.is_archived:
            record = data.update(name, version, UpdateAsset(archived=True), registry=WORKSPACE)
        return JSONResponse(_answer(request, record), 201)

    return router


def data_path(record: DataVersion) -> str:
    """Where a registered data asset lies in the datastore."""
    path = f"data/{record.name}/{record.version}"
    return f"{path}/{record.path.rsplit('/', 1)[-1]}" if record.type == "uri_file" else f"{path}/"


def _answer(request: Request, record: DataVersion) -> dict[str, Any]:
    named = arm.target(request)
    return {
        "id": arm.asset_id(request, "data", record),
        "name": record.version,
        "type": "Microsoft.MachineLearningServices/workspaces/data/versions",
        "properties": {
            "dataType": record.type,
            "dataUri": f"azureml://subscriptions/{named.subscription}/resourcegroups/{named.resource_group}"
            f"/workspaces/{named.workspace}/datastores/{DEFAULT}/paths/{data_path(record)}",
            "description": record.description,
            "tags": record.tags,
            "properties": record.properties,
            "isAnonymous": False,
            "isArchived": record.archived,
        },
        "systemData": arm.system_data(record.created_at),
    }


def _change(context: AzureContext, known: DataVersion, asked: DataProperties) -> DataVersion:
    """What may change of a version that is there: description, tags, archived."""
    if _place(asked.data_uri) not in {data_path(known).rstrip("/"), _place(known.source or "")}:
        raise PathFixed("Asset paths cannot be updated.")
    if asked.data_type != known.type:
        raise ValidationFailed(
            f"{known.name}:{known.version} is a {known.type}, and a version never changes",
            target="properties.dataType",
            way_out="register a new version",
        )
    if asked.properties not in ({}, known.properties):
        raise ValidationFailed(
            f"{known.name}:{known.version} is registered, and of a version only texts, tags and isArchived change",
            target="properties.properties",
            way_out="register a new version, or use tags",
        )
    change = UpdateAsset(description=asked.description, tags=asked.tags, archived=asked.is_archived)
    return context.services.data.update(known.name, known.version, change, registry=WORKSPACE)


def _path(uri: str) -> str:
    """What a registration takes: a path in the datastore or a job's output, never a path of the server's machine."""
    reference = parse_reference(uri, bare="path", target="properties.dataUri")
    if not isinstance(reference, JobOutputReference | DatastoreReference):
        raise ValidationFailed(
            f"{uri[:200]!r} is neither a path in a datastore nor a job's output",
            target="properties.dataUri",
            way_out="give a local path, which the SDK uploads, or azureml://datastores/workspaceblobstore/paths/PATH",
        )
    return str(reference)


def _place(uri: str) -> str:
    """``uri`` so that two spellings of one place are equal."""
    if not uri:
        return ""
    reference = parse_reference(uri, bare="path")
    if isinstance(reference, DatastoreReference) and reference.datastore in ALIASES:
        return reference.path.rstrip("/")
    return str(reference)
