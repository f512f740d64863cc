"""What every benchmark says of the machine it ran on."""

from __future__ import annotations

from pathlib import Path

from tunesmith.compute.machine import detect


def describe() -> str:
    """Processor with its widest arithmetic, cores and memory that a process gets."""
    machine = detect(Path.cwd())
    widest = [name for name in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if name in machine.instructions]
    arithmetic = f" ({widest[0].upper()})" if widest else ""
    return f"{machine.processor}{arithmetic}, {machine.cores} cores, {machine.memory_bytes / 2**30:.0f} GiB"
