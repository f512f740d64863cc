"""The training loop over DeepSpeed's engine: only how an update is made differs from the plain trainer's.

The engine averages gradients over processes; the loss here is a sum that is divided by the trained tokens of the whole
step. So every micro-batch's loss enters as ``loss * processes / trained tokens``, and the average is the mean over
tokens, whatever the micro-batches' sizes. The engine's own division by gradient_accumulation_steps is not used.
"""

from __future__ import annotations

import math
from importlib.metadata import version
from typing import Any

import torch

from tunesmith.finetune.batches import Document, MicroBatch, assemble, read_document
from tunesmith.finetune.failures import is_out_of_memory
from tunesmith.finetune.forward import ChatForward
from tunesmith.finetune.optimisers import TrainedWeights
from tunesmith.finetune.sharding.engine import ShardedForward, start_engine
from tunesmith.finetune.sharding.settings import ShardingSettings
from tunesmith.finetune.sharding.weights import ShardedWeights
from tunesmith.finetune.trainer import Trainer


class ShardedTrainer(Trainer):
    """``Trainer`` with weights and optimiser in DeepSpeed's engine. Its ``group`` must be a real one, also alone."""

    def __init__(self, forward: ChatForward, *arguments: Any, sharding: ShardingSettings, **named: Any) -> None:
        self._sharding = sharding
        super().__init__(forward, *arguments, **named)

    def _trained_weights(self) -> TrainedWeights:
        named = [(name, weight) for name, weight in self.forward.model.named_parameters() if weight.requires_grad]
        plain = self.forward
        self._engine = start_engine(plain, named, self.parameters, self._sharding)
        self.forward = ShardedForward(plain, self._engine, torch.device(self._engine.device))
        self._shards = ShardedWeights(
            self._engine, named, self.parameters, stage=self._sharding.stage, main=self.group.main
        )
        return self._shards

    def _update(self, micro: list[list[Document]], rows: list[int]) -> tuple[float, float, float, float, float]:
        loss, trained, tokens = self._backpropagate(micro, self.progress.step)
        if not math.isfinite(loss):
            self._give_up(rows, "loss")
        norm, rate = self._shards.step(self.schedule(self.progress.step))
        if not math.isfinite(norm):
            self._give_up(rows, "gradient")
        return loss, trained, tokens, norm, rate

    def update(self, number: int, rate: float) -> float:
        """One update on step ``number``'s rows at ``rate``, outside the run's count; the loss before it."""
        loss, trained, _ = self._backpropagate(self._read(number), number)
        if not math.isfinite(loss):
            self._shards.step(0.0)  # the engine makes no update of what is no number, and forgets its sums
            return math.nan
        norm, _ = self._shards.step(rate / self._shards.base_rate)
        if not math.isfinite(norm):
            return math.nan
        self.after_update()
        return loss / trained

    @torch.no_grad()
    def measure(self, number: int) -> float:
        """The loss per trained token of step ``number``'s rows; changes nothing but random numbers."""
        own, trained = 0.0, 0
        for batch, counted in self._passes(self._read(number), number):
            loss = float(self.forward.loss(batch))
            if counted:
                own, trained = own + loss, trained + batch.trained
        total, tokens, _ = self._summed((own, trained, 0))
        return total / tokens

    def _backpropagate(self, micro: list[list[Document]], number: int) -> tuple[float, float, float]:
        """The gradients of step ``number``; its summed loss, trained tokens and tokens over all processes."""
        passes = self._passes(micro, number)
        own = [batch for batch, counted in passes if counted]
        with torch.no_grad():
            _, trained, tokens = self._summed(
                (0.0, sum(batch.trained for batch in own), sum(batch.tokens for batch in own))
            )
        summed = 0.0
        try:
            for index, (batch, counted) in enumerate(passes):
                self._engine.set_gradient_accumulation_boundary(index == len(passes) - 1)
                loss = self.forward.loss(batch)
                factor = self.group.world / trained if counted else 0.0
                self._engine.backward(loss * factor, scale_wrt_gas=False)
                if counted:
                    summed += loss.item()
        except (RuntimeError, MemoryError) as error:
            # The others wait for this process's part of the gradients: the step cannot be begun again.
            if is_out_of_memory(error):
                raise self._no_memory(error) from error
            raise
        with torch.no_grad():
            loss_of_all, _, _ = self._summed((summed, 0, 0))
        return loss_of_all, trained, tokens

    def _passes(self, micro: list[list[Document]], number: int) -> list[tuple[MicroBatch, bool]]:
        """This process's micro-batches, and whether each counts.

        Weights and gradients are exchanged in every pass, so all processes make as many; one that has fewer
        micro-batches computes the step's first once more, for nothing.
        """
        step = self.plan.step(number)
        missing = math.ceil(len(step) / self.group.world) - len(micro)
        counted = [(documents, True) for documents in micro]
        if missing > 0:
            filler = [read_document(self.train_rows, row, limit=self.plan.capacity) for row in step[0]]
            counted += [(filler, False)] * missing
        return [
            (assemble(documents, pad_each_to=self._pad_to(), pad_id=self._pad_id), counts)
            for documents, counts in counted
        ]

    def finish(self) -> None:
        """Make the model of the first process whole, to be written."""
        self._shards.gather_model(self.forward.model, trained_only=self.parameters.apply_lora)

    @property
    def sharded(self) -> dict[str, Any] | None:
        """ZeRO's stage, and DeepSpeed's configuration and version."""
        return {
            "stage": self._sharding.stage,
            "deepspeed": version("deepspeed"),
            "config": self._sharding.config,
        }
