"""Cross-entropy over the vocabulary at the positions that carry a label, in chunks.

Logits for every position would be the largest tensor of the run (tokens x vocabulary); here they exist only for
labelled positions, one chunk at a time, and the gradient by the hidden states is made in the same pass. The loss is a
*sum* over trained tokens: dividing by the trained tokens of the whole optimiser step is the trainer's business, so
that accumulation changes no number.

Idea: fused linear cross-entropy (Liger Kernel; Wijmans et al., "Cut Your Losses", 2024).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

CHUNK_ELEMENTS = 6 * 1024 * 1024
"""Logits alive at a time: below 32 MB in fp32, the size up to which an allocator uses memory again."""


@dataclass(frozen=True, slots=True)
class Head:
    """The output layer: ``weight`` [vocabulary, width], with what the architecture does to its logits."""

    weight: Tensor
    bias: Tensor | None = None
    softcap: float | None = None
    """Logits become ``softcap * tanh(logits / softcap)`` (Gemma)."""
    divisor: float = 1.0
    """Logits are divided by this (Granite's ``logits_scaling``)."""


def _rows(vocabulary: int) -> int:
    return max(16, CHUNK_ELEMENTS // vocabulary)


def _logits(hidden: Tensor, head: Head) -> Tensor:
    logits = torch.nn.functional.linear(hidden, head.weight, head.bias).float()
    if head.divisor != 1.0:
        logits = logits / head.divisor
    if head.softcap is not None:
        logits = torch.tanh(logits / head.softcap) * head.softcap
    return logits


class _SummedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, head: Head) -> Tensor:
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        total = hidden.new_zeros((), dtype=torch.float32)
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if need_weight else None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if need_bias and bias is not None else None
        step = _rows(weight.shape[0])
        for start in range(0, hidden.shape[0], step):
            part, truth = hidden[start : start + step], labels[start : start + step]
            logits = _logits(part, head)
            grad = torch.log_softmax(logits, -1)
            total -= grad.gather(-1, truth[:, None]).sum()
            if not (need_hidden or need_weight or need_bias):
                continue
            grad.exp_()
            grad.scatter_add_(-1, truth[:, None], grad.new_full((len(truth), 1), -1.0))
            if head.softcap is not None:
                grad.mul_(1.0 - (logits / head.softcap).square_())
            if head.divisor != 1.0:
                grad.div_(head.divisor)
            narrow = grad.to(weight.dtype)
            if grad_hidden is not None:
                torch.mm(narrow, weight, out=grad_hidden[start : start + step])
            if grad_weight is not None:
                grad_weight.addmm_(narrow.float().t(), part.float())
            if grad_bias is not None:
                grad_bias.add_(grad.sum(0))
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        ctx.dtypes = (weight.dtype, bias.dtype if bias is not None else None)
        return total

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        (scale,) = outputs
        grad_hidden, grad_weight, grad_bias = ctx.saved_tensors
        weight_dtype, bias_dtype = ctx.dtypes
        return (
            grad_hidden * scale.to(grad_hidden.dtype) if grad_hidden is not None else None,
            (grad_weight * scale).to(weight_dtype) if grad_weight is not None else None,
            (grad_bias * scale).to(bias_dtype) if grad_bias is not None else None,
            None,
            None,
        )


def summed_cross_entropy(hidden: Tensor, labels: Tensor, head: Head) -> Tensor:
    """The sum of ``-log p(label)`` in nats, fp32.

    ``hidden`` is [positions, width], already picked where a label is; ``labels`` [positions] are token ids.
    Differentiable once, by ``hidden`` and by the head's weight and bias where they are trained.
    """
    result: Tensor = _SummedCrossEntropy.apply(hidden, head.weight, head.bias, labels, head)  # type: ignore[no-untyped-call]
    return result


@torch.no_grad()
def predictions(hidden: Tensor, labels: Tensor, head: Head) -> tuple[Tensor, Tensor]:
    """The summed loss, and the most likely token at each position ([positions], int64), in chunks."""
    total = hidden.new_zeros((), dtype=torch.float32)
    best = torch.empty_like(labels)
    step = _rows(head.weight.shape[0])
    for start in range(0, hidden.shape[0], step):
        logits = _logits(hidden[start : start + step], head)
        truth = labels[start : start + step]
        total += (torch.logsumexp(logits, -1) - logits.gather(-1, truth[:, None]).squeeze(-1)).sum()
        best[start : start + step] = logits.argmax(-1)
    return total, best
