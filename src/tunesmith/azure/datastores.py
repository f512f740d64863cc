"""Datastores: the workspace has one artifact store, and shows it under the two names that Azure's scripts use."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from fastapi import APIRouter, Response
from pydantic import Field
from starlette.requests import Request

from tunesmith.azure import arm
from tunesmith.azure.blob_account import StorageAccount
from tunesmith.azure.blob_places import ARTIFACTS
from tunesmith.azure.context import AzureContext
from tunesmith.errors import NotFound, ValidationFailed

DEFAULT = "workspaceblobstore"
NAMES = (DEFAULT, "workspaceartifactstore")
LONGEST_HOURS = 24 * 7
"""Of a token; an answer that gives less than was asked for says so in its header ``Warning``."""


class Secrets(arm.ArmBody):
    """What a client asks with ``listSecrets``."""

    expirable_secret: bool = False
    """Every token ends, whatever this says."""
    expire_after_hours: int = Field(default=1, ge=1)


def create_datastores_router(context: AzureContext) -> APIRouter:
    """The routes of datastores."""
    router = APIRouter()
    account = StorageAccount(context)
    created = context.services.created_at

    def container(name: str) -> str:
        return account.blob_container if name == DEFAULT else ARTIFACTS

    def answer(request: Request, name: str) -> dict[str, Any]:
        return {
            "id": arm.resource_id(request, "datastores", name),
            "name": name,
            "type": "Microsoft.MachineLearningServices/workspaces/datastores",
            "properties": {
                "datastoreType": "AzureBlob",
                "accountName": account.name_for(request),
                "containerName": container(name),
                "endpoint": account.suffix_for(request),
                "protocol": "https",
                "credentials": {"credentialsType": "AccountKey"},
                "serviceDataAccessAuthIdentity": "None",
                "isDefault": name == DEFAULT,
                "description": "the workspace's artifact store",
                "tags": {},
                "properties": {},
            },
            "systemData": arm.system_data(created),
        }

    @router.get("/workspace/datastores")
    def list_datastores(request: Request) -> dict[str, Any]:
        options = arm.list_options(request, "isDefault", "names", "searchText", "orderByAsc")
        ascending, default = (_truth(options.extra, name) for name in ("orderByAsc", "isDefault"))
        wanted = [name for name in options.extra.get("names", "").split(",") if name]
        found = [
            name
            for name in (reversed(NAMES) if ascending else NAMES)
            if (not wanted or name in wanted)
            and (default is None or default == (name == DEFAULT))
            and options.extra.get("searchText", "") in name
        ]
        return arm.page(request, found, lambda name: answer(request, name), options)

    @router.get("/workspace/datastores/{name}")
    def get(request: Request, name: str) -> dict[str, Any]:
        return answer(request, _known(name))

    @router.post("/workspace/datastores/{name}/listsecrets")
    def list_secrets(response: Response, name: str, body: arm.Json | None = None) -> dict[str, Any]:
        asked = arm.read_body(Secrets, body or {})
        hours = min(asked.expire_after_hours, LONGEST_HOURS)
        if hours < asked.expire_after_hours:
            response.headers["Warning"] = f'299 - "expireAfterHours: a token lasts {hours} hours at most, not more"'
        token = account.sas.container_token(container(_known(name)), lifetime=timedelta(hours=hours))
        return {"secretsType": "Sas", "sasToken": token}

    @router.put("/workspace/datastores/{name}")
    def put(name: str) -> None:
        raise arm.refuse(
            f"the workspace has its own datastores ({', '.join(NAMES)}); {name[:80]!r} cannot be added or changed",
            target="datastore",
            way_out="upload the data into workspaceblobstore, or give jobs the path of a folder",
        )

    @router.delete("/workspace/datastores/{name}")
    def delete(name: str) -> None:
        raise arm.refuse(f"the workspace's own datastore {_known(name)!r} cannot be deleted", target="datastore")

    return router


def _truth(options: Mapping[str, str], name: str) -> bool | None:
    text = options.get(name, "").lower()
    if text not in ("", "true", "false"):
        raise ValidationFailed(f"{text[:40]!r} is neither true nor false", target=name)
    return text == "true" if text else None


def _known(name: str) -> str:
    if name not in NAMES:
        raise NotFound(
            f"there is no datastore {name[:80]!r}", target="datastore", way_out=f"datastores: {', '.join(NAMES)}"
        )
    return name
