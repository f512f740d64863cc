"""The weights of the system registry's models, for clients that download them.

A client asks here where they are, and reads them as blobs. Weights that were never imported are imported now: the
answer waits for them, and a client that has to wait longer than it would for an answer is told to ask again.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Any

from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool
from starlette.requests import Request

from tunesmith.assets.models import IMPORT_PROPERTY
from tunesmith.azure import arm
from tunesmith.azure.blob_account import StorageAccount
from tunesmith.azure.blob_places import REGISTRY
from tunesmith.azure.context import AzureContext
from tunesmith.azure.registries import check_registry
from tunesmith.errors import Conflict, JobFailed, ValidationFailed, error_from_dict
from tunesmith.records.assets import ImportModel, ModelVersion
from tunesmith.records.jobs import Job, JobStatus
from tunesmith.workspace import Services

HOLD_S = 200.0
"""How long an answer waits. Clients give up after 300 s without one."""
LOOK_S = 0.25
LIFETIME = timedelta(hours=12)
"""Of the signature: large weights take their time."""


class DataReference(arm.ArmBody):
    """Which asset's files, and where the client was told that they are."""

    asset_id: str
    blob_uri: str | None = None


def create_registry_files_router(context: AzureContext) -> APIRouter:
    """The route ``/registry/R/datarefs/NAME/versions/VERSION``."""
    router = APIRouter()
    services = context.services
    account = StorageAccount(context)

    @router.post("/registry/{registry}/datarefs/{name}/versions/{version}")
    async def where(request: Request, registry: str, name: str, version: str, data: arm.Json) -> dict[str, Any]:
        check_registry(registry)
        asked = arm.read_body(DataReference, data)
        model = await run_in_threadpool(services.models.get, name, version, registry=registry.lower())
        if asked.asset_id.lower() != arm.asset_id(request, "models", model).lower():
            raise ValidationFailed(
                f"{asked.asset_id[:200]!r} is not the model that the path names",
                target="assetId",
                way_out=f"ask for {arm.asset_id(request, 'models', model)}; only models have files to download here",
            )
        if model.state != "imported":
            await fetch_weights(services, model)
            model = await run_in_threadpool(services.models.get, name, version, registry=registry.lower())
            if model.state != "imported":  # its job was deleted meanwhile
                raise Conflict(
                    f"the weights of {model.name} {model.version} are not here yet", extra={"retry_after": 1}
                )
        token = account.sas.container_token(REGISTRY, permissions="rl", lifetime=LIFETIME)
        return {
            "blobReferenceForConsumption": {
                "blobUri": account.registry_place(request, name, version),
                "storageAccountArmId": account.arm_id(request),
                "credential": {"credentialType": "SAS", "sasUri": f"{account.url(request, REGISTRY)}?{token}"},
            }
        }

    return router


async def fetch_weights(services: Services, model: ModelVersion, *, hold_s: float = HOLD_S) -> None:
    """Wait until the weights are here; the import that brings them is started where none goes on.

    Raises:
        JobFailed: the import failed, with its cause.
        Conflict: it still goes on after ``hold_s``; a client asks again by itself.
    """
    name = await run_in_threadpool(_import, services, model)
    if name is None:
        return
    try:
        async with asyncio.timeout(hold_s):
            while not (job := await run_in_threadpool(services.jobs.get, name)).status.terminal:
                await asyncio.sleep(LOOK_S)
    except TimeoutError:
        raise Conflict(
            f"the weights of {model.name} {model.version} are being imported by the job {name}",
            target=model.id,
            way_out=f"wait for it, jobs.stream({name!r}), and download them then",
            extra={"retry_after": 1},
        ) from None
    if job.status != JobStatus.COMPLETED:
        raise _failure(model, job)


def _import(services: Services, model: ModelVersion) -> str | None:
    """The name of the job that imports the weights; ``None`` where they have come meanwhile."""
    with suppress(Conflict):  # it goes on already
        job = services.import_model(ImportModel(name=model.name, version=model.version, registry=model.registry))
        return None if job is None else job.name
    found = (job.name for job in services.jobs.list() if job.properties.get(IMPORT_PROPERTY) == model.id)
    return next(found, None)


def _failure(model: ModelVersion, job: Job) -> JobFailed:
    cause = error_from_dict(job.error or {"message": f"the job {job.name} is {job.status.value}"})
    return JobFailed(
        f"the weights of {model.name} {model.version} are not on this machine, and the job {job.name} could not "
        f"import them: {cause.message}",
        target=model.id,
        way_out=cause.way_out or f"import them: tunesmith models import {model.name} --from SOURCE",
        details=cause.details,
    )
