"""Computes, sizes and the machine."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path

from tunesmith.errors import ValidationFailed
from tunesmith.records.base import Request
from tunesmith.records.compute import AllowListCheck, Compute, ComputeSize, CreateCompute, Machine
from tunesmith.records.workspace import Deleted
from tunesmith.server.dependencies import ServicesOf

router = APIRouter(tags=["computes"])

Name = Annotated[str, Path(description="Name of the compute.")]


class CheckCompute(Request):
    """A question about a model's allow-list."""

    model: str
    """Reference of a model version."""
    compute: str
    """Name of a compute, or of a size."""
    purpose: Literal["finetune", "inference"] = "finetune"


@router.get("/computes")
def list_computes(services: ServicesOf) -> list[Compute]:
    """All computes."""
    return services.computes.list()


@router.get("/computes/{name}")
def get_compute(services: ServicesOf, name: Name) -> Compute:
    """One compute."""
    return services.computes.get(name)


@router.put("/computes/{name}")
def create_or_update_compute(services: ServicesOf, name: Name, request: CreateCompute) -> Compute:
    """Create a compute, or change it."""
    same_name(name, request.name)
    return services.computes.create_or_update(request)


@router.delete("/computes/{name}")
def delete_compute(services: ServicesOf, name: Name) -> Deleted:
    """Delete a compute; jobs that ran on it stay."""
    services.computes.delete(name)
    return Deleted()


@router.get("/compute/sizes")
def list_sizes(services: ServicesOf) -> list[ComputeSize]:
    """The sizes that a compute may have."""
    return services.computes.sizes()


@router.get("/compute/machine")
def get_machine(services: ServicesOf) -> Machine:
    """What this machine has."""
    return services.computes.machine()


@router.post("/compute/check")
def check_compute(services: ServicesOf, request: CheckCompute) -> AllowListCheck:
    """Whether a model's allow-list admits a compute's size."""
    model = services.models.resolve(request.model)
    return services.computes.check(model.id, model.tags, request.compute, request.purpose)


def same_name(in_path: str, in_body: str) -> None:
    """Refuse a body that names another thing than the path.

    Raises:
        ValidationFailed: they differ.
    """
    if in_path != in_body:
        raise ValidationFailed(f"the path names {in_path!r}, the body {in_body!r}", target="name")
