"""Registries: there is one, the system registry. What is on it is in ``asset_routes`` and ``registry_models``."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request

from tunesmith.azure import arm
from tunesmith.azure.context import AzureContext
from tunesmith.azure.hosts import LOCATION
from tunesmith.azure.paths import PROVIDER
from tunesmith.errors import NotFound
from tunesmith.records.assets import SYSTEM_REGISTRY

REGISTRY_GROUP = "azureml-registries"
"""Resource group of the system registry, in URLs."""


def create_registries_router(context: AzureContext) -> APIRouter:
    """A registry by its name, the list of them, and the document that clients find a registry's assets by."""
    router = APIRouter()
    services = context.services

    @router.get("/registrymanagement/v1.0/registries/{registry}/discovery")
    def discovery(request: Request, registry: str) -> dict[str, Any]:
        check_registry(registry)
        return {
            "registryName": SYSTEM_REGISTRY,
            "primaryRegion": LOCATION,
            "regions": [LOCATION],
            "primaryRegionResourceProviderUri": f"{arm.registry_url(request)}/",
            "resourceGroup": REGISTRY_GROUP,
            "subscriptionId": services.id,
        }

    @router.get("/subscription/registries")
    def list_registries(request: Request) -> dict[str, Any]:
        return arm.page(request, [SYSTEM_REGISTRY], lambda name: _body(request), arm.list_options(request))

    @router.get("/registry/{registry}")
    def get(request: Request, registry: str) -> dict[str, Any]:
        check_registry(registry)
        return _body(request)

    def _body(request: Request) -> dict[str, Any]:
        named = arm.target(request)
        group = f"/subscriptions/{named.subscription}/resourceGroups/{named.resource_group or REGISTRY_GROUP}"
        identity = f"{group}/providers/{PROVIDER}/registries/{SYSTEM_REGISTRY}"
        api = arm.api_url(request)
        return {
            "id": identity,
            "name": SYSTEM_REGISTRY,
            "type": f"{PROVIDER}/registries",
            "location": LOCATION,
            "tags": {},
            "identity": {"type": "SystemAssigned", "principalId": services.id, "tenantId": services.id},
            "properties": {
                "discoveryUrl": f"{api}/registrymanagement/v1.0/registries/{SYSTEM_REGISTRY}/discovery",
                "mlFlowRegistryUri": f"{api.replace('https://', 'azureml://')}/mlflow/v1.0{identity}",
                "managedResourceGroup": {"resourceId": group},
                "publicNetworkAccess": "Disabled",
                "regionDetails": [{"location": LOCATION, "acrDetails": [], "storageAccountDetails": []}],
            },
            "systemData": arm.system_data(services.created_at),
        }

    return router


def check_registry(registry: str) -> None:
    """Raise ``NotFound`` for any registry but the system's."""
    if registry.lower() != SYSTEM_REGISTRY:
        raise NotFound(
            f"there is no registry {registry[:80]!r}",
            target="registry",
            way_out=f"the registry of this workspace is {SYSTEM_REGISTRY!r}",
        )
