"""The sizes a compute may have: this machine's own, and Azure's virtual machines.

Memory is in GiB, as Azure states it; a GPU's memory likewise, for one GPU. Azure spells a size in several ways
(``Standard_d12_v2``, ``Standard_D12_v2``), so names are found without regard to case.
"""

from __future__ import annotations

import difflib

from tunesmith.errors import ValidationFailed
from tunesmith.records.compute import ComputeSize, Machine

LOCAL = "local"
"""The size that is this machine."""


def _gpu(name: str, vcpus: int, memory: float, gpus: int, gpu_name: str, gpu_memory: float) -> ComputeSize:
    return ComputeSize(name=name, vcpus=vcpus, memory_gb=memory, gpus=gpus, gpu_name=gpu_name, gpu_memory_gb=gpu_memory)


AZURE_SIZES: tuple[ComputeSize, ...] = (
    _gpu("Standard_NC6s_v3", 6, 112, 1, "NVIDIA V100", 16),
    _gpu("Standard_NC12s_v3", 12, 224, 2, "NVIDIA V100", 16),
    _gpu("Standard_NC24s_v3", 24, 448, 4, "NVIDIA V100", 16),
    _gpu("Standard_NC24rs_v3", 24, 448, 4, "NVIDIA V100", 16),
    _gpu("Standard_ND40rs_v2", 40, 672, 8, "NVIDIA V100", 32),
    _gpu("Standard_NC4as_T4_v3", 4, 28, 1, "NVIDIA T4", 16),
    _gpu("Standard_NC8as_T4_v3", 8, 56, 1, "NVIDIA T4", 16),
    _gpu("Standard_NC16as_T4_v3", 16, 110, 1, "NVIDIA T4", 16),
    _gpu("Standard_NC64as_T4_v3", 64, 440, 4, "NVIDIA T4", 16),
    _gpu("Standard_NC24ads_A100_v4", 24, 220, 1, "NVIDIA A100", 80),
    _gpu("Standard_NC48ads_A100_v4", 48, 440, 2, "NVIDIA A100", 80),
    _gpu("Standard_NC96ads_A100_v4", 96, 880, 4, "NVIDIA A100", 80),
    _gpu("Standard_ND96asr_v4", 96, 900, 8, "NVIDIA A100", 40),
    _gpu("Standard_ND96amsr_A100_v4", 96, 1900, 8, "NVIDIA A100", 80),
    _gpu("Standard_NC40ads_H100_v5", 40, 320, 1, "NVIDIA H100 NVL", 94),
    _gpu("Standard_NC80adis_H100_v5", 80, 640, 2, "NVIDIA H100 NVL", 94),
    _gpu("Standard_ND96isr_H100_v5", 96, 1900, 8, "NVIDIA H100", 80),
    ComputeSize(name="Standard_D2_v2", vcpus=2, memory_gb=7),
    ComputeSize(name="Standard_D3_v2", vcpus=4, memory_gb=14),
    ComputeSize(name="Standard_D4_v2", vcpus=8, memory_gb=28),
    ComputeSize(name="Standard_D5_v2", vcpus=16, memory_gb=56),
    ComputeSize(name="Standard_D11_v2", vcpus=2, memory_gb=14),
    ComputeSize(name="Standard_D12_v2", vcpus=4, memory_gb=28),
    ComputeSize(name="Standard_D13_v2", vcpus=8, memory_gb=56),
    ComputeSize(name="Standard_D14_v2", vcpus=16, memory_gb=112),
    ComputeSize(name="Standard_DS2_v2", vcpus=2, memory_gb=7),
    ComputeSize(name="Standard_DS3_v2", vcpus=4, memory_gb=14),
    ComputeSize(name="Standard_DS4_v2", vcpus=8, memory_gb=28),
    ComputeSize(name="Standard_DS5_v2", vcpus=16, memory_gb=56),
    ComputeSize(name="Standard_DS11_v2", vcpus=2, memory_gb=14),
    ComputeSize(name="Standard_DS12_v2", vcpus=4, memory_gb=28),
    ComputeSize(name="Standard_DS13_v2", vcpus=8, memory_gb=56),
    ComputeSize(name="Standard_DS14_v2", vcpus=16, memory_gb=112),
    ComputeSize(name="Standard_D2s_v3", vcpus=2, memory_gb=8),
    ComputeSize(name="Standard_D4s_v3", vcpus=4, memory_gb=16),
    ComputeSize(name="Standard_D8s_v3", vcpus=8, memory_gb=32),
    ComputeSize(name="Standard_D16s_v3", vcpus=16, memory_gb=64),
    ComputeSize(name="Standard_E2s_v3", vcpus=2, memory_gb=16),
    ComputeSize(name="Standard_E4s_v3", vcpus=4, memory_gb=32),
    ComputeSize(name="Standard_E8s_v3", vcpus=8, memory_gb=64),
    ComputeSize(name="Standard_E16s_v3", vcpus=16, memory_gb=128),
    ComputeSize(name="Standard_F2s_v2", vcpus=2, memory_gb=4),
    ComputeSize(name="Standard_F4s_v2", vcpus=4, memory_gb=8),
    ComputeSize(name="Standard_F8s_v2", vcpus=8, memory_gb=16),
    ComputeSize(name="Standard_F16s_v2", vcpus=16, memory_gb=32),
)

