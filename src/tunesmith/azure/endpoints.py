"""Online endpoints: create, update, read, list, delete; traffic and mirrored traffic; keys and tokens.

An endpoint is made and changed at once, so only its end is a long-running operation. It is called at its own address:
``scoringUri`` is the workspace's plain one, with the key in ``Authorization``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from pydantic import Field
from starlette.requests import Request

from tunesmith.azure import arm
from tunesmith.azure.context import AzureContext
from tunesmith.azure.hosts import LOCATION
from tunesmith.azure.operations import OperationState
from tunesmith.errors import Conflict, NotFound
from tunesmith.records.endpoints import CreateEndpoint, Endpoint

AuthMode = Literal["Key", "AMLToken", "AADToken"]

_AUTH_MODES: Mapping[str, Literal["key", "aml_token"]] = {"Key": "key", "AMLToken": "aml_token"}
_WIRE_AUTH_MODES: Mapping[str, str] = {ours: azure for azure, ours in _AUTH_MODES.items()}
DELETION = "online endpoint deletion"


class EndpointProperties(arm.ArmBody):
    """``properties`` of an online endpoint."""

    auth_mode: AuthMode = "Key"
    description: str = ""
    properties: dict[str, str] = Field(default_factory=dict)
    traffic: dict[str, int] = Field(default_factory=dict)
    mirror_traffic: dict[str, int] = Field(default_factory=dict)
    compute: str | None = None
    public_network_access: Literal["Enabled", "Disabled", "enabled", "disabled"] = "Enabled"
    keys: Any = None
    endpoint: str | None = None
    """The endpoint's name once more, as some clients send it with a change of traffic."""
    provisioning_state: str | None = None
    """Read only, as the two after it: a client that changes an endpoint sends them back."""
    scoring_uri: str | None = None
    swagger_uri: str | None = None


class EndpointBody(arm.ArmResource):
    """An online endpoint as it is sent. What is in no field of ours is read only, or only says where Azure keeps it."""

    properties: EndpointProperties
    location: str | None = None
    tags: dict[str, str] = Field(default_factory=dict)
    identity: Any = None
    kind: str | None = None
    sku: Any = None


class RegenerateBody(arm.ArmBody):
    """Which key to make anew."""

    key_type: Literal["Primary", "Secondary", "primary", "secondary"]
    key_value: str | None = None
    """The key's value until now, as the SDK sends it; a new one is always made here."""


def create_endpoints_router(context: AzureContext) -> APIRouter:
    """The routes of ``/workspace/onlineendpoints``, but for their deployments."""
    router = APIRouter()
    endpoints = context.services.endpoints

    def deletion(name: str) -> OperationState:
        try:
            going = endpoints.get(name).provisioning_state == "Deleting"
        except NotFound:
            going = False
        return OperationState("InProgress" if going else "Succeeded")

    context.operations.watch(DELETION, deletion)

    @router.get("/workspace/onlineendpoints")
    def list_endpoints(request: Request) -> dict[str, Any]:
        options = arm.list_options(request)
        found = sorted(endpoints.list(), key=lambda record: record.created_at, reverse=True)
        return arm.page(request, found, lambda record: endpoint_body(request, record), options)

    @router.get("/workspace/onlineendpoints/{endpoint}")
    def get_endpoint(request: Request, endpoint: str) -> dict[str, Any]:
        return endpoint_body(request, endpoints.get(endpoint))

    @router.put("/workspace/onlineendpoints/{endpoint}")
    def put_endpoint(request: Request, endpoint: str, data: arm.Json) -> Response:
        body = arm.read_body(EndpointBody, data, what="online endpoint")
        known = any(record.name == endpoint for record in endpoints.list())
        record = endpoints.create_or_update(_wanted(endpoint, body))
        return JSONResponse(endpoint_body(request, record), status_code=200 if known else 201)

    @router.delete("/workspace/onlineendpoints/{endpoint}")
    def delete_endpoint(request: Request, endpoint: str) -> Response:
        endpoints.delete(endpoint)
        return context.operations.accepted(request, DELETION, endpoint, status=202)

    @router.post("/workspace/onlineendpoints/{endpoint}/listkeys")
    def list_keys(endpoint: str) -> dict[str, str]:
        _uses_keys(endpoints.get(endpoint))
        keys = endpoints.keys(endpoint)
        return {"primaryKey": keys.primary_key, "secondaryKey": keys.secondary_key}

    @router.post("/workspace/onlineendpoints/{endpoint}/regeneratekeys")
    def regenerate_keys(endpoint: str, data: arm.Json) -> Response:
        body = arm.read_body(RegenerateBody, data)
        _uses_keys(endpoints.get(endpoint))
        endpoints.regenerate_key(endpoint, "primary" if body.key_type.lower() == "primary" else "secondary")
        return Response(status_code=200)

    @router.post("/workspace/onlineendpoints/{endpoint}/token")
    def get_token(endpoint: str) -> dict[str, Any]:
        token = endpoints.token(endpoint)
        return {
            "accessToken": token.access_token,
            "expiryTimeUtc": token.expiry_time_utc,
            "refreshAfterTimeUtc": token.refresh_after_time_utc,
            "tokenType": "Bearer",
        }

    return router


