"""Computes, sizes and the machine."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from tunesmith.records.base import Record, Request


class Gpu(Record):
    """One GPU of this machine."""

    name: str
    memory_bytes: int


class Machine(Record):
    """What this machine has."""

    cores: int
    memory_bytes: int
    gpus: list[Gpu] = Field(default_factory=list)
    processor: str = ""
    instructions: list[str] = Field(default_factory=list)
    """The matrix-relevant ones found: avx2, avx512f, avx512_bf16, amx_bf16, …"""
    disk_free_bytes: int = 0
    platform: str = ""


class ComputeSize(Record):
    """What a size promises. ``local`` is this machine; the others are Azure's."""

    name: str
    vcpus: int
    memory_gb: float
    gpus: int = 0
    gpu_name: str | None = None
    gpu_memory_gb: float | None = None
    """Per GPU."""


class CreateCompute(Request):
    """Create or update a compute."""

    name: str
    type: Literal["amlcompute", "local"] = "amlcompute"
    size: str = "local"
    min_instances: int = Field(default=0, ge=0)
    max_instances: int = Field(default=1, ge=1)
    idle_time_before_scale_down: int = Field(default=120, ge=0)
    """Seconds."""
    tier: Literal["dedicated", "low_priority"] = "dedicated"
    description: str = ""
    tags: dict[str, str] = Field(default_factory=dict)


class Compute(Record):
    """A named target where jobs run."""

    name: str
    type: str
    size: str
    min_instances: int
    max_instances: int
    idle_time_before_scale_down: int
    tier: str
    provisioning_state: Literal["Creating", "Updating", "Succeeded", "Failed", "Deleting"]
    description: str = ""
    tags: dict[str, str] = Field(default_factory=dict)
    created_at: datetime
    vcpus: int
    memory_gb: float
    gpus: int
    """What the size promises; ``difference`` says what this machine gives instead."""
    difference: str | None = None


class AllowListCheck(Record):
    """Whether a model's allow-list admits a compute's size."""

    model: str
    compute: str
    size: str
    purpose: Literal["finetune", "inference"]
    allow_list: list[str]
    allowed: bool
    message: str
