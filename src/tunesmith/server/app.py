"""Puts the server's parts together: one application over one workspace's services."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import Depends, FastAPI
from fastapi.routing import APIRoute

from tunesmith._version import __version__
from tunesmith.azure.face import AzureFace
from tunesmith.azure.score import create_score_router
from tunesmith.endpoints.controller import EndpointController
from tunesmith.endpoints.gateway import Gateway
from tunesmith.endpoints.journal import Journal
from tunesmith.endpoints.pool import InstancePool
from tunesmith.openai.face import FaceDispatch
from tunesmith.openai.router import create_openai_router
from tunesmith.server import (
    html_pages,
    mlflow_proxy,
    routes_assets,
    routes_azure,
    routes_computes,
    routes_endpoints,
    routes_jobs,
    routes_system,
    uploads,
)
from tunesmith.server.auth import Guard, HostRule, Sessions
from tunesmith.server.background import Background
from tunesmith.server.context import RequestContext
from tunesmith.server.errors import Unexpected, add_error_handlers, known_query
from tunesmith.server.http_protocol import LimitedHttp
from tunesmith.server.lifecycle import Lifecycle
from tunesmith.server.openapi import add_openapi

if TYPE_CHECKING:
    from pathlib import Path

    from tunesmith.endpoints.service import EndpointService
    from tunesmith.workspace import Services

DESCRIPTION = "A self-hosted workspace for chat models: fine-tune, evaluate, register and serve with Azure ML's words."


def create_app(services: Services, lifecycle: Lifecycle) -> FastAPI:
    """The application over ``services``. Its background work runs while its lifespan does."""
    pool = InstancePool()
    gateway = Gateway(services.endpoints, pool, journal=Journal(services.paths.request_log, services.paths.collected))
    controller = EndpointController(services.endpoints, pool, exports=services.paths.engine_exports)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.mlflow_connections = mlflow_proxy.Connections()
        async with (
            aclosing(app.state.mlflow_connections),
            Background(services, lifecycle, gateway, controller),
        ):
            app.state.azure = AzureFace(services, gateway, LimitedHttp)
            await app.state.azure.resume()
            yield
            await app.state.azure.stop()

    app = FastAPI(
        title="Tunesmith",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=_operation_id,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # it would be looked for with every request
    )
    app.state.services = services
    app.state.lifecycle = lifecycle
    app.state.gateway = gateway
    app.state.sessions = Sessions(services.secrets.token, services.id)
    for router in (
        routes_system.router,
        routes_assets.router,
        routes_computes.router,
        routes_jobs.router,
        routes_endpoints.router,
        routes_azure.router,
        uploads.router,
    ):
        app.include_router(router, prefix="/api/v1", dependencies=[Depends(known_query)])
    add_faces(app, gateway, services.endpoints)
    app.include_router(routes_system.public)
    app.include_router(routes_endpoints.metrics_router)
    app.include_router(html_pages.router)
    app.include_router(mlflow_proxy.router)
    add_error_handlers(app)
    add_openapi(app)
    hosts = HostRule.of(services.settings.host, services.settings.allowed_hosts)
    add_locks(app, services.secrets.token, hosts, app.state.sessions, services.paths.server_log)
    return app


def add_faces(app: FastAPI, gateway: Gateway, endpoints: EndpointService) -> None:
    """What endpoints are called by: the routes, and the short way to them."""
    faces = [create_openai_router(gateway, endpoints), create_score_router(gateway, endpoints)]
    for router in faces:
        app.include_router(router)
    app.add_middleware(FaceDispatch, routers=faces)


def add_locks(app: FastAPI, token: str, hosts: HostRule, sessions: Sessions, log_file: Path) -> None:
    """What every request passes, before all that was added until now."""
    # The last one added is the outermost one.
    app.add_middleware(Guard, token=token, hosts=hosts, sessions=sessions)
    app.add_middleware(Unexpected, log_file=log_file)
    app.add_middleware(RequestContext)


def _operation_id(route: APIRoute) -> str:
    return route.name
