from __future__ import annotations

import pytest
import torch

from tunesmith.finetune.schedules import schedule


@pytest.mark.parametrize(
    "name", ["linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup"]
)
@pytest.mark.parametrize(("warmup", "total"), [(0, 20), (5, 20), (0, 1), (3, 4)])
def test_equals_transformers(name: str, warmup: int, total: int) -> None:
    from transformers import get_scheduler

    rate = 3e-4
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    theirs = get_scheduler(name, optimiser, num_warmup_steps=warmup, num_training_steps=total)
    ours = schedule(name, warmup_steps=warmup, total_steps=total, learning_rate=rate)
    for step in range(total):
        assert rate * ours(step) == pytest.approx(theirs.get_last_lr()[0], rel=1e-9, abs=1e-15)
        optimiser.step()
        theirs.step()


def test_an_unknown_shape_is_an_error() -> None:
    with pytest.raises(KeyError):
        schedule("triangle", warmup_steps=0, total_steps=1, learning_rate=1.0)
