"""The trained weights and AdamW's state as DeepSpeed's engine keeps them: flat shards, one for each process.

Outside they look as the plain optimiser's do: whole, fp32 and by name, whatever the stage.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.finetune.parameters import FinetuneParameters

_MOMENTS = ("exp_avg", "exp_avg_sq")


class ShardedWeights:
    """The weights that ``engine`` trains. Every method is called by all processes; ``main`` keeps what is gathered."""

    def __init__(
        self,
        engine: Any,
        named: list[tuple[str, nn.Parameter]],
        parameters: FinetuneParameters,
        *,
        stage: int,
        main: bool,
    ) -> None:
        self.names = [name for name, _ in named]
        self.base_rate = parameters.learning_rate
        self._engine = engine
        self._weights = [weight for _, weight in named]
        self._partitioned = stage == 3
        self._main = main
        self._updates = 0

    # ── one update ───────────────────────────────────────────────────────────────────────────────────────────────

    def step(self, factor: float) -> tuple[float, float]:
        """One update at ``factor`` of the learning rate; the gradient's length before clipping, and the rate.

        The engine makes no update where the length is no number.
        """
        rate = self.base_rate * factor
        for group in self._engine.optimizer.param_groups:
            group["lr"] = rate
        self._engine.step()
        norm = float(self._engine.get_global_grad_norm())
        if self._engine.was_step_applied():
            self._updates += 1
        else:
            norm = float("inf")
        return norm, rate

    def drop_gradients(self) -> None:
        """Forget every gradient."""
        self._engine.optimizer.zero_grad(set_to_none=True)

    # ── whole weights ────────────────────────────────────────────────────────────────────────────────────────────

    def whole(self, *, everywhere: bool = False) -> dict[str, Tensor]:
        """The trained weights (fp32, on the CPU) by name; empty tensors where neither ``main`` nor ``everywhere``."""
        from deepspeed.utils import safe_get_full_fp32_param

        return {
            name: self._kept(safe_get_full_fp32_param(weight), everywhere=everywhere) for name, weight in self._named()
        }

    def state(self) -> dict[str, Any]:
        """What resuming needs: updates made, the weights, and AdamW's moments by name."""
        from deepspeed.utils import safe_get_full_optimizer_state

        moments = {}
        if self._updates:
            self._link()
            moments = {
                key: {name: self._kept(safe_get_full_optimizer_state(weight, key)) for name, weight in self._named()}
                for key in _MOMENTS
            }
        return {"updates": self._updates, "weights": self.whole(), "moments": moments}

    def restore(self, state: dict[str, Any]) -> None:
        """Put back what ``state`` gave."""
        from deepspeed.utils import safe_set_full_optimizer_state

        self.restore_weights(state["weights"])
        self._begin_states(int(state["updates"]))
        for key, values in state["moments"].items():
            for name, weight in self._named():
                safe_set_full_optimizer_state(weight, values[name].to(weight.device), key)

    def restore_weights(self, weights: dict[str, Tensor]) -> None:
        """Put back the weights alone.

        Raises:
            KeyError: a weight is missing: the checkpoint is of another model or adapter.
        """
        from deepspeed.runtime.zero.partition_parameters import GatheredParameters
        from deepspeed.utils import safe_set_full_fp32_param

        for name, weight in self._named():
            value = weights[name].to(weight.device)
            safe_set_full_fp32_param(weight, value)
            with torch.no_grad(), GatheredParameters([weight], modifier_rank=0, enabled=self._partitioned):
                weight.copy_(value)

    def forget(self) -> None:
        """Drop AdamW's state: the next step is the first."""
        self._begin_states(0)

    def gather_model(self, model: nn.Module, *, trained_only: bool) -> None:
        """Make the model of ``main`` whole, on the CPU, to be written; nothing is trained after this.

        ``trained_only`` leaves frozen weights where they are.
        """
        if not self._partitioned:
            return
        from deepspeed.runtime.zero.partition_parameters import GatheredParameters

        for weight in model.parameters():
            if trained_only and not weight.requires_grad:
                continue
            with GatheredParameters([weight]):
                value = weight.detach().cpu().clone() if self._main else None
            if value is not None:
                weight.data = value

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _named(self) -> zip[tuple[str, nn.Parameter]]:
        return zip(self.names, self._weights, strict=True)

    def _kept(self, value: Tensor, *, everywhere: bool = False) -> Tensor:
        return value.detach().float().cpu() if self._main or everywhere else torch.empty(0)

    def _begin_states(self, updates: int) -> None:
        """AdamW's state as it is after ``updates``, with moments of zero."""
        algorithm = self._engine.basic_optimizer
        for flat in _flat(self._engine.optimizer):
            algorithm.state[flat] = {
                "step": torch.tensor(float(updates)),
                **{key: torch.zeros_like(flat, requires_grad=False) for key in _MOMENTS},
            }
        self._link()
        self._updates = updates

    def _link(self) -> None:
        """Let stages 1 and 2 see which part of the state is whose; they look once, when the first group has one."""
        zero = self._engine.optimizer
        link = getattr(zero, "_lazy_init_hp_params_optimizer_state", None)
        if link is not None:
            zero._hp_optimizer_states_linked = False
            link()


def _flat(zero: Any) -> list[Tensor]:
    """The flat fp32 shards that the algorithm updates; their names differ from stage to stage."""
    for name in ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups", "fp32_groups_flat_partition"):
        shards = getattr(zero, name, None)
        if shards is not None:
            return list(shards)
    raise TypeError(f"{type(zero).__name__} is not among the optimisers whose shards are known")
