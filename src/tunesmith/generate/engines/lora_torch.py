"""Several LoRA adapters beside the linear layers of a torch model, each token of a pass with its own or none."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from tunesmith.generate.engines.lora import AdapterStack


class AdaptersOfPass:
    """Which adapter each token of the next pass has."""

    def __init__(self, stack: AdapterStack, device: torch.device) -> None:
        self._stack = stack
        self._device = device
        self.mask: torch.Tensor | None = None
        """``[tokens, ranks]``; None when no token of the pass has any."""

    def set(self, names: Sequence[str | None]) -> None:
        """Name the adapter of each token; fewer than there are tokens means that none has any."""
        named = any(name is not None for name in names)
        self.mask = torch.from_numpy(self._stack.mask(names)).to(self._device) if named else None


def attach_adapters(model: nn.Module, stack: AdapterStack) -> AdaptersOfPass:
    """Let the linear layers of ``model`` add what the adapters of a pass's tokens add; they are computed in float32."""
    device = next(model.parameters()).device
    current = AdaptersOfPass(stack, device)
    for module in stack.modules:
        down, up = (torch.from_numpy(matrix).to(device) for matrix in stack.matrices(module))
        model.get_submodule(module).register_forward_hook(_Adding(down, up, current))
    return current


class _Adding:
    def __init__(self, down: torch.Tensor, up: torch.Tensor, current: AdaptersOfPass) -> None:
        self._down, self._up, self._current = down, up, current

    def __call__(self, _module: nn.Module, given: tuple[torch.Tensor, ...], out: torch.Tensor) -> torch.Tensor:
        mask = self._current.mask
        if mask is None:
            return out
        narrow = nn.functional.linear(given[0].float(), self._down) * mask
        return out + nn.functional.linear(narrow, self._up).to(out.dtype)
