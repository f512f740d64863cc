"""RMS norm as one function (Zhang and Sennrich, 2019).

transformers' norm is six operations, and autograd keeps the input of each. This one reads the row's length in one
pass, scales in another, and keeps the input (that the residual keeps anyway) and one number a token.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

Norm = tuple[Tensor, float]
"""A frozen weight [width] and the epsilon."""


def normalise(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """``x / rms(x) * weight`` over the last dimension and one over each row's length (fp32, last dimension 1)."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    inverse = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    return scale(x, inverse, weight), inverse


def scale(x: Tensor, inverse: Tensor, weight: Tensor) -> Tensor:
    """``x * inverse * weight``, rounded as transformers does it: the row in fp32, before the weight."""
    if x.dtype == torch.float32:
        return torch.mul(x, inverse).mul_(weight)
    rounded: Tensor = (x.float() * inverse).to(x.dtype)
    return rounded * weight


def normalise_backward(grad: Tensor, x: Tensor, inverse: Tensor, weight: Tensor) -> Tensor:
    """The gradient of ``x`` in fp32; ``grad`` is used up where it is fp32."""
    scaled = (x if x.dtype == torch.float32 else x.float()) * inverse
    through = grad.mul_(weight) if grad.dtype == torch.float32 else grad.float() * weight
    along = torch.linalg.vecdot(through, scaled).unsqueeze(-1).div_(x.shape[-1])
    return through.addcmul_(scaled, along, value=-1.0).mul_(inverse)


class _RmsNorm(torch.autograd.Function):
    """``x / rms(x) * weight``; statistics in fp32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        output, inverse = normalise(x, weight, eps)
        ctx.save_for_backward(x, weight, inverse)
        return output

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensors
        grad = outputs[0]
        grad_weight = None
        if ctx.needs_input_grad[1]:
            scaled = (x if x.dtype == torch.float32 else x.float()) * inverse
            grad_weight = (grad * scaled).flatten(0, -2).sum(0).to(weight.dtype)
        # Another consumer may hold the gradient that came in: it is not ours to use up.
        return normalise_backward(grad.clone(), x, inverse, weight).to(x.dtype), grad_weight, None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """[…, width] normalised over the last dimension and scaled by ``weight`` [width]."""
    result: Tensor = _RmsNorm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
    return result
