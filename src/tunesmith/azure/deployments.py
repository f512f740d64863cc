"""Deployments of online endpoints: an MLflow chat model on instances of this machine.

A deployment comes up in the background, and its operation ends with it: well when every instance is ready, with the
instance's own cause when it cannot be brought up.
"""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import Field
from starlette.requests import Request

from tunesmith.azure import arm
from tunesmith.azure.context import AzureContext
from tunesmith.azure.deployment_bodies import deployment_body, wanted_deployment
from tunesmith.azure.operations import OperationState
from tunesmith.errors import DeploymentFailed, NotFound, error_from_dict
from tunesmith.records.endpoints import Deployment

CHANGE = "online deployment"
DELETION = "online deployment deletion"
NO_INITIALIZER = (
    "No container fetches the model here: an instance reads it where it lies. See the InferenceServer's log."
)


class LogsBody(arm.ArmBody):
    """Which lines of which log."""

    container_type: Literal["InferenceServer", "StorageInitializer", "ModelDataCollector"] = "InferenceServer"
    tail: int = Field(default=5000, ge=1)


def create_deployments_router(context: AzureContext) -> APIRouter:
    """The routes of ``/workspace/onlineendpoints/{endpoint}/deployments``."""
    router = APIRouter()
    endpoints = context.services.endpoints
    base = "/workspace/onlineendpoints/{endpoint}/deployments"

    def change(endpoint: str, deployment: str) -> OperationState:
        try:
            return state_of(endpoints.get_deployment(endpoint, deployment))
        except NotFound as error:
            return OperationState("Failed", error)

    def deletion(endpoint: str, deployment: str) -> OperationState:
        try:
            going = endpoints.get_deployment(endpoint, deployment).provisioning_state == "Deleting"
        except NotFound:
            going = False
        return OperationState("InProgress" if going else "Succeeded")

    context.operations.watch(CHANGE, change)
    context.operations.watch(DELETION, deletion)

    @router.get(base)
    def list_deployments(request: Request, endpoint: str) -> dict[str, Any]:
        options = arm.list_options(request)
        found = sorted(endpoints.list_deployments(endpoint), key=lambda record: record.created_at, reverse=True)
        return arm.page(request, found, lambda record: deployment_body(request, record), options)

    @router.get(base + "/{deployment}")
    def get_deployment(request: Request, endpoint: str, deployment: str) -> dict[str, Any]:
        return deployment_body(request, endpoints.get_deployment(endpoint, deployment))

    @router.put(base + "/{deployment}")
    def put_deployment(request: Request, endpoint: str, deployment: str, data: arm.Json) -> Response:
        known = any(record.name == deployment for record in endpoints.list_deployments(endpoint))
        record = endpoints.create_or_update_deployment(wanted_deployment(endpoint, deployment, data))
        return context.operations.accepted(
            request,
            CHANGE,
            endpoint,
            deployment,
            body=deployment_body(request, record),
            status=200 if known else 201,
        )

    @router.delete(base + "/{deployment}")
    def delete_deployment(request: Request, endpoint: str, deployment: str) -> Response:
        endpoints.delete_deployment(endpoint, deployment)
        return context.operations.accepted(request, DELETION, endpoint, deployment, status=202)

    @router.post(base + "/{deployment}/getlogs")
    def get_logs(endpoint: str, deployment: str, data: arm.Json) -> dict[str, str]:
        body = arm.read_body(LogsBody, data)
        if body.container_type == "ModelDataCollector":
            raise arm.refuse("no container collects a model's data here", target="containerType")
        lines = endpoints.logs(endpoint, deployment, lines=body.tail)
        if body.container_type == "StorageInitializer":
            lines = [NO_INITIALIZER]
        return {"content": "".join(f"{line}\n" for line in lines)}

    return router


def state_of(record: Deployment) -> OperationState:
    """How far a deployment is; a failed one with its cause and the end of its instance's log."""
    if record.provisioning_state == "Succeeded":
        return OperationState("Succeeded")
    if record.provisioning_state != "Failed":
        return OperationState("InProgress")
    cause = error_from_dict({"error": record.error or {}})
    return OperationState(
        "Failed",
        DeploymentFailed(
            f"the deployment {record.name!r} of the endpoint {record.endpoint!r} failed: {cause.message}",
            target=cause.target,
            way_out=cause.way_out or "read its log: online_deployments.get_logs(name, endpoint_name, lines)",
            details=cause.details,
        ),
    )
