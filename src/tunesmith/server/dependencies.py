"""What routes ask for: the services of the workspace, and the server's own life."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, Request

from tunesmith.endpoints.gateway import Gateway
from tunesmith.server.lifecycle import Lifecycle

if TYPE_CHECKING:
    from tunesmith.workspace import Services
else:
    Services = Any


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


def _lifecycle(request: Request) -> Lifecycle:
    lifecycle: Lifecycle = request.app.state.lifecycle
    return lifecycle


def _gateway(request: Request) -> Gateway:
    gateway: Gateway = request.app.state.gateway
    return gateway


ServicesOf = Annotated[Services, Depends(_services)]
LifecycleOf = Annotated[Lifecycle, Depends(_lifecycle)]
GatewayOf = Annotated[Gateway, Depends(_gateway)]
