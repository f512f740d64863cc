"""Linear layers whose weights are laid out for the processor, where that is quicker.

A model that is served multiplies few rows with the same weights again and again. oneDNN can reorder a weight once
into the layout its kernels read fastest; torch's own ``linear`` may do that for every call, or read a layout that
does not suit few rows (a large output layer in float32 is several times slower than it need be). Which is better
depends on processor, type and shape, so every shape of a model is timed both ways when the engine opens, and the
better one is kept.

CPU only. The reordered weight takes the place of the plain one; only an output layer that shares its weight with the
embeddings is kept twice.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

ROWS = (1, 8)
"""What decoding multiplies: one answer, and a batch of them."""
ROUNDS = 3
SAMPLE = 6
"""Layers of a shape that are timed in turn, so that weights come from memory and not from a cache."""
CLEARLY = 0.85
"""A reordered weight must need less than this share of the time."""

Timer = Callable[[list[torch.Tensor], int], tuple[float, float]]
"""(weights, rows) → seconds of one product, plain and reordered."""


class PackedLinear(nn.Module):
    """``nn.Linear`` over a weight in oneDNN's own layout."""

    packed: torch.Tensor

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = plain.in_features, plain.out_features
        self.register_buffer("packed", _reorder(plain.weight.detach()), persistent=False)
        self.bias = plain.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x @ weight.T + bias``."""
        return _multiply(x, self.packed, self.bias)


@dataclass(frozen=True, slots=True)
class Packing:
    """What ``pack_linears`` did."""

    layers: int
    """Whose weights were reordered."""
    of: int
    """All linear layers."""
    seconds_saved: float
    """In a pass over ``ROWS[-1]`` rows, as timed."""


def pack_linears(model: nn.Module, timer: Timer | None = None) -> Packing:
    """Replace the linear layers of ``model`` whose shape is quicker reordered; nothing where oneDNN is not at hand.

    ``timer`` is ``seconds_per_product`` unless another is given.
    """
    timer = timer or seconds_per_product
    shapes: dict[tuple[Any, ...], list[tuple[nn.Module, str, nn.Linear]]] = defaultdict(list)
    for parent in model.modules():
        for name, child in parent.named_children():
            if type(child) is nn.Linear:
                shapes[(child.in_features, child.out_features, child.weight.dtype)].append((parent, name, child))
    total = sum(map(len, shapes.values()))
    if not _available(next(model.parameters())):
        return Packing(0, total, 0.0)
    layers, saved = 0, 0.0
    with torch.no_grad():
        for found in shapes.values():
            gain = _gain([child for _, _, child in found[:SAMPLE]], timer)
            if not gain:
                continue
            for parent, name, child in found:
                setattr(parent, name, PackedLinear(child))
            layers += len(found)
            saved += gain * len(found)
    return Packing(layers, total, saved)


def seconds_per_product(weights: list[torch.Tensor], rows: int) -> tuple[float, float]:
    """Seconds to multiply ``rows`` rows with a weight, plain and reordered (infinite where that cannot be)."""
    x = torch.randn(rows, weights[0].shape[1]).to(weights[0].dtype)
    with torch.inference_mode():
        plain = _best(lambda weight: nn.functional.linear(x, weight), weights)
        if not _available(weights[0]):
            return plain, float("inf")
        return plain, _best(lambda weight: _multiply(x, weight, None), [_reorder(weight) for weight in weights])


def _available(weight: torch.Tensor) -> bool:
    return (
        weight.device.type == "cpu"
        and weight.dtype in (torch.float32, torch.bfloat16)
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        # oneDNN refuses bf16 on processors that cannot multiply it (AVX2 alone).
        and (weight.dtype != torch.bfloat16 or torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


def _gain(sample: list[nn.Linear], timer: Timer) -> float:
    """Seconds saved for a layer, in a pass over many rows; 0 where reordering does not pay."""
    times = [timer([layer.weight.detach() for layer in sample], rows) for rows in ROWS]
    # One answer and many count alike: each is measured against its own plain time.
    share = sum(packed / plain for plain, packed in times) / len(times)
    plain, packed = times[-1]
    return max(plain - packed, 0.0) if share < CLEARLY else 0.0


def _best(call: Callable[[torch.Tensor], torch.Tensor], weights: list[torch.Tensor]) -> float:
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for weight in weights:
            call(weight)
        best = min(best, (time.perf_counter() - began) / len(weights))
    return best


def _reorder(weight: torch.Tensor) -> torch.Tensor:
    packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS[-1])
    return packed


def _multiply(x: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return out
