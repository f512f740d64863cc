"""What a run over some conversations would cost in time, memory and disk, before anyone starts it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.display.units import seconds, size

if TYPE_CHECKING:
    from tunesmith.finetune import Estimate
    from tunesmith.models import ModelPackage


def estimate_lines(package: ModelPackage, lengths: Sequence[int] | Any, *, max_seq_length: int | None) -> list[str]:
    """One epoch over rows of ``lengths`` tokens, with LoRA and in full, on this machine."""
    return [
        f"One epoch, {label}: "
        + estimate_line(
            run_estimate(package, lengths, {"apply_lora": lora, "max_seq_length": str(max_seq_length or -1)})
        )
        for label, lora in (("LoRA", "true"), ("full", "false"))
    ]


def run_estimate(package: ModelPackage, lengths: Sequence[int] | Any, values: Mapping[str, Any]) -> Estimate:
    """A run with these parameters of ``chat_completion_pipeline`` over rows of ``lengths`` tokens, on this machine.

    A processor's rate is measured, which takes a fraction of a second once torch is loaded; a GPU's is not, and then
    no time is told.
    """
    from dataclasses import replace

    import torch

    from tunesmith.finetune import FinetuneParameters, ModelShape, estimate
    from tunesmith.finetune.precision import training_rate

    parameters = FinetuneParameters.from_strings({key: str(value) for key, value in values.items()})
    shape = ModelShape.of(package.config())
    used, rate = training_rate(parameters.precision, width=shape.hidden, outputs=shape.intermediate)
    return estimate(
        package.config(),
        replace(parameters, precision="bf16" if used == "bfloat16" else "32"),
        lengths,
        parameter_count=package.manifest.parameter_count,
        context_length=package.manifest.context_length,
        flops=rate or None,
        processes=min(parameters.number_of_gpu_to_use_finetuning, torch.cuda.device_count() or 1),
    )


def estimate_line(found: Estimate) -> str:
    """The estimate in one line."""
    return (
        (f"about {seconds(found.seconds)} on this machine, " if found.seconds is not None else "")
        + f"{size(found.memory_bytes)} of memory, "
        f"{size(found.disk_bytes)} of disk, {found.steps:,} steps, {found.tokens:,} tokens, "
        f"{found.trainable_parameters / 1e6:,.1f} M weights trained."
    )


def forecast_lines(found: Estimate, *, memory_bytes: int, disk_free_bytes: int) -> list[str]:
    """The estimate beside what this machine has, with what does not fit."""
    parts = ", ".join(f"{name} {size(count)}" for name, count in found.parts.items())
    time = "not told: a GPU's rate is not measured beforehand"
    if found.seconds is not None:
        time = f"about {seconds(found.seconds)} of training at this machine's measured rate, without evaluations"
    lines = [
        f"Steps    {found.steps:,} optimiser steps, {found.tokens:,} tokens, "
        f"{found.trainable_parameters / 1e6:,.1f} M weights trained",
        f"Time     {time}",
        f"Memory   about {size(found.memory_bytes)} of {size(memory_bytes)}: {parts}",
        f"Disk     about {size(found.disk_bytes)} for checkpoints and the result, {size(disk_free_bytes)} are free",
    ]
    if found.memory_bytes > memory_bytes:
        lines.append("         more memory than there is: lower max_seq_length, or set gradient_checkpointing")
    if found.disk_bytes > disk_free_bytes:
        lines.append("         more disk than is free: set save_total_limit 1, or free some")
    return lines
