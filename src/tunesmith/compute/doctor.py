"""Looks the machine and the installation over: what is there, what is absent, what will fail, and the way out.

It imports none of the heavy packages; their versions are read from their metadata.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import stat
import sys
from pathlib import Path

from tunesmith.compute.machine import detect
from tunesmith.records.compute import Machine
from tunesmith.records.workspace import Doctor, DoctorItem

REQUIRED = ("torch", "transformers", "peft", "safetensors", "tokenizers", "pyarrow", "mlflow", "sqlalchemy", "fastapi")
OPTIONAL = {
    "openvino-genai": "the quickest engine on CPUs",
    "vllm": "the engine for GPUs",
    "deepspeed": "apply_deepspeed on GPUs",
    "bitsandbytes": "4-bit and 8-bit quantization on GPUs",
    "liger-kernel": "fused kernels on GPUs",
    "s3fs": "an artifact store on s3://",
    "adlfs": "an artifact store on abfs://",
    "gcsfs": "an artifact store on gs://",
    "psycopg": "a PostgreSQL database",
}
LOW_DISK_BYTES = 5_000_000_000
LOW_MEMORY_BYTES = 4_000_000_000


def examine(home: Path) -> Doctor:
    """Look at this machine, this Python and the workspace folder ``home``."""
    machine = detect(home)
    items = [_python(), _memory(machine), _disk(machine, home), *_gpus(machine), *map(_required, REQUIRED)]
    items += _torchvision()
    items += [_optional(name, use) for name, use in OPTIONAL.items()]
    items += _workspace(home)
    return Doctor(machine=machine, items=items)


def _python() -> DoctorItem:
    version = ".".join(map(str, sys.version_info[:3]))
    return DoctorItem(name="Python", state="ok", detail=f"{version} at {sys.executable}")


def _memory(machine: Machine) -> DoctorItem:
    detail = f"{machine.memory_bytes / 1e9:.1f} GB, {machine.cores} cores"
    if machine.memory_bytes >= LOW_MEMORY_BYTES:
        return DoctorItem(name="memory", state="ok", detail=detail)
    return DoctorItem(
        name="memory",
        state="problem",
        detail=f"{detail}: too little to train even a small model",
        way_out="use a machine with at least 4 GB",
    )


def _disk(machine: Machine, home: Path) -> DoctorItem:
    free = machine.disk_free_bytes
    if free >= LOW_DISK_BYTES:
        return DoctorItem(name="disk", state="ok", detail=f"{free / 1e9:.1f} GB free for {home}")
    return DoctorItem(
        name="disk",
        state="problem",
        detail=f"only {free / 1e9:.1f} GB free for {home}",
        way_out="free some, or put the workspace elsewhere with --workspace or TUNESMITH_HOME",
    )


def _gpus(machine: Machine) -> list[DoctorItem]:
    if not machine.gpus:
        return [DoctorItem(name="GPU", state="absent", detail="none found; training and serving use the CPU")]
    found = ", ".join(f"{gpu.name} ({gpu.memory_bytes / 1e9:.0f} GB)" for gpu in machine.gpus)
    torch = _version("torch") or ""
    if "+cpu" in torch:
        return [
            DoctorItem(
                name="GPU",
                state="problem",
                detail=f"{found}, but torch {torch} is a CPU build and cannot use it",
                way_out="pip install --force-reinstall 'torch>=2.9,<2.14' from the index with CUDA builds",
            )
        ]
    return [DoctorItem(name="GPU", state="ok", detail=found)]


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _required(name: str) -> DoctorItem:
    version = _version(name)
    if version:
        return DoctorItem(name=name, state="ok", detail=version)
    return DoctorItem(name=name, state="problem", detail="not installed", way_out=f"pip install {name}")


def _optional(name: str, use: str) -> DoctorItem:
    version = _version(name)
    if version:
        return DoctorItem(name=name, state="ok", detail=f"{version}: {use}")
    return DoctorItem(name=name, state="absent", detail=f"for {use}", way_out=f"pip install {name}")


def _torchvision() -> list[DoctorItem]:
    """A torchvision built for another torch breaks the import of transformers' models."""
    vision, torch = _version("torchvision"), _version("torch")
    if not vision or not torch or ("+cpu" in torch) == ("+cpu" in vision):
        return []
    return [
        DoctorItem(
            name="torchvision",
            state="problem",
            detail=f"torchvision {vision} was built for another torch than {torch}, and breaks its import",
            way_out="pip uninstall torchvision",
        )
    ]


def _workspace(home: Path) -> list[DoctorItem]:
    parent = next((path for path in (home, *home.parents) if path.exists()), Path("/"))
    if not os.access(parent, os.W_OK):
        return [
            DoctorItem(
                name="workspace",
                state="problem",
                detail=f"{parent} cannot be written by this user",
                way_out="choose another folder with --workspace or TUNESMITH_HOME",
            )
        ]
    items = [DoctorItem(name="workspace", state="ok", detail=str(home) + ("" if home.exists() else " (not made yet)"))]
    for name in ("token", "secret.key"):
        path = home / name
        if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077:
            items.append(
                DoctorItem(
                    name=name,
                    state="problem",
                    detail=f"{path} can be read by other users",
                    way_out=f"chmod 600 {path}",
                )
            )
    if shutil.which("git") is None:
        items.append(
            DoctorItem(
                name="git",
                state="absent",
                detail="jobs cannot record the commit of a code folder",
                way_out="install git",
            )
        )
    return items
