"""Endpoints, their keys and their deployments: what is wanted. Calling them is for the faces."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Literal

import orjson
from fastapi import APIRouter, Path, Query
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import PlainTextResponse, StreamingResponse

from tunesmith.endpoints.collected import CollectedConversations
from tunesmith.endpoints.figures import deployment_metrics
from tunesmith.errors import UserError
from tunesmith.records.endpoints import (
    CreateDeployment,
    CreateEndpoint,
    Deployment,
    Endpoint,
    EndpointKeys,
    EndpointToken,
    UpdateDeployment,
    UpdateEndpoint,
)
from tunesmith.records.serving import DeploymentMetrics, RequestLine
from tunesmith.records.workspace import Deleted
from tunesmith.server.dependencies import GatewayOf, ServicesOf
from tunesmith.server.routes_computes import same_name
from tunesmith.server.workspace_metrics import workspace_metrics
from tunesmith.storage.atomic import size_on_disk

router = APIRouter(tags=["endpoints"])
metrics_router = APIRouter(tags=["workspace"])

EndpointName = Annotated[str, Path(description="Name of the endpoint.")]
DeploymentName = Annotated[str, Path(description="Name of the deployment.")]


@router.get("/endpoints")
def list_endpoints(services: ServicesOf) -> list[Endpoint]:
    """All endpoints."""
    return services.endpoints.list()


@router.get("/endpoints/{endpoint}")
def get_endpoint(services: ServicesOf, endpoint: EndpointName) -> Endpoint:
    """One endpoint."""
    return services.endpoints.get(endpoint)


@router.put("/endpoints/{endpoint}")
def create_or_update_endpoint(services: ServicesOf, endpoint: EndpointName, request: CreateEndpoint) -> Endpoint:
    """Create an endpoint with two keys, or change it."""
    same_name(endpoint, request.name)
    return services.endpoints.create_or_update(request)


@router.patch("/endpoints/{endpoint}")
def update_endpoint(services: ServicesOf, endpoint: EndpointName, request: UpdateEndpoint) -> Endpoint:
    """Change the parts that are given. New requests follow a new traffic split at once."""
    return services.endpoints.update(endpoint, request)


@router.delete("/endpoints/{endpoint}", status_code=202)
def delete_endpoint(services: ServicesOf, endpoint: EndpointName) -> Deleted:
    """Delete an endpoint with its deployments.

    It is gone once their processes and ports are free; until then it is `Deleting`.
    """
    services.endpoints.delete(endpoint)
    return Deleted(freed_bytes=size_on_disk(services.paths.endpoint(endpoint)))


@router.get("/endpoints/{endpoint}/keys")
def get_keys(services: ServicesOf, endpoint: EndpointName) -> EndpointKeys:
    """The two keys of an endpoint."""
    return services.endpoints.keys(endpoint)


@router.post("/endpoints/{endpoint}/keys/{key}/regenerate")
def regenerate_key(services: ServicesOf, endpoint: EndpointName, key: Literal["primary", "secondary"]) -> EndpointKeys:
    """Make one key anew; the other goes on working."""
    return services.endpoints.regenerate_key(endpoint, key)


@router.post("/endpoints/{endpoint}/token")
def get_token(services: ServicesOf, endpoint: EndpointName) -> EndpointToken:
    """A short-lived token of an endpoint whose `auth_mode` is `aml_token`."""
    return services.endpoints.token(endpoint)


@router.get("/endpoints/{endpoint}/deployments")
def list_deployments(services: ServicesOf, endpoint: EndpointName) -> list[Deployment]:
    """The deployments of an endpoint."""
    return services.endpoints.list_deployments(endpoint)


@router.get("/endpoints/{endpoint}/deployments/{deployment}")
def get_deployment(services: ServicesOf, endpoint: EndpointName, deployment: DeploymentName) -> Deployment:
    """One deployment with its instances and the phases they are in."""
    return services.endpoints.get_deployment(endpoint, deployment)


@router.put("/endpoints/{endpoint}/deployments/{deployment}")
def create_or_update_deployment(
    services: ServicesOf, endpoint: EndpointName, deployment: DeploymentName, request: CreateDeployment
) -> Deployment:
    """Create a deployment, or change it. The answer comes at once; `provisioning_state` says how far it is."""
    same_name(deployment, request.name)
    same_name(endpoint, request.endpoint)
    return services.endpoints.create_or_update_deployment(request)


@router.patch("/endpoints/{endpoint}/deployments/{deployment}")
def update_deployment(
    services: ServicesOf, endpoint: EndpointName, deployment: DeploymentName, request: UpdateDeployment
) -> Deployment:
    """Change the parts that are given."""
    return services.endpoints.update_deployment(endpoint, deployment, request)


@router.delete("/endpoints/{endpoint}/deployments/{deployment}", status_code=202)
def delete_deployment(services: ServicesOf, endpoint: EndpointName, deployment: DeploymentName) -> Deleted:
    """Delete a deployment. It is gone once its processes and ports are free; until then it is `Deleting`."""
    services.endpoints.delete_deployment(endpoint, deployment)
    return Deleted(freed_bytes=size_on_disk(services.paths.deployment(endpoint, deployment)))


@router.get("/endpoints/{endpoint}/deployments/{deployment}/logs", response_class=PlainTextResponse)
def get_deployment_logs(
    services: ServicesOf,
    endpoint: EndpointName,
    deployment: DeploymentName,
    lines: Annotated[int, Query(ge=1, le=10_000, description="How many lines from the end.")] = 100,
) -> str:
    """The last lines of the log of a deployment's instances."""
    return "".join(f"{line}\n" for line in services.endpoints.logs(endpoint, deployment, lines=lines))


