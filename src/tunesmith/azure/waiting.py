"""Where clients ask how far a long-running operation is."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from tunesmith.azure.context import AzureContext


def create_waiting_router(context: AzureContext) -> APIRouter:
    """The status of operations."""
    router = APIRouter()

    @router.get("/location/mfeoperationsstatus/{identity}")
    def status(request: Request, identity: str) -> Response:
        return context.operations.answer(request, identity)

    return router
