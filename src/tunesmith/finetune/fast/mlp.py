"""The gated MLP with its adapters as one function: ``down(act(gate(x)) * up(x))`` (Shazeer, 2020).

Kept for the backward pass: the input, gate and up, and the narrow products. The activation and its product are
computed again, which is one pass over memory against keeping two more tensors of the MLP's width. With a norm, the
function is the whole second half of a layer, ``x + mlp(norm(x))``, and the norm's output is not kept either.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from tunesmith.finetune.fast.norm import Norm, normalise, normalise_backward, scale
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
        ctx: Any,
        x: Tensor,
        norm: Norm | None,
        entering: LoraGroup,
        leaving: LoraGroup,
        kind: Activation,
        *adapters: Tensor,
    ) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        entered, inverse = (flat, None) if norm is None else normalise(flat, *norm)
        both, narrow = entering.forward(entered)
        width = both.shape[-1] // 2
        product = _activate(both[:, :width], kind).mul_(both[:, width:])
        output, narrow_down = leaving.forward(product, None if norm is None else flat)
        ctx.save_for_backward(flat, both, narrow, narrow_down, inverse)
        ctx.norm, ctx.entering, ctx.leaving, ctx.kind, ctx.shape = norm, entering, leaving, kind, x.shape
        return output.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Any, ...]:
        flat, both, narrow, narrow_down, inverse = ctx.saved_tensors
        entering, leaving, kind, norm = ctx.entering, ctx.leaving, ctx.kind, ctx.norm
        width = both.shape[-1] // 2
        gate, up = both[:, :width], both[:, width:]
        grad = outputs[0].reshape(-1, outputs[0].shape[-1])
        activated = _activate(gate, kind)
        grad_product, grads_down = leaving.backward(grad, activated * up, narrow_down, need_input=True)
        assert grad_product is not None
        grad_both = torch.empty_like(both)
        torch.mul(grad_product, activated, out=grad_both[:, width:])
        grad_both[:, :width] = _activate_backward(grad_product.mul_(up), gate, kind)
        entered = flat if norm is None else scale(flat, inverse, norm[0])
        grad_x, grads = entering.backward(grad_both, entered, narrow, need_input=ctx.needs_input_grad[0])
        if grad_x is not None and norm is not None:
            grad_x = normalise_backward(grad_x, flat, inverse, norm[0]).to(flat.dtype).add_(grad)
        result = grad_x.view(ctx.shape) if grad_x is not None else None
        return (result, None, None, None, None, *grads, *grads_down)


def gated_mlp(x: Tensor, entering: LoraGroup, leaving: LoraGroup, kind: Activation, norm: Norm | None = None) -> Tensor:
    """[…, hidden] to […, hidden]. ``entering`` gives gate and up side by side; with ``norm``, ``x`` is normalised
    first and added to the result.
    """
    result: Tensor = _GatedMlp.apply(  # type: ignore[no-untyped-call]
        x, norm, entering, leaving, kind, *entering.adapters(), *leaving.adapters()
    )
    return result
