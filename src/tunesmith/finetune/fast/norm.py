"""RMS norm as one function (Zhang and Sennrich, 2019).

transformers' norm is six operations, and autograd keeps the input of each. This one reads the row's length in one
pass, scales in another, and keeps the input (that the residual keeps anyway) and one number a token.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _RmsNorm(torch.autograd.Function):
    """``x / rms(x) * weight``; statistics in fp32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        width = x.shape[-1]
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        inverse = norm.square_().div_(width).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        if x.dtype == torch.float32:
            return torch.mul(x, inverse).mul_(weight)
        # As transformers does it: the row is scaled in fp32 and rounded before the weight.
        rounded: Tensor = (x.float() * inverse).to(x.dtype)
        return rounded * weight

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensors
        grad = outputs[0]
        scaled = (x if x.dtype == torch.float32 else x.float()) * inverse
        grad_weight = (grad * scaled).flatten(0, -2).sum(0).to(weight.dtype) if ctx.needs_input_grad[1] else None
        through = grad * weight if grad.dtype == torch.float32 else grad.float() * weight
        along = torch.linalg.vecdot(through, scaled).unsqueeze(-1).div_(x.shape[-1])
        through.addcmul_(scaled, along, value=-1.0).mul_(inverse)
        return through.to(x.dtype), grad_weight, None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """[…, width] normalised over the last dimension and scaled by ``weight`` [width]."""
    result: Tensor = _RmsNorm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
    return result
