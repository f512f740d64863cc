"""The way in to the Azure face."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request

from tunesmith.records.azure import AzureSession

router = APIRouter(tags=["azure"])


def _face(request: Request) -> Any:
    return request.app.state.azure


@router.post("/azure/session")
async def azure_session(face: Annotated[Any, Depends(_face)]) -> AzureSession:
    """Where Azure's SDK is pointed on this machine. Opens the Azure face if it is closed."""
    session: AzureSession = await face.session()
    return session
