"""Models of the system registry: the base models, with the tags that scripts read."""

from __future__ import annotations

import ast
from functools import cache, partial
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request

from tunesmith.azure import arm
from tunesmith.azure.asset_routes import add_registry_routes
from tunesmith.azure.blob_account import StorageAccount
from tunesmith.azure.context import AzureContext
from tunesmith.azure.paths import PROVIDER
from tunesmith.components import catalogue
from tunesmith.records.assets import ModelVersion

DEFAULTS_TAG = "model_specific_defaults"
PIPELINE = "chat_completion_pipeline"


def create_registry_models_router(context: AzureContext) -> APIRouter:
    """The routes below ``/registry/R/models``."""
    router = APIRouter()
    account = StorageAccount(context)
    add_registry_routes(router, context.services.models, partial(registry_model_body, account))
    return router


def registry_model_body(account: StorageAccount, request: Request, record: ModelVersion) -> dict[str, Any]:
    """A model of the registry as Azure has it. ``modelUri`` is where it is downloaded from."""
    return {
        "id": arm.asset_id(request, "models", record),
        "name": record.version,
        "type": f"{PROVIDER}/registries/models/versions",
        "properties": {
            "modelType": record.type,
            "modelUri": account.registry_place(request, record.name, record.version),
            "description": record.description,
            "tags": served_tags(record.tags),
            "properties": record.properties,
            "flavors": {},
            "isArchived": record.archived,
            "isAnonymous": False,
            "provisioningState": "Succeeded",
        },
        "systemData": arm.system_data(record.created_at),
    }


def served_tags(tags: dict[str, str]) -> dict[str, str]:
    """The tags as scripts use them.

    A script passes what ``model_specific_defaults`` has on to the component as arguments, and the SDK refuses a name
    that is no input of it; so only inputs of the component that is served stay in it.
    """
    text = tags.get(DEFAULTS_TAG)
    if text is None:
        return tags
    try:
        defaults = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        defaults = None
    if not isinstance(defaults, dict):
        return {key: value for key, value in tags.items() if key != DEFAULTS_TAG}
    kept = {key: value for key, value in defaults.items() if key in pipeline_inputs()}
    return {**tags, DEFAULTS_TAG: repr(kept)}


@cache
def pipeline_inputs() -> frozenset[str]:
    """The names of the inputs of the pipeline that is served."""
    return frozenset(
        name for entry in catalogue.entries() if entry.name == PIPELINE for name in entry.spec.get("inputs", {})
    )