@router.get("/endpoints/{endpoint}/metrics")
async def get_endpoint_metrics(
    services: ServicesOf, gateway: GatewayOf, endpoint: EndpointName
) -> list[DeploymentMetrics]:
    """The figures of each deployment: requests, errors, latencies, tokens, what runs and what waits."""
    return deployment_metrics(gateway, await run_in_threadpool(services.endpoints.list_deployments, endpoint))


@router.get("/endpoints/{endpoint}/requests")
def list_requests(
    services: ServicesOf,
    gateway: GatewayOf,
    endpoint: EndpointName,
    deployment: Annotated[str | None, Query(description="Only of this deployment.")] = None,
    lines: Annotated[int, Query(ge=1, le=10_000, description="How many, from the newest back.")] = 100,
) -> list[RequestLine]:
    """The newest entries of the request log, the oldest of them first. No key and no text is in them."""
    services.endpoints.get(endpoint)
    return gateway.journal.requests(endpoint, deployment, last=lines) if gateway.journal is not None else []


@router.get("/endpoints/{endpoint}/conversations", response_class=StreamingResponse)
def export_conversations(
    services: ServicesOf,
    gateway: GatewayOf,
    endpoint: EndpointName,
    deployment: Annotated[str | None, Query(description="Only of this deployment.")] = None,
    since: Annotated[datetime | None, Query(description="From this time on (ISO 8601, with its zone).")] = None,
    until: Annotated[datetime | None, Query(description="Before this time (ISO 8601, with its zone).")] = None,
    include_cut: Annotated[bool, Query(description="Also answers that were cut at their token limit.")] = False,
) -> StreamingResponse:
    """What the data collector kept, as training rows: `{"messages": […]}`, one a line.

    The last line is `{"export": {…}}`: how many were written and how many left out, with the reasons. Conversations
    outlive their deployment and their endpoint.
    """
    for name, moment in (("since", since), ("until", until)):
        if moment is not None and moment.tzinfo is None:
            raise UserError(f"{name} has no time zone", target=name, way_out=f"like {moment.isoformat()}Z")
    if gateway.journal is not None:
        gateway.journal.flush()
    collected = CollectedConversations(services.paths.collected, endpoint, deployment)

    def lines() -> Iterator[bytes]:
        for row in collected.rows(since=since, until=until, include_cut=include_cut):
            yield orjson.dumps(row) + b"\n"
        yield orjson.dumps({"export": collected.report().model_dump()}) + b"\n"

    return StreamingResponse(lines(), media_type="application/x-ndjson")


@router.delete("/endpoints/{endpoint}/conversations")
def delete_conversations(
    services: ServicesOf,
    gateway: GatewayOf,
    endpoint: EndpointName,
    deployment: Annotated[str | None, Query(description="Only of this deployment.")] = None,
) -> Deleted:
    """Delete what the data collector kept."""
    conversations = CollectedConversations(services.paths.collected, endpoint, deployment)
    journal = gateway.journal
    freed = conversations.delete() if journal is None else journal.forget(endpoint, conversations.delete)
    return Deleted(freed_bytes=freed)


@metrics_router.get("/metrics", response_class=PlainTextResponse)
async def get_workspace_metrics(services: ServicesOf, gateway: GatewayOf) -> PlainTextResponse:
    """Prometheus metrics of the whole workspace, with the workspace's token."""
    text = await run_in_threadpool(workspace_metrics, services, gateway)
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4; charset=utf-8")
