"""Where a training run is."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from tunesmith.finetune.result import HistoryPoint


@dataclass(slots=True)
class Progress:
    """Where a run is; all of it is in a checkpoint. ``step`` is the number of finished optimiser steps."""

    step: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    seconds: float = 0.0
    evaluation_seconds: float = 0.0
    window_loss: float = 0.0
    window_trained: int = 0
    window_tokens: int = 0
    window_seconds: float = 0.0
    last_loss: float = math.nan
    best_step: int | None = None
    best_metric: float | None = None
    waited: int = 0
    """Evaluations in a row without improvement."""
    evaluated_at: int = -1
    piece_tokens: int | None = None
    search_seconds: float = 0.0
    rate_search: dict[str, Any] | None = None
    """What the search for a learning rate found, with ``find_learning_rate``."""
    losses: list[float] = field(default_factory=list)
    """Of each finished optimiser step, per trained token."""
    history: list[HistoryPoint] = field(default_factory=list)

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        body = {name: getattr(self, name) for name in self.__slots__ if name != "history"}
        return {**body, "history": [[point.step, point.values] for point in self.history]}

    @classmethod
    def of(cls, state: dict[str, Any]) -> Progress:
        """From a checkpoint."""
        history = [HistoryPoint(step, values) for step, values in state["history"]]
        return cls(**{**state, "history": history})
