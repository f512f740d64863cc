"""Code assets: where a client uploads the code of a job or a component, and what it calls it afterwards."""

from __future__ import annotations

import re
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request

from tunesmith.azure import arm
from tunesmith.azure.blob_account import StorageAccount
from tunesmith.azure.code_store import CodeStore, CodeVersion, snapshot_id
from tunesmith.azure.context import AzureContext
from tunesmith.errors import TunesmithError, ValidationFailed

_URI = re.compile(r"https://[^?]*?/code-(?P<snapshot>[0-9a-f]{32})(?:/(?P<path>[^?]*))?(?:\?.*)?")
_ID = re.compile(
    r"(?:azureml:)?/subscriptions/.+/workspaces/[^/]+/codes/(?P<name>[^/]+)/versions/(?P<version>[^/]+)", re.I
)
_SHORT = re.compile(r"azureml:(?P<name>[^/:@]+):(?P<version>[^/:@]+)")


class CodeProperties(arm.ArmBody):
    """``properties`` of a code version."""

    code_uri: str
    description: str = ""
    tags: arm.Texts = Field(default_factory=dict)
    properties: arm.Texts = Field(default_factory=dict)
    is_anonymous: bool = False
    is_archived: bool = False
    provisioning_state: str | None = None


class CodeBody(arm.ArmResource):
    """A code version as it is sent."""

    properties: CodeProperties


class PendingUpload(arm.ArmBody):
    """What a client asks before it uploads."""

    pending_upload_id: str | None = None
    pending_upload_type: str = "TemporaryBlobReference"


def code_folder(context: AzureContext, reference: str, *, target: str) -> Path:
    """The folder of the code that a job or a component names by its ARM id.

    Raises:
        ValidationFailed: the text names no code.
        NotFound: there is no such code.
    """
    found = _ID.fullmatch(reference.strip()) or _SHORT.fullmatch(reference.strip())
    if found is None:
        raise ValidationFailed(f"{reference[:200]!r} names no code asset of this workspace", target=target)
    store = CodeStore(context.services)
    return store.folder(store.get(found["name"], found["version"]))


def create_code_router(context: AzureContext) -> APIRouter:
    """The routes of code assets."""
    router = APIRouter()
    store = CodeStore(context.services)
    account = StorageAccount(context)

    @router.post("/workspace/codes/{name}/versions/{version}/startpendingupload")
    def start_upload(request: Request, name: str, version: str, body: arm.Json) -> dict[str, Any]:
        asked = arm.read_body(PendingUpload, body)
        # The job that the code is for may log to MLflow, which takes a while to start.
        threading.Thread(target=_warm, args=(context,), name="mlflow-warm", daemon=True).start()
        container = f"code-{snapshot_id(name, version)}"
        url = account.url(request, container)
        return {
            "pendingUploadId": asked.pending_upload_id or "",
            "pendingUploadType": asked.pending_upload_type,
            "blobReferenceForConsumption": {
                "blobUri": url,
                "storageAccountArmId": account.arm_id(request),
                "credential": {"credentialType": "SAS", "sasUri": f"{url}?{account.sas.container_token(container)}"},
            },
        }

    @router.put("/workspace/codes/{name}/versions/{version}")
    def register(request: Request, name: str, version: str, body: arm.Json) -> dict[str, Any]:
        asked = arm.read_body(CodeBody, body).properties
        for field, given in (("description", asked.description), ("tags", asked.tags)):
            if given:
                raise arm.refuse(
                    f"a code snapshot has no {field}",
                    target=f"properties.{field}",
                    way_out="leave it out, or describe the job or the component",
                )
        snapshot, path = _read_uri(asked.code_uri)
        code = store.register(
            name, version, snapshot, path, properties=asked.properties, is_anonymous=asked.is_anonymous
        )
        return _answer(request, account, code)

    @router.get("/workspace/codes/{name}/versions/{version}")
    def get(request: Request, name: str, version: str) -> dict[str, Any]:
        return _answer(request, account, store.get(name, version))

    @router.get("/workspace/codes/{name}/versions")
    def versions(request: Request, name: str) -> dict[str, Any]:
        options = arm.list_options(request, "hash", "hashVersion")
        # A client asks by the hash whether the code is here already under this name.
        found = store.list(name, options.extra.get("hash"))
        return arm.page(request, found, lambda code: _answer(request, account, code), options)

    @router.get("/workspace/codes")
    def names(request: Request) -> dict[str, Any]:
        options = arm.list_options(request)
        newest = list({code.name: code for code in reversed(store.list())}.values())
        return arm.page(request, newest, lambda code: _container(request, code), options)

    return router


def _warm(context: AzureContext) -> None:
    with suppress(TunesmithError):  # whoever needs it is told
        context.services.tracking.ensure_running()


def _read_uri(uri: str) -> tuple[str, str]:
    found = _URI.fullmatch(uri)
    if found is None:
        raise ValidationFailed(
            f"{uri[:200]!r} is not where startPendingUpload told to upload to", target="properties.codeUri"
        )
    return found["snapshot"], unquote(found["path"] or "").strip("/")


def _answer(request: Request, account: StorageAccount, code: CodeVersion) -> dict[str, Any]:
    return {
        "id": arm.resource_id(request, "codes", code.name, "versions", code.version),
        "name": code.version,
        "type": "Microsoft.MachineLearningServices/workspaces/codes/versions",
        "properties": {
            "codeUri": account.url(request, f"code-{code.snapshot}", code.path),
            "description": "",
            "tags": {},
            "properties": dict(code.properties),
            "isAnonymous": code.is_anonymous,
            "isArchived": False,
            "provisioningState": "Succeeded",
        },
        "systemData": arm.system_data(code.created_at),
    }


def _container(request: Request, code: CodeVersion) -> dict[str, Any]:
    return {
        "id": arm.resource_id(request, "codes", code.name),
        "name": code.name,
        "type": "Microsoft.MachineLearningServices/workspaces/codes",
        "properties": {"latestVersion": code.version, "tags": {}, "properties": {}, "isArchived": False},
        "systemData": arm.system_data(code.created_at),
    }
