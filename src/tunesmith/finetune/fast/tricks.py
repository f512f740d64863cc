"""The switches."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tricks:
    """Which tricks are on. Every one changes the speed or the memory, none the numbers beyond rounding."""

    norm: bool = True
    """RMS norm as one function that keeps its input and one number a token."""
    attention: bool = True
    """Rotary embedding and blockwise causal attention as one function; off: PyTorch's kernel, document by document."""
    mlp: bool = True
    """Gate, up, activation and down with their adapters as one function that keeps gate and up only."""
    projection: bool = True
    """Query, key and value as one product with their adapters."""
    layer: bool = True
    """A layer's halves, from the norm to the residual's sum, as one function each; the norms' outputs are not kept."""
    allocator: bool = True
    """Freed memory stays with the process, so that a step does not ask the system for it page by page again."""

    @classmethod
    def none(cls) -> Tricks:
        """Every trick off."""
        return cls(norm=False, attention=False, mlp=False, projection=False, layer=False, allocator=False)
