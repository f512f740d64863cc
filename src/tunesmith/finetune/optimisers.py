"""AdamW and Adafactor over fp32 weights, with no decay on norms and biases, and clipping by the gradient's length.

Where a trained weight is kept in bf16 (full fine-tuning), the optimiser works on an fp32 copy: bf16 has 8 bits, and
most updates of a fine-tuning run are smaller than its last one. Gradients of all micro-batches are summed in fp32.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tunesmith.finetune.parameters import FinetuneParameters


def decays(name: str, weight: Tensor) -> bool:
    """Whether weight decay applies: matrices only, never norms, biases or DoRA's magnitudes."""
    return weight.ndim >= 2 and not name.endswith("bias") and "norm" not in name.lower() and "magnitude" not in name


class TrainedWeights(Protocol):
    """What the trainer asks of the weights that are trained, wherever they and the optimiser's state lie.

    ``state``, ``restore``, ``restore_weights`` and ``whole`` are called by every process of the run: each may hold a
    part.
    """

    names: list[str]
    base_rate: float
    """The learning rate, of which a step uses a factor."""

    def drop_gradients(self) -> None:
        """Forget every gradient."""

    def state(self) -> dict[str, Any]:
        """What resuming needs; ``weights`` holds the weights (fp32) by name."""

    def restore(self, state: dict[str, Any]) -> None:
        """Put back what ``state`` gave."""

    def restore_weights(self, weights: dict[str, Tensor]) -> None:
        """Put back the weights alone."""

    def whole(self, *, everywhere: bool = False) -> dict[str, Tensor]:
        """The trained weights (fp32) by name: of use to the first process only, or ``everywhere``."""

    def forget(self) -> None:
        """Drop the algorithm's state: the next step is the first."""


def groups(named: Iterable[tuple[str, nn.Parameter]], parameters: FinetuneParameters) -> list[dict[str, Any]]:
    """The algorithm's groups of weights: with weight decay and without; an empty one is left out."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, weight in named:
        (decayed if decays(name, weight) else plain).append(weight)
    made: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": parameters.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return [group for group in made if group["params"]]


def adamw(groups: list[dict[str, Any]], parameters: FinetuneParameters) -> torch.optim.AdamW:
    """``optim`` adamw_torch over ``groups``."""
    return torch.optim.AdamW(
        groups,
        lr=parameters.learning_rate,
        betas=(parameters.adam_beta1, parameters.adam_beta2),
        eps=parameters.adam_epsilon,
        foreach=True,
    )


class Optimiser:
    """Owns the fp32 weights that are trained, their gradients and the algorithm's state.

    ``named`` are the model's trainable parameters by name; their order is the order of the state.
    """

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], parameters: FinetuneParameters) -> None:
        self.names: list[str] = []
        self.weights: list[nn.Parameter] = []
        self.masters: list[nn.Parameter] = []
        self._max_norm = parameters.max_grad_norm
        self.base_rate = parameters.learning_rate
        """What ``step`` multiplies by its factor."""
        for name, weight in named:
            master = weight
            if weight.dtype != torch.float32:
                master = nn.Parameter(weight.detach().float().clone())
                weight.register_post_accumulate_grad_hook(_AddTo(master))  # type: ignore[no-untyped-call]
            self.names.append(name)
            self.weights.append(weight)
            self.masters.append(master)
        made = groups(zip(self.names, self.masters, strict=True), parameters)
        self._algorithm: torch.optim.Optimizer
        if parameters.optim == "adafactor":
            from transformers.optimization import Adafactor

            # A rate of our own, not one made from the step and the weight's size: LoRA's B starts at zero, so a
            # relative rate would hardly move it. The other values are the paper's (Shazeer and Stern, 2018).
            self._algorithm = Adafactor(made, lr=parameters.learning_rate, scale_parameter=False, relative_step=False)
        else:
            self._algorithm = adamw(made, parameters)

    def scale_gradients(self, factor: float) -> None:
        """Multiply every gradient: one over the trained tokens of the step."""
        torch._foreach_mul_([master.grad for master in self.masters if master.grad is not None], factor)

    def gradients(self) -> list[Tensor]:
        """Every gradient (fp32), zeros where no token reached the weight."""
        for master in self.masters:
            if master.grad is None:
                master.grad = torch.zeros_like(master)
        return [master.grad for master in self.masters if master.grad is not None]

    def drop_gradients(self) -> None:
        """Forget every gradient."""
        for weight, master in zip(self.weights, self.masters, strict=True):
            weight.grad = master.grad = None

    def clip(self) -> float:
        """Clip to ``max_grad_norm`` (0: not); the gradient's length before."""
        gradients = self.gradients()
        norm = float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))))
        if self._max_norm > 0 and norm > self._max_norm:
            torch._foreach_mul_(gradients, self._max_norm / (norm + 1e-6))
        return norm

    def step(self, factor: float) -> float:
        """One update at ``factor`` of the learning rate; the gradients are then empty. The rate that was used."""
        rate = self.base_rate * factor
        for group in self._algorithm.param_groups:
            group["lr"] = rate
        self._algorithm.step()
        self._algorithm.zero_grad(set_to_none=True)
        self.publish()
        return rate

    @torch.no_grad()
    def publish(self) -> None:
        """Write the fp32 weights back into the model's own."""
        for weight, master in zip(self.weights, self.masters, strict=True):
            if weight is not master:
                weight.copy_(master)

    def state(self) -> dict[str, Any]:
        """What resuming needs: the algorithm's state, and the weights (fp32) by name."""
        return {
            "algorithm": self._algorithm.state_dict(),
            "weights": self.whole(),
        }

    def whole(self, *, everywhere: bool = True) -> dict[str, Tensor]:
        """The trained weights (fp32) by name."""
        return {name: master.detach() for name, master in zip(self.names, self.masters, strict=True)}

    def forget(self) -> None:
        """Drop the algorithm's state: the next step is the first."""
        self._algorithm.state.clear()

    def restore(self, state: dict[str, Any]) -> None:
        """Put back what ``state`` gave, bit for bit."""
        self._algorithm.load_state_dict(state["algorithm"])
        self.restore_weights(state["weights"])

    @torch.no_grad()
    def restore_weights(self, weights: dict[str, Tensor]) -> None:
        """Put back the weights alone.

        Raises:
            KeyError: a weight is missing: the checkpoint is of another model or adapter.
        """
        for name, master in zip(self.names, self.masters, strict=True):
            master.copy_(weights[name])
        self.publish()


class _AddTo:
    """Adds a bf16 weight's gradient to its fp32 copy's as soon as it is there, and drops it."""

    def __init__(self, master: nn.Parameter) -> None:
        self._master = master

    def __call__(self, weight: Tensor) -> None:
        if weight.grad is None:
            return
        if self._master.grad is None:
            self._master.grad = weight.grad.float()
        else:
            self._master.grad.add_(weight.grad)
        weight.grad = None
