"""The gated MLP with its adapters as one function: ``down(act(gate(x)) * up(x))`` (Shazeer, 2020).

Kept for the backward pass: the input, gate and up, and the narrow products. The activation and its product are
computed again, which is one pass over memory against keeping two more tensors of the MLP's width.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from tunesmith.finetune.fast.projection import LoraGroup

Activation = Literal["silu", "gelu_tanh"]


def _activate(gate: Tensor, kind: Activation) -> Tensor:
    if kind == "silu":
        return torch.nn.functional.silu(gate)
    return torch.nn.functional.gelu(gate, approximate="tanh")


def _activate_backward(grad: Tensor, gate: Tensor, kind: Activation) -> Tensor:
    if kind == "silu":
        result: Tensor = torch.ops.aten.silu_backward(grad, gate)
    else:
        result = torch.ops.aten.gelu_backward(grad, gate, approximate="tanh")
    return result


class _GatedMlp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, entering: LoraGroup, leaving: LoraGroup, kind: Activation, *adapters: Tensor
    ) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        both, narrow = entering.forward(flat)
        width = both.shape[-1] // 2
        product = _activate(both[:, :width], kind).mul_(both[:, width:])
        output, narrow_down = leaving.forward(product)
        ctx.save_for_backward(flat, both, narrow, narrow_down)
        ctx.entering, ctx.leaving, ctx.kind, ctx.shape = entering, leaving, kind, x.shape
        return output.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Any, ...]:
        flat, both, narrow, narrow_down = ctx.saved_tensors
        entering, leaving, kind = ctx.entering, ctx.leaving, ctx.kind
        width = both.shape[-1] // 2
        gate, up = both[:, :width], both[:, width:]
        grad = outputs[0].reshape(-1, outputs[0].shape[-1])
        activated = _activate(gate, kind)
        product = activated * up
        grad_product, grads_down = leaving.backward(grad, product, narrow_down, need_input=True)
        assert grad_product is not None
        grad_both = torch.empty_like(both)
        torch.mul(grad_product, activated, out=grad_both[:, width:])
        grad_both[:, :width] = _activate_backward(grad_product.mul_(up), gate, kind)
        grad_x, grads = entering.backward(grad_both, flat, narrow, need_input=ctx.needs_input_grad[0])
        return (grad_x.view(ctx.shape) if grad_x is not None else None, None, None, None, *grads, *grads_down)


def gated_mlp(x: Tensor, entering: LoraGroup, leaving: LoraGroup, kind: Activation) -> Tensor:
    """[…, hidden] to […, hidden]. ``entering`` gives gate and up side by side."""
    result: Tensor = _GatedMlp.apply(  # type: ignore[no-untyped-call]
        x, entering, leaving, kind, *entering.adapters(), *leaving.adapters()
    )
    return result
