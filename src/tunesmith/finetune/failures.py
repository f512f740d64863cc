"""When a run cannot go on: the error with its cause, and the three cheapest remedies with what each saves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tunesmith.errors import Fault, NonFiniteLoss, OutOfMemory
from tunesmith.finetune.estimates import memory_remedies
from tunesmith.finetune.parameters import FinetuneParameters


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that memory ran out, on a GPU or in the machine."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "not enough memory" in text or "can't allocate memory" in text or "out of memory" in text
    )


def out_of_memory(
    error: BaseException,
    *,
    config: Mapping[str, Any],
    parameters: FinetuneParameters,
    lengths: Any,
    checkpoint: str | None,
) -> OutOfMemory:
    """The error for memory that ran out while training."""
    remedies = memory_remedies(config, parameters, lengths)
    resume = f"; the last checkpoint is {checkpoint}" if checkpoint else ""
    return OutOfMemory(
        f"memory ran out while training: {str(error).splitlines()[0] if str(error) else type(error).__name__}{resume}",
        way_out="one of: " + "; ".join(str(remedy) for remedy in remedies),
        details=[Fault(str(remedy), code="Remedy") for remedy in remedies],
        extra={"remedies": [{"change": remedy.change, "saves_bytes": remedy.saves_bytes} for remedy in remedies]},
    )


def non_finite(
    *, step: int, rows: Sequence[int], what: str, parameters: FinetuneParameters, checkpoint: str | None
) -> NonFiniteLoss:
    """The error for a loss or gradient that is not a number; the update of this step was not made."""
    remedies = [f"learning_rate {parameters.learning_rate / 10:g} (now {parameters.learning_rate:g})"]
    if parameters.warmup_steps == 0:
        remedies.append("warmup_steps 10: the first steps go gently")
    if parameters.precision in ("16", "bf16"):
        remedies.append("precision 32")
    if parameters.max_grad_norm == 0 or parameters.max_grad_norm > 1:
        remedies.append("max_grad_norm 1.0: long gradients are clipped")
    if parameters.apply_lora and parameters.lora_alpha > 2 * parameters.lora_r:
        remedies.append(
            f"lora_alpha {2 * parameters.lora_r} "
            f"(now {parameters.lora_alpha}: the adapter is scaled by {parameters.lora_scaling:g})"
        )
    remedies.append(f"look at rows {list(rows)[:8]}")
    shown = ", ".join(str(row) for row in list(rows)[:8]) + (", …" if len(rows) > 8 else "")
    kept = f" The state before it is in {checkpoint}." if checkpoint else ""
    return NonFiniteLoss(
        f"the {what} became NaN or infinite at optimiser step {step} (rows {shown}); the update was not made.{kept}",
        way_out="one of: " + "; ".join(remedies[:3]) + "; then resume_from_checkpoint true",
        details=[Fault(remedy, code="Remedy") for remedy in remedies[:3]],
        extra={"step": step, "rows": list(rows)},
    )
