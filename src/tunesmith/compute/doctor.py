"""What this machine and this installation have, what is missing, and what brings it.

Asks the lists of installed distributions, not the packages themselves: nothing heavy is loaded.
"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from tunesmith.compute.machine import detect
from tunesmith.records.compute import Machine
from tunesmith.records.workspace import Doctor, DoctorItem

LEAST_PYTHON = (3, 11)
LOW_DISK_BYTES = 5 * 10**9
LOW_MEMORY_BYTES = 4 * 2**30


@dataclass(frozen=True, slots=True)
class Part:
    """A distribution, and what it is good for."""

    distribution: str
    purpose: str
    needs_gpu: bool = False


REQUIRED = (
    Part("torch", "training and generation"),
    Part("transformers", "models"),
    Part("peft", "LoRA"),
    Part("safetensors", "weights"),
    Part("tokenizers", "tokens"),
    Part("pyarrow", "data files"),
    Part("mlflow", "tracking and the model format"),
    Part("sqlalchemy", "the database"),
    Part("fastapi", "the server"),
)
OPTIONAL = (
    Part("bitsandbytes", "4-bit and 8-bit training on GPUs", needs_gpu=True),
    Part("psycopg", "a PostgreSQL database"),
    Part("s3fs", "an artifact store at s3://"),
    Part("adlfs", "an artifact store at abfs://"),
    Part("gcsfs", "an artifact store at gs://"),
)


def examine(home: Path) -> Doctor:
    """Look at everything. ``home`` is the workspace's folder, which need not exist."""
    machine = detect(home)
    items = [_python(), _processor(machine), _memory(machine), _gpu(machine), _disk(machine, home), _home(home)]
    items += [_required(part) for part in REQUIRED]
    items += [_optional(part, machine) for part in OPTIONAL]
    return Doctor(machine=machine, items=items)


def version_of(distribution: str) -> str | None:
    """The installed version, or ``None``."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _python() -> DoctorItem:
    found = ".".join(str(part) for part in sys.version_info[:3])
    if sys.version_info < LEAST_PYTHON:
        return DoctorItem(
            name="Python", state="problem", detail=f"{found}; 3.11 or newer is needed", way_out="install Python 3.11"
        )
    return DoctorItem(name="Python", state="ok", detail=f"{found} at {sys.executable}")


def _processor(machine: Machine) -> DoctorItem:
    matrix = [name for name in machine.instructions if "bf16" in name]
    how = f"bf16 by {', '.join(matrix)}" if matrix else "no bf16 instructions: training and serving are slower"
    cores = f"{machine.cores} core{'s' if machine.cores != 1 else ''}"
    return DoctorItem(name="Processor", state="ok", detail=f"{machine.processor}, {cores}, {how}")


def _memory(machine: Machine) -> DoctorItem:
    detail = f"{machine.memory_bytes / 2**30:.1f} GiB"
    if machine.memory_bytes < LOW_MEMORY_BYTES:
        return DoctorItem(
            name="Memory",
            state="problem",
            detail=f"{detail}: too little for most models",
            way_out="use a machine, or a container limit, of 8 GiB or more",
        )
    return DoctorItem(name="Memory", state="ok", detail=detail)


def _gpu(machine: Machine) -> DoctorItem:
    if not machine.gpus:
        if shutil.which("nvidia-smi") and os.environ.get("CUDA_VISIBLE_DEVICES") is None:
            return DoctorItem(
                name="GPU",
                state="problem",
                detail="nvidia-smi is there and finds no GPU",
                way_out="run nvidia-smi to see why; the driver may not be loaded",
            )
        return DoctorItem(name="GPU", state="absent", detail="none; everything runs on the processor")
    detail = ", ".join(f"{gpu.name} ({gpu.memory_bytes / 2**30:.0f} GiB)" for gpu in machine.gpus)
    if (version_of("torch") or "").endswith("+cpu"):
        return DoctorItem(
            name="GPU",
            state="problem",
            detail=f"{detail}; the installed torch is built without CUDA and will not use it",
            way_out="pip install --force-reinstall torch (see pytorch.org for the index of your CUDA version)",
        )
    return DoctorItem(name="GPU", state="ok", detail=detail)


def _disk(machine: Machine, home: Path) -> DoctorItem:
    detail = f"{machine.disk_free_bytes / 1e9:.1f} GB free for {home}"
    if machine.disk_free_bytes < LOW_DISK_BYTES:
        return DoctorItem(
            name="Disk",
            state="problem",
            detail=f"{detail}: too little for a training run",
            way_out="free some space, or put the workspace on another disk: --workspace",
        )
    return DoctorItem(name="Disk", state="ok", detail=detail)


def _home(home: Path) -> DoctorItem:
    place = home
    while not place.exists() and place != place.parent:
        place = place.parent
    if not os.access(place, os.W_OK):
        return DoctorItem(
            name="Workspace",
            state="problem",
            detail=f"{home} cannot be written",
            way_out="choose another folder with --workspace or TUNESMITH_HOME",
        )
    if home.exists() and home.stat().st_mode & 0o077:
        return DoctorItem(
            name="Workspace",
            state="problem",
            detail=f"{home} can be read by other users of this machine",
            way_out=f"chmod 700 {home}",
        )
    return DoctorItem(name="Workspace", state="ok", detail=str(home))


def _required(part: Part) -> DoctorItem:
    version = version_of(part.distribution)
    if version is None:
        return DoctorItem(
            name=part.distribution,
            state="problem",
            detail=f"not installed; it is needed for {part.purpose}",
            way_out="pip install --force-reinstall tunesmith",
        )
    return DoctorItem(name=part.distribution, state="ok", detail=f"{version}, for {part.purpose}")


def _optional(part: Part, machine: Machine) -> DoctorItem:
    version = version_of(part.distribution)
    if version is not None:
        return DoctorItem(name=part.distribution, state="ok", detail=f"{version}, for {part.purpose}")
    useless = part.needs_gpu and not machine.gpus
    return DoctorItem(
        name=part.distribution,
        state="absent",
        detail=f"for {part.purpose}" + ("; of no use without a GPU" if useless else ""),
        way_out=None if useless else f"pip install {part.distribution}",
    )
