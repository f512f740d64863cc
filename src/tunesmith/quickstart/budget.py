"""How much the quickstart trains on: what this machine does in the time that is meant for it.

Measured once in a workspace and kept in its folder, so that a later run asks for the same and finds its steps done.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from tunesmith.quickstart import plan
from tunesmith.storage.atomic import write_json

FILE = "budget.json"
_ROWS, _SECONDS = 1024, 0.5
_SHARE = 0.5
"""Of the product rate that training reaches, its own start and its evaluation counted in."""
_OPERATIONS = 0.54e9
"""Of LoRA training, for a token of the base model."""
_TOKENS = 415
"""Of a conversation, on average."""


@dataclass(frozen=True, slots=True)
class Budget:
    """``conversations`` to train on, and the rate of matrix products in FLOP/s that they were chosen by."""

    conversations: int
    rate: float


def product_rate(seconds: float = _SECONDS) -> float:
    """FLOP/s of float32 matrix products at the base model's shapes on all cores: the best repeat within ``seconds``.

    With NumPy, because this process would take seconds to load torch, whose own measure training uses. A processor
    with bfloat16 products trains faster than this says.
    """
    import numpy

    random = numpy.random.default_rng(0)
    x = random.standard_normal((_ROWS, 576), dtype=numpy.float32)
    weight = random.standard_normal((576, 1536), dtype=numpy.float32)
    best, began = float("inf"), time.perf_counter()
    while best == float("inf") or time.perf_counter() - began < seconds:
        before = time.perf_counter()
        x @ weight
        best = min(best, time.perf_counter() - before)
    return 2.0 * _ROWS * 576 * 1536 / best


def conversations_for(rate: float) -> int:
    """How many conversations are trained on in ``plan.TRAINING_SECONDS`` at ``rate`` FLOP/s, within ``plan``'s
    bounds.
    """
    wanted = plan.TRAINING_SECONDS * rate * _SHARE / (_OPERATIONS * _TOKENS)
    return round(min(max(wanted, plan.FEWEST_CONVERSATIONS), plan.MOST_CONVERSATIONS))


def budget(folder: Path) -> Budget:
    """What an earlier run in ``folder`` measured, else what is measured now and kept there."""
    path = folder / FILE
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        return Budget(conversations=int(body["conversations"]), rate=float(body["rate"]))
    except (OSError, ValueError, KeyError, TypeError):
        rate = product_rate()
        found = Budget(conversations=conversations_for(rate), rate=rate)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, asdict(found))
        return found
