"""What stands above a workspace in Azure: one tenant, one subscription, one resource group. Command-line tools list
them when they log in.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request

from tunesmith.azure import arm
from tunesmith.azure.context import AzureContext
from tunesmith.azure.hosts import LOCATION, RESOURCE_GROUP


def create_subscriptions_router(context: AzureContext) -> APIRouter:
    """Tenants, subscriptions, resource groups. Each goes by any name, as the workspace does."""
    router = APIRouter()
    services = context.services

    @router.get("/tenants")
    def tenants(request: Request) -> dict[str, Any]:
        body = {
            "id": f"/tenants/{services.id}",
            "tenantId": services.id,
            "displayName": "Tunesmith",
            "defaultDomain": "tunesmith.local",
            "tenantCategory": "Home",
        }
        return arm.page(request, [body], dict, arm.list_options(request))

    @router.get("/subscriptions")
    def subscriptions(request: Request) -> dict[str, Any]:
        return arm.page(request, [services.id], _subscription, arm.list_options(request))

    @router.get("/subscription")
    def one(request: Request) -> dict[str, Any]:
        named = arm.target(request)
        if named.resource_group:
            return _group(named.subscription, named.resource_group)
        return _subscription(named.subscription)

    @router.get("/subscription/resourcegroups")
    def groups(request: Request) -> dict[str, Any]:
        subscription = arm.target(request).subscription
        options = arm.list_options(request)
        return arm.page(request, [RESOURCE_GROUP], lambda name: _group(subscription, name), options)

    def _subscription(identity: str) -> dict[str, Any]:
        return {
            "id": f"/subscriptions/{identity}",
            "subscriptionId": identity,
            "tenantId": services.id,
            "displayName": f"Tunesmith ({services.name})",
            "state": "Enabled",
            "authorizationSource": "RoleBased",
            "managedByTenants": [],
        }

    def _group(subscription: str, name: str) -> dict[str, Any]:
        return {
            "id": f"/subscriptions/{subscription}/resourceGroups/{name}",
            "name": name,
            "type": "Microsoft.Resources/resourceGroups",
            "location": LOCATION,
            "tags": {},
            "properties": {"provisioningState": "Succeeded"},
        }

    return router
