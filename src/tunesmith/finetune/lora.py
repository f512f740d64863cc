"""Low-rank adapters: LoRA, rsLoRA and DoRA as our own layers, with PEFT's names and arithmetic.

PEFT's layers are written to be general; these are written to be quick and sparing: one autograd function for base and
adapter, which keeps the input (that the layers around keep anyway) and the narrow product, and nothing else. Adapters
are fp32 whatever the base's type. ``adapters.py`` writes them in PEFT's format.

LoRA: Hu et al. 2021. rsLoRA: Kalajdzievski 2023. DoRA: Liu et al. 2024.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn

from tunesmith.errors import Fault, ValidationFailed
from tunesmith.finetune.parameters import FinetuneParameters, did_you_mean


class _LoraProduct(torch.autograd.Function):
    """``x W' + b + s (x A') B'``, with the adapter's gradients in fp32."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scaling: float
    ) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        narrow = flat @ a.to(x.dtype).t()
        output = torch.nn.functional.linear(flat, weight, bias)
        output.addmm_(narrow, b.to(x.dtype).t(), alpha=scaling)
        ctx.save_for_backward(flat, narrow, weight, a, b)
        ctx.scaling = scaling
        ctx.shape = x.shape
        return output.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        flat, narrow, weight, a, b = ctx.saved_tensors
        grad = outputs[0].reshape(-1, outputs[0].shape[-1])
        grad_narrow = (grad @ b.to(grad.dtype).t().contiguous().t()).mul_(ctx.scaling)
        grad_a = (grad_narrow.t() @ flat).float() if ctx.needs_input_grad[3] else None
        grad_b = (narrow.t() @ grad).float().mul_(ctx.scaling).t() if ctx.needs_input_grad[4] else None
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = (grad @ weight).addmm_(grad_narrow, a.to(grad.dtype)).view(ctx.shape)
        return grad_x, None, None, grad_a, grad_b, None


class LoraLinear(nn.Module):
    """A frozen linear layer with an adapter. ``base`` is ``nn.Linear`` or a quantised layer that behaves like one."""

    def __init__(self, base: nn.Linear, *, r: int, scaling: float, dropout: float = 0.0, dora: bool = False) -> None:
        super().__init__()
        self.base = base
        self.r = r
        self.scaling = scaling
        self.dropout = dropout
        self.lora_A = nn.Parameter(torch.empty(r, base.in_features, dtype=torch.float32, device=base.weight.device))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, r, dtype=torch.float32, device=base.weight.device))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.magnitude: nn.Parameter | None = None
        if dora:
            self.magnitude = nn.Parameter(torch.linalg.vector_norm(base.weight.detach().float(), dim=1))

    @property
    def in_features(self) -> int:
        """Width of the input."""
        return int(self.base.in_features)

    @property
    def out_features(self) -> int:
        """Width of the output."""
        return int(self.base.out_features)

    @property
    def weight(self) -> Tensor:
        """The frozen weight."""
        return self.base.weight

    @property
    def plain(self) -> bool:
        """Whether base and adapter are one sum of products, without dropout, magnitude or quantisation."""
        return type(self.base) is nn.Linear and self.magnitude is None and not (self.training and self.dropout > 0)

    def forward(self, x: Tensor) -> Tensor:
        """[…, in] to […, out]."""
        if self.plain:
            product: Tensor = _LoraProduct.apply(  # type: ignore[no-untyped-call]
                x, self.base.weight, self.base.bias, self.lora_A, self.lora_B, self.scaling
            )
            return product
        entering = nn.functional.dropout(x, self.dropout, self.training) if self.dropout > 0 else x
        adapter = (
            nn.functional.linear(nn.functional.linear(entering, self.lora_A.to(x.dtype)), self.lora_B.to(x.dtype))
            * self.scaling
        )
        if self.magnitude is None:
            output: Tensor = self.base(x) + adapter
            return output
        # The norm is a constant to the gradient (DoRA, section 4.3).
        with torch.no_grad():
            whole = self.base.weight.float() + self.scaling * (self.lora_B @ self.lora_A)
            norm = torch.linalg.vector_norm(whole, dim=1)
        ratio = (self.magnitude / norm).to(x.dtype)
        product = nn.functional.linear(entering, self.base.weight)
        output = ratio * (product + adapter)
        return output if self.base.bias is None else output + self.base.bias


def add_adapters(model: nn.Module, parameters: FinetuneParameters) -> list[str]:
    """Freeze ``model`` and put an adapter on each wanted layer, in the model's order; the layers' names.

    Seed before calling: the adapters' start is random.

    Raises:
        ValidationFailed: a name in ``lora_target_modules`` fits no linear layer, or the model has none.
    """
    for weight in model.parameters():
        weight.requires_grad_(False)
    output = cast("Any", model).get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    linear = {
        name: module for name, module in model.named_modules() if isinstance(module, nn.Linear) and module is not output
    }
    wanted = [name.strip() for name in parameters.lora_target_modules.split(",") if name.strip()]
    if wanted == ["all-linear"]:
        chosen = list(linear)
    else:
        leaves = {name.rsplit(".", 1)[-1] for name in linear}
        faults = [
            Fault(
                f'no linear layer of this model is called "{name}"',
                "lora_target_modules",
                "InvalidValue",
                did_you_mean(name, leaves) or "its layers are " + ", ".join(sorted(leaves)),
            )
            for name in wanted
            if not any(full == name or full.endswith("." + name) for full in linear)
        ]
        if faults:
            raise ValidationFailed("lora_target_modules does not fit the model", details=faults)
        chosen = [full for full in linear if any(full == name or full.endswith("." + name) for name in wanted)]
    if not chosen:
        raise ValidationFailed(
            "the model has no linear layer to adapt",
            details=[Fault("no linear layer was found", "apply_lora", "InvalidValue", "set apply_lora to false")],
        )
    for name in chosen:
        parent, _, leaf = name.rpartition(".")
        layer = LoraLinear(
            linear[name],
            r=parameters.lora_r,
            scaling=parameters.lora_scaling,
            dropout=parameters.lora_dropout,
            dora=parameters.use_dora,
        )
        layer.train(model.training)
        setattr(model.get_submodule(parent) if parent else model, leaf, layer)
    return chosen


def adapted_layers(model: nn.Module) -> dict[str, LoraLinear]:
    """The layers with an adapter by name, in the model's order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLinear)}
