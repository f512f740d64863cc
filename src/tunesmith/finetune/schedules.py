"""The learning rate as a function of the optimiser step: six shapes, each a pure function.

The formulas are those of transformers' ``get_scheduler``, so a run's curve can be compared with any other trainer's.
A schedule has no state but the step, so there is nothing to lose when a run resumes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[int], float]
"""From the number of finished optimiser steps to the factor of the learning rate (0 to 1) for the next step."""

_POLYNOMIAL_END = 1e-7
"""The rate where the polynomial schedule ends; transformers' default."""


def schedule(name: str, *, warmup_steps: int, total_steps: int, learning_rate: float) -> Schedule:
    """The schedule of this ``name``.

    ``cosine_with_restarts`` has one cycle and ``polynomial`` power 1 and an end of 1e-7, as transformers' defaults.

    Raises:
        KeyError: an unknown name.
    """
    warmup = max(0, warmup_steps)
    span = max(1, total_steps - warmup)

    def after(step: int) -> float:
        return min(1.0, max(0.0, (step - warmup) / span))

    def polynomial(step: int) -> float:
        if step >= total_steps:
            return _POLYNOMIAL_END / learning_rate
        rate = (learning_rate - _POLYNOMIAL_END) * (1.0 - (step - warmup) / span) + _POLYNOMIAL_END
        return rate / learning_rate

    def restarts(step: int) -> float:
        progress = (step - warmup) / span
        return 0.0 if progress >= 1.0 else max(0.0, 0.5 * (1.0 + math.cos(math.pi * (progress % 1.0))))

    decays: dict[str, Schedule] = {
        "linear": lambda step: 1.0 - after(step),
        "cosine": lambda step: max(0.0, 0.5 * (1.0 + math.cos(math.pi * after(step)))),
        "cosine_with_restarts": restarts,
        "polynomial": polynomial,
        "constant": lambda step: 1.0,
        "constant_with_warmup": lambda step: 1.0,
    }
    decay = decays[name]
    # "constant" has no warm-up, whatever warmup_steps says: "constant_with_warmup" is the one that has.
    if name == "constant":
        return decay
    return lambda step: step / warmup if step < warmup else decay(step)
