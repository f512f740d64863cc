"""Several linear layers that read the same input, with their adapters, as one product.

The frozen weights of the group lie one after the other in one matrix (each layer's own weight is a view of it, so
nothing is stored twice), and so do the adapters' A matrices. Forward: one product for all layers and one narrow one;
backward: one product for the input's gradient, where separate layers would make one each and add them up.

Every narrow product is arranged so that the narrow matrix is on the left, eight rows and many columns: the other way
round, many rows and eight columns, a product of the same size takes up to five times as long on a CPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tunesmith.finetune.fast.norm import Norm, normalise, normalise_backward, scale
from tunesmith.finetune.lora import LoraLinear


class LoraGroup:
    """The layers of a group. ``layers`` must be plain (no dropout, DoRA or quantisation)."""

    def __init__(self, layers: list[LoraLinear]) -> None:
        self.layers = layers
        self.outputs = [layer.out_features for layer in layers]
        self.width = sum(self.outputs)
        self.ranks = [layer.r for layer in layers]
        self.scaling = layers[0].scaling
        if len(layers) == 1:
            self.weight = layers[0].base.weight.detach()
            self.narrow = layers[0].lora_A.detach()
        else:
            self.weight = torch.cat([layer.base.weight.detach() for layer in layers])
            self.narrow = torch.cat([layer.lora_A.detach() for layer in layers])
            row = rank = 0
            for layer in layers:
                layer.base.weight.data = self.weight[row : row + layer.out_features]
                layer.lora_A.data = self.narrow[rank : rank + layer.r]
                row += layer.out_features
                rank += layer.r
        biases = [layer.base.bias for layer in layers]
        self.bias: Tensor | None = None
        if any(bias is not None for bias in biases):
            self.bias = torch.cat(
                [
                    bias.detach() if bias is not None else self.weight.new_zeros(layer.out_features)
                    for bias, layer in zip(biases, layers, strict=True)
                ]
            )

    def adapters(self) -> list[Tensor]:
        """A and B of each layer in turn: what gets gradients."""
        return [part for layer in self.layers for part in (layer.lora_A, layer.lora_B)]

    def forward(self, x: Tensor, residual: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The layers' outputs side by side for flat ``x`` [tokens, in], plus ``residual``, and the narrow products
        for backward.
        """
        narrow = x @ self.narrow.to(x.dtype).t()
        if residual is None:
            output = torch.nn.functional.linear(x, self.weight, self.bias)
        else:
            output = torch.addmm(residual, x, self.weight.t())
            if self.bias is not None:
                output.add_(self.bias)
        row = rank = 0
        for layer, width in zip(self.layers, self.outputs, strict=True):
            output[:, row : row + width].addmm_(
                narrow[:, rank : rank + layer.r], layer.lora_B.detach().to(x.dtype).t(), alpha=self.scaling
            )
            row += width
            rank += layer.r
        return output, narrow

    def backward(
        self, grad: Tensor, x: Tensor, narrow: Tensor, *, need_input: bool
    ) -> tuple[Tensor | None, list[Tensor]]:
        """Gradients of ``x`` and of ``adapters()`` (fp32)."""
        grad_narrow = torch.empty_like(narrow)
        grads_b = []
        row = rank = 0
        for layer, width in zip(self.layers, self.outputs, strict=True):
            part = grad[:, row : row + width]
            wide = layer.lora_B.detach().to(grad.dtype).t().contiguous()
            torch.mm(part, wide.t(), out=grad_narrow[:, rank : rank + layer.r])
            grads_b.append((narrow[:, rank : rank + layer.r].t() @ part).float().mul_(self.scaling).t())
            row += width
            rank += layer.r
        grad_narrow.mul_(self.scaling)
        grads_a = (grad_narrow.t() @ x).float().split(self.ranks)  # type: ignore[no-untyped-call]
        grad_x = (grad @ self.weight).addmm_(grad_narrow, self.narrow.to(grad.dtype)) if need_input else None
        return grad_x, [part for pair in zip(grads_a, grads_b, strict=True) for part in pair]


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, residual: Tensor | None, norm: Norm | None, group: LoraGroup, *adapters: Tensor
    ) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        entered, inverse = (flat, None) if norm is None else normalise(flat, *norm)
        output, narrow = group.forward(entered, None if residual is None else residual.reshape(-1, group.width))
        ctx.save_for_backward(flat, narrow, inverse)
        ctx.group, ctx.norm, ctx.shape = group, norm, x.shape
        return output.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Any, ...]:
        flat, narrow, inverse = ctx.saved_tensors
        norm = ctx.norm
        grad = outputs[0].reshape(-1, outputs[0].shape[-1])
        entered = flat if norm is None else scale(flat, inverse, norm[0])
        grad_x, grads = ctx.group.backward(grad, entered, narrow, need_input=ctx.needs_input_grad[0])
        if grad_x is not None and norm is not None:
            grad_x = normalise_backward(grad_x, flat, inverse, norm[0]).to(flat.dtype)
        return (
            grad_x.view(ctx.shape) if grad_x is not None else None,
            outputs[0] if ctx.needs_input_grad[1] else None,
            None,
            None,
            *grads,
        )


def project(x: Tensor, group: LoraGroup, *, residual: Tensor | None = None, norm: Norm | None = None) -> Tensor:
    """[…, in] to […, all the layers' outputs side by side], plus ``residual`` of that shape; with ``norm``, ``x`` is
    normalised first.
    """
    result: Tensor = _Project.apply(x, residual, norm, group, *group.adapters())  # type: ignore[no-untyped-call]
    return result
