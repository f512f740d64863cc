"""The workspace as a resource, and the documents that clients read to find the rest."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request

from tunesmith.azure import arm
from tunesmith.azure.blob_account import account_name
from tunesmith.azure.context import AzureContext
from tunesmith.azure.environment import CLOUD
from tunesmith.azure.hosts import LOCATION, RESOURCE_GROUP
from tunesmith.azure.paths import PROVIDER

KIND = "Default"
"""Beside hubs, projects and feature stores, which do not exist here."""


def create_workspaces_router(context: AzureContext) -> APIRouter:
    """Workspaces, discovery, cloud metadata."""
    router = APIRouter()
    services = context.services

    @router.get("/workspace")
    def get_workspace(request: Request) -> dict[str, Any]:
        named = arm.target(request)
        return _body(request, named.resource_group, named.workspace)

    @router.get("/subscription/workspaces")
    def list_workspaces(request: Request) -> dict[str, Any]:
        options = arm.list_options(request, "kind")
        kinds = options.extra.get("kind", "").lower().split(",")
        found = [services.name] if kinds == [""] or KIND.lower() in kinds else []
        group = arm.target(request).resource_group or RESOURCE_GROUP
        return arm.page(request, found, lambda name: _body(request, group, name), options)

    @router.get("/workspace/connections")
    def list_connections(request: Request) -> dict[str, Any]:
        # Clients look here for connections to other services; there are none.
        return arm.page(request, [], dict, arm.list_options(request, "target", "category", "includeAll"))

    @router.get("/discovery")
    def discovery(request: Request) -> dict[str, str]:
        url = arm.api_url(request)
        return dict.fromkeys(("api", "history", "experimentation", "modelmanagement", "catalog"), url)

    @router.get("/metadata/endpoints")
    def clouds(request: Request) -> list[dict[str, Any]]:
        """The cloud that this server is, for clients that come without a proxy."""
        base = f"https://{arm.target(request).host}/"
        return [
            {
                "name": CLOUD,
                # The audience of tokens is made of this one's name: https://ml.azure.local.
                "portal": "https://portal.azure.local",
                "resourceManager": base,
                "authentication": {"loginEndpoint": f"{base}login/", "audiences": [base]},
                "suffixes": {"storage": arm.target(request).host},
            }
        ]

    def _body(request: Request, group: str, name: str) -> dict[str, Any]:
        subscription = arm.target(request).subscription
        identity = f"/subscriptions/{subscription}/resourceGroups/{group}/providers/{PROVIDER}/workspaces/{name}"
        api = arm.api_url(request).removeprefix("https://")
        return {
            "id": identity,
            "name": name,
            "type": f"{PROVIDER}/workspaces",
            "kind": KIND,
            "location": LOCATION,
            "tags": {},
            "identity": {"type": "SystemAssigned", "principalId": services.id, "tenantId": services.id},
            "sku": {"name": "Basic", "tier": "Basic"},
            "properties": {
                "workspaceId": services.id,
                "friendlyName": services.name,
                "description": "A Tunesmith workspace on this machine",
                "discoveryUrl": f"{arm.api_url(request)}/discovery",
                "mlFlowTrackingUri": f"azureml://{api}/mlflow/v1.0{identity}",
                "storageAccount": f"/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.Storage/"
                f"storageAccounts/{account_name(services.id)}",
                "provisioningState": "Succeeded",
                "publicNetworkAccess": "Disabled",
                "hbiWorkspace": False,
                "v1LegacyMode": False,
                "tenantId": services.id,
            },
            "systemData": arm.system_data(services.created_at),
        }

    return router
