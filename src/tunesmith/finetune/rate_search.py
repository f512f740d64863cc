"""The learning rate by a range test (Smith, "Cyclical Learning Rates", 2017) on the run's own rows and steps.

The rate rises exponentially from step to step. Conversations differ far more from each other than a step changes the
loss, so each step's loss is compared with that of the *same* rows under the untrained weights; the change is smoothed.
It falls while the rate does good and rises when it does harm; a tenth of the rate with the lowest loss is suggested,
which leaves room for a whole run's steps at that rate. Afterwards weights, optimiser and random numbers are as before.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from tunesmith.finetune.seeding import random_state, restore_random_state
from tunesmith.reporting import Reporter

if TYPE_CHECKING:
    from tunesmith.finetune.trainer import Trainer

STEPS = 60
LOWEST_RATE, HIGHEST_RATE = 1e-6, 1.0
SMOOTH = 0.7
RISEN = 0.1
"""The test ends when the loss is above its lowest by this share of the loss at the start."""
FALLEN = 0.001
"""A lowest loss that is not below the start by this share suggests nothing."""
BELOW = 10.0
"""The suggestion is the rate with the lowest loss divided by this."""
PHASE = "find learning rate"


@dataclass(frozen=True, slots=True)
class RateSearch:
    """What the test saw. ``points``: rate, and the smoothed change of the loss after an update at it (nats a token)."""

    suggestion: float | None
    """``None``: at no rate did the loss fall."""
    lowest_at: float | None
    start_loss: float
    points: tuple[tuple[float, float], ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "suggestion": self.suggestion,
            "lowest_at": self.lowest_at,
            "start_loss": self.start_loss,
            "points": [list(point) for point in self.points],
        }

    def lines(self) -> list[str]:
        """The table for the log: every third point, and the lowest."""
        shown = [
            f"  {rate:8.1e}  {change:+.4f}" + ("  lowest" if rate == self.lowest_at else "")
            for number, (rate, change) in enumerate(self.points)
            if number % 3 == 0 or rate == self.lowest_at
        ]
        return [f"learning rate  change of the loss (from {self.start_loss:.4f})", *shown]

    def tell(self, reporter: Reporter, *, given: float) -> None:
        """Log the table, and say what is used in place of the ``given`` rate."""
        for line in self.lines():
            reporter.log(line)
        if self.suggestion is None:
            reporter.notice(
                "NoLearningRateFound",
                f"find_learning_rate: at no rate did the loss fall; learning_rate {given:g} is used as given",
            )
        else:
            reporter.notice(
                "LearningRateFound",
                f"find_learning_rate: {self.suggestion:g} is used in place of {given:g} "
                f"(the loss was lowest at {self.lowest_at:g})",
                level="info",
            )


def search(trainer: Trainer, stop: Callable[[], bool]) -> RateSearch | None:
    """Run the test with ``trainer`` at its start; ``None`` when ``stop`` said so. Weights, optimiser and random
    numbers are as before afterwards; what ``auto_find_batch_size`` learnt of the memory stays."""
    weights = {name: weight.clone() for name, weight in trainer.optimiser.whole(everywhere=True).items()}
    numbers = random_state()
    try:
        return _search(trainer, stop)
    finally:
        trainer.optimiser.drop_gradients()
        trainer.optimiser.forget()
        trainer.optimiser.restore_weights(weights)
        trainer.after_update()
        restore_random_state(numbers)


def _search(trainer: Trainer, stop: Callable[[], bool]) -> RateSearch | None:
    starts: list[float] = []
    for number in range(STEPS):
        if trainer.group.any(stop()):
            return None
        _reseed(trainer, number)
        starts.append(trainer.measure(number))
        trainer.reporter.progress(PHASE, number + 1, 2 * STEPS, unit="steps")
    start = sum(starts) / len(starts)
    points: list[tuple[float, float]] = []
    smoothed, weight, rate = 0.0, 0.0, 0.0
    for number in range(STEPS):
        if trainer.group.any(stop()):
            return None
        _reseed(trainer, number)
        loss = trainer.update(number, rate := _rate(number))
        trainer.reporter.progress(
            PHASE, STEPS + number + 1, 2 * STEPS, unit="steps", values={"learning_rate": rate, "loss": round(loss, 4)}
        )
        if number == 0:
            continue  # no update was made before it
        smoothed = SMOOTH * smoothed + (1 - SMOOTH) * (loss - starts[number])
        weight = SMOOTH * weight + (1 - SMOOTH)
        change = smoothed / weight
        if not math.isfinite(change):
            break
        points.append((_rate(number - 1), change))
        if change > min(seen for _, seen in points) + RISEN * start:
            break
    lowest = min(points, key=lambda point: point[1], default=None)
    if lowest is None or lowest[1] > -FALLEN * start:
        return RateSearch(None, None, start, tuple(points))
    return RateSearch(float(f"{lowest[0] / BELOW:.2g}"), lowest[0], start, tuple(points))


def _rate(number: int) -> float:
    return float(f"{LOWEST_RATE * (HIGHEST_RATE / LOWEST_RATE) ** (number / (STEPS - 1)):.3g}")


def _reseed(trainer: Trainer, number: int) -> None:
    """The same dropout and noise when a step's rows are measured and when they are trained on."""
    torch.manual_seed(trainer.parameters.seed + number)
