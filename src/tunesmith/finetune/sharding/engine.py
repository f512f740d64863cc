"""DeepSpeed's engine around a model, and the loss computed through it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from tunesmith.finetune.batches import MicroBatch
from tunesmith.finetune.forward import ChatForward, Predicted
from tunesmith.finetune.lora import LoraLinear
from tunesmith.finetune.optimisers import adamw, groups
from tunesmith.finetune.parameters import FinetuneParameters
from tunesmith.finetune.sharding.settings import ShardingSettings


class _Loss(nn.Module):
    """The model with its loss as one module: the engine gathers weights where a module begins."""

    def __init__(self, forward: ChatForward) -> None:
        super().__init__()
        self.model = forward.model
        self._forward = [forward]  # in a list, so that its model is not seen twice

    def forward(self, batch: MicroBatch, *, predict: bool) -> Tensor | tuple[float, Tensor]:
        """The summed loss, alone or with the likeliest tokens."""
        (forward,) = self._forward
        if not predict:
            return forward.loss(batch)
        predicted = forward.predict(batch)
        return predicted.loss, predicted.tokens


class ShardedForward(ChatForward):
    """``ChatForward`` through the engine."""

    def __init__(self, forward: ChatForward, engine: Any, device: torch.device) -> None:
        vars(self).update(vars(forward))
        self._engine = engine
        self._device = device

    @property
    def device(self) -> torch.device:
        """Where the engine computes."""
        return self._device

    def loss(self, batch: MicroBatch) -> Tensor:
        """The summed loss of the trained tokens, differentiable."""
        return cast("Tensor", self._engine(batch, predict=False))

    @torch.no_grad()
    def predict(self, batch: MicroBatch) -> Predicted:
        """The summed loss and the likeliest token at each label."""
        return Predicted(*self._engine(batch, predict=True))


def start_engine(
    forward: ChatForward,
    named: Iterable[tuple[str, nn.Parameter]],
    parameters: FinetuneParameters,
    settings: ShardingSettings,
) -> Any:
    """DeepSpeed's engine over the model of ``forward``, which it moves and shards.

    The processes' group must be there.
    """
    deepspeed = _library()
    whole = _Loss(forward)
    # Before anything is sharded: which weights decay is told by their shapes.
    optimiser = adamw(groups(named, parameters), parameters)
    if settings.stage == 3:
        # Who uses another module's weight says so: an adapter its base's, and the loss the output layer's.
        for module in whole.modules():
            if isinstance(module, LoraLinear):
                _uses(deepspeed, module, module.base)
        _uses(deepspeed, whole, forward.model.get_output_embeddings())
        _shard(deepspeed, whole, settings)
    engine, *_ = deepspeed.initialize(model=whole, optimizer=optimiser, config=dict(settings.config))
    return engine


def _shard(deepspeed: Any, whole: nn.Module, settings: ShardingSettings) -> None:
    """Bring one weight after the other to the device and keep this process's part: all would not fit there.

    The engine itself would move the model as a whole first.
    """
    from deepspeed.accelerator import get_accelerator

    deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
    deepspeed.zero.Init(module=whole, config_dict_or_path=dict(settings.config))
    device = torch.device(get_accelerator().current_device_name())
    for buffer in whole.buffers():
        buffer.data = buffer.data.to(device)


def _uses(deepspeed: Any, module: nn.Module, other: nn.Module) -> None:
    for weight in other.parameters():
        deepspeed.zero.register_external_parameter(module, weight)


def _library() -> Any:
    """The package, told where it is before it looks for itself."""
    os.environ.setdefault("LOCAL_RANK", "0")
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    return deepspeed
