"""Azure ML's wire protocol as one application: every host of Azure's that matters, on the workspace's services.

It does not care by which name it is called or with which api-version; ``paths`` brings the long paths down to short
ones. What no route answers is refused by its name, with a 4xx: a 5xx would be sent again and again.
"""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter, FastAPI
from starlette.requests import Request

from tunesmith._version import __version__
from tunesmith.azure import arm
from tunesmith.azure.blob import create_blob_router
from tunesmith.azure.code_assets import create_code_router
from tunesmith.azure.components import create_components_router
from tunesmith.azure.computes import create_computes_router
from tunesmith.azure.context import AzureContext
from tunesmith.azure.data_assets import create_data_router
from tunesmith.azure.datastores import create_datastores_router
from tunesmith.azure.deployments import create_deployments_router
from tunesmith.azure.endpoints import create_endpoints_router
from tunesmith.azure.environments import create_environments_router
from tunesmith.azure.errors import NotImplementedHere, add_error_handlers
from tunesmith.azure.guard import BearerGuard
from tunesmith.azure.history import create_history_router
from tunesmith.azure.jobs import create_jobs_router
from tunesmith.azure.models import create_models_router
from tunesmith.azure.paths import ShortPaths
from tunesmith.azure.registries import create_registries_router
from tunesmith.azure.registry_files import create_registry_files_router
from tunesmith.azure.registry_models import create_registry_models_router
from tunesmith.azure.score import create_score_router
from tunesmith.azure.subscriptions import create_subscriptions_router
from tunesmith.azure.tracking import create_tracking_router
from tunesmith.azure.waiting import create_waiting_router
from tunesmith.azure.workspaces import create_workspaces_router
from tunesmith.openai.router import create_openai_router

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]

AREAS: tuple[Callable[[AzureContext], APIRouter], ...] = (
    create_waiting_router,
    create_workspaces_router,
    create_subscriptions_router,
    create_registries_router,
    create_registry_models_router,
    create_registry_files_router,
    create_computes_router,
    create_components_router,
    create_environments_router,
    create_models_router,
    create_endpoints_router,
    create_deployments_router,
    create_blob_router,
    create_code_router,
    create_data_router,
    create_datastores_router,
    create_history_router,
    create_jobs_router,
    create_tracking_router,
)
"""What makes the routes, one for each area."""


def create_azure_app(context: AzureContext) -> FastAPI:
    """The application over ``context``."""
    app = FastAPI(title="Tunesmith: Azure ML's protocol", version=__version__, openapi_url=None, redirect_slashes=False)
    for create in AREAS:
        app.include_router(create(context))
    app.include_router(create_openai_router(context.gateway, context.services.endpoints))
    app.include_router(create_score_router(context.gateway, context.services.endpoints))
    app.add_api_route("/{path:path}", _not_implemented, methods=METHODS, include_in_schema=False)
    add_error_handlers(app)
    # The last one added is the outermost one.
    app.add_middleware(BearerGuard, keys=context.keys)
    app.add_middleware(ShortPaths)
    return app


def _not_implemented(request: Request) -> None:
    named = arm.target(request)
    raise NotImplementedHere(
        f"the operation {request.method} {request.url.path} is not part of this workspace",
        target=f"{request.method} {named.host}{named.path}"[:500],
        way_out="docs/azure.md lists the operations that are supported",
    )
