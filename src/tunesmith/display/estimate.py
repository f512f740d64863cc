"""What a run over some conversations would cost in time, memory and disk, before anyone starts it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.display.units import seconds, size

if TYPE_CHECKING:
    from tunesmith.models import ModelPackage


def estimate_lines(package: ModelPackage, lengths: Sequence[int] | Any, *, max_seq_length: int | None) -> list[str]:
    """One epoch over rows of ``lengths`` tokens, with LoRA and in full, on this machine."""
    return [
        f"One epoch, {label}: "
        + estimate_line(package, lengths, {"apply_lora": lora, "max_seq_length": str(max_seq_length or -1)})
        for label, lora in (("LoRA", "true"), ("full", "false"))
    ]


def estimate_line(package: ModelPackage, lengths: Sequence[int] | Any, values: Mapping[str, Any]) -> str:
    """A run with these parameters of ``chat_completion_pipeline`` over rows of ``lengths`` tokens, on this machine."""
    from tunesmith.finetune import FinetuneParameters, estimate

    found = estimate(
        package.config(),
        FinetuneParameters.from_strings({key: str(value) for key, value in values.items()}),
        lengths,
        parameter_count=package.manifest.parameter_count,
        context_length=package.manifest.context_length,
    )
    return (
        f"about {seconds(found.seconds)} on this machine, {size(found.memory_bytes)} of memory, "
        f"{size(found.disk_bytes)} of disk, {found.steps:,} steps, {found.tokens:,} tokens, "
        f"{found.trainable_parameters / 1e6:,.1f} M weights trained."
    )