_BY_NAME = {size.name.lower(): size for size in AZURE_SIZES}


def local_size(machine: Machine) -> ComputeSize:
    """What this machine is as a size."""
    first = machine.gpus[0] if machine.gpus else None
    return ComputeSize(
        name=LOCAL,
        vcpus=machine.cores,
        memory_gb=round(machine.memory_bytes / 2**30, 1),
        gpus=len(machine.gpus),
        gpu_name=first.name if first else None,
        gpu_memory_gb=round(min(gpu.memory_bytes for gpu in machine.gpus) / 2**30, 1) if first else None,
    )


def find_size(name: str, machine: Machine, *, target: str = "size") -> ComputeSize:
    """The size called ``name``, without regard to case.

    Raises:
        ValidationFailed: there is no such size; the closest are named.
    """
    wanted = name.strip().lower()
    if wanted == LOCAL:
        return local_size(machine)
    found = _BY_NAME.get(wanted)
    if found is None:
        close = [_BY_NAME[key].name for key in difflib.get_close_matches(wanted, _BY_NAME, n=3, cutoff=0.7)]
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        raise ValidationFailed(
            f"{name[:80]!r} is not a size",
            target=target,
            way_out=f"{hint}'local' is this machine; all sizes: tunesmith compute sizes",
        )
    return found


def describe(size: ComputeSize) -> str:
    """Such as ``40 vCPUs, 672 GiB and 8 × NVIDIA V100 (32 GiB)``."""
    parts = [f"{size.vcpus} vCPU{'s' if size.vcpus != 1 else ''}", f"{size.memory_gb:g} GiB"]
    if size.gpus:
        parts.append(f"{size.gpus} × {size.gpu_name} ({size.gpu_memory_gb:g} GiB)")
        return f"{parts[0]}, {parts[1]} and {parts[2]}"
    return " and ".join(parts)


def difference(size: ComputeSize, machine: Machine) -> str | None:
    """What this machine gives instead of what ``size`` promises; ``None`` for the machine's own size."""
    if size.name == LOCAL:
        return None
    here = local_size(machine)
    has = describe(here) if here.gpus else f"{here.vcpus} cores, {here.memory_gb:g} GiB and no GPU"
    return (
        f"{size.name} promises {describe(size)}; this machine has {has.replace(' vCPU', ' core')}. Jobs get the latter."
    )


def table() -> str:
    """Azure's sizes as a Markdown table, for the documentation."""
    lines = [
        "| size | vCPUs | memory (GiB) | GPUs | GPU | memory of a GPU (GiB) |",
        "| --- | ---: | ---: | ---: | --- | ---: |",
    ]
    for size in AZURE_SIZES:
        gpu = (size.gpu_name or "", f"{size.gpu_memory_gb:g}" if size.gpu_memory_gb is not None else "")
        lines.append(f"| `{size.name}` | {size.vcpus} | {size.memory_gb:g} | {size.gpus} | {gpu[0]} | {gpu[1]} |")
    return "\n".join(lines) + "\n"