def endpoint_body(request: Request, record: Endpoint) -> dict[str, Any]:
    """An online endpoint as Azure has it; its traffic names only deployments that get some, as Azure's does."""
    return {
        "id": arm.resource_id(request, "onlineEndpoints", record.name),
        "name": record.name,
        "type": "Microsoft.MachineLearningServices/workspaces/onlineEndpoints",
        "location": LOCATION,
        "kind": "Managed",
        "tags": record.tags,
        "identity": {"type": "SystemAssigned"},
        "properties": {
            "authMode": _WIRE_AUTH_MODES[record.auth_mode],
            "description": record.description,
            "properties": record.properties,
            "traffic": _some(record.traffic),
            "mirrorTraffic": _some(record.mirror_traffic),
            "publicNetworkAccess": "Enabled",
            "scoringUri": record.scoring_uri,
            "provisioningState": record.provisioning_state,
        },
        "systemData": arm.system_data(record.created_at),
    }


def _wanted(name: str, body: EndpointBody) -> CreateEndpoint:
    asked = body.properties
    arm.check_identity(body.identity)
    if asked.compute is not None:
        raise arm.refuse("endpoints on Kubernetes are not served here; managed ones are", target="properties.compute")
    if asked.keys is not None:
        raise arm.refuse("keys cannot be chosen, the endpoint makes its own", target="properties.keys")
    if asked.auth_mode not in _AUTH_MODES:
        raise arm.refuse(
            "there are no accounts here that an AADToken could name",
            target="properties.authMode",
            way_out="use Key (auth_mode='key') or AMLToken (auth_mode='aml_token')",
        )
    if asked.public_network_access.lower() == "disabled":
        raise arm.refuse(
            "an endpoint listens where its server does, and cannot be reached less far",
            target="properties.publicNetworkAccess",
            way_out="leave it out; a server listens on loopback alone unless it is told otherwise",
        )
    return CreateEndpoint(
        name=name,
        auth_mode=_AUTH_MODES[asked.auth_mode],
        description=asked.description,
        tags=body.tags,
        properties=asked.properties,
        traffic=asked.traffic,
        mirror_traffic=asked.mirror_traffic,
    )


def _uses_keys(record: Endpoint) -> None:
    if record.auth_mode != "key":
        raise Conflict(
            f"the endpoint {record.name!r} uses tokens, not keys",
            target="authMode",
            way_out="ask for a token, or update its auth mode to Key",
        )


def _some(shares: Mapping[str, int]) -> dict[str, int]:
    return {name: percent for name, percent in shares.items() if percent}
