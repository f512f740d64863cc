"""The search for a learning rate: what it suggests, and that it leaves no trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.finetune.support import Heard, MemoryRows, make_trainer, random_rows
from tunesmith.finetune import rate_search
from tunesmith.finetune.checkpoints import weights_sha256
from tunesmith.finetune.trainer import Trainer

ROWS = random_rows(16, seed=4)
COMMON: dict[str, Any] = {"train": ROWS, "apply_lora": True, "max_steps": 4, "learning_rate": 2e-3}


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_search, "STEPS", 16)


def weights(trainer: Trainer) -> str:
    return weights_sha256(trainer.optimiser.whole())


@pytest.mark.parametrize(
    "values",
    [{"lora_dropout": 0.1}, {"apply_lora": False, "precision": "bf16", "optim": "adafactor"}],
    ids=["lora", "full bf16 adafactor"],
)
@pytest.mark.usefixtures("short")
def test_it_leaves_no_trace(values: dict[str, Any], tmp_path: Path) -> None:
    """A run at the rate that was found equals a run that was given it."""
    searched = make_trainer(tmp_path, run="searched", find_learning_rate=True, **{**COMMON, **values})
    searched.run()
    rate = searched.parameters.learning_rate
    assert rate != 2e-3
    given = make_trainer(tmp_path, run="given", **{**COMMON, **values, "learning_rate": rate})
    given.run()
    assert searched.progress.losses == given.progress.losses
    assert weights(searched) == weights(given)


def test_the_rate_is_a_tenth_of_the_one_with_the_lowest_loss(tmp_path: Path) -> None:
    heard = Heard()
    trainer = make_trainer(tmp_path, reporter=heard, find_learning_rate=True, **COMMON)
    trainer.run()
    found = trainer.progress.rate_search
    assert found is not None
    points = found["points"]
    lowest = min(points, key=lambda point: point[1])
    assert found["lowest_at"] == lowest[0]
    assert found["suggestion"] == pytest.approx(lowest[0] / 10, rel=0.05)
    assert 1e-5 < found["suggestion"] < 1e-1
    assert [rate for rate, _ in points] == sorted(rate for rate, _ in points)
    assert points[0][0] == rate_search.LOWEST_RATE
    # At the smallest rates nothing moves: each step is compared with its own rows, not with other ones.
    assert all(abs(change) < 0.01 for rate, change in points if rate < 1e-5)
    assert lowest[1] < -0.1
    assert trainer.optimiser.base_rate == found["suggestion"]
    assert "LearningRateFound" in {code for code, _ in heard.notices}
    rates = [values["learning_rate"] for _, values in heard.metrics if "learning_rate" in values]
    assert rates[0] == found["suggestion"]


@pytest.mark.usefixtures("short")
def test_where_no_rate_helps_the_given_one_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_search, "HIGHEST_RATE", 2e-6)
    heard = Heard()
    trainer = make_trainer(tmp_path, reporter=heard, find_learning_rate=True, **COMMON)
    trainer.run()
    assert trainer.parameters.learning_rate == 2e-3
    assert trainer.progress.rate_search is not None
    assert trainer.progress.rate_search["suggestion"] is None
    assert "NoLearningRateFound" in {code for code, _ in heard.notices}


@pytest.mark.usefixtures("short")
def test_a_resumed_run_keeps_the_rate_and_a_stop_in_the_search_begins_it_again(tmp_path: Path) -> None:
    straight = make_trainer(tmp_path, run="straight", find_learning_rate=True, **COMMON)
    straight.run()
    asked: list[None] = []

    def soon() -> bool:
        asked.append(None)
        return len(asked) > 20

    cut = make_trainer(tmp_path, run="cut", find_learning_rate=True, **COMMON)
    cut.stop = soon
    assert cut.run() == "stopped"
    assert (cut.progress.step, cut.progress.rate_search) == (0, None)
    second = make_trainer(tmp_path, run="cut", find_learning_rate=True, **COMMON)
    assert second.resume() == 0
    second.stop = lambda: second.progress.step == 2
    assert second.run() == "stopped"
    torch.manual_seed(999)
    third = make_trainer(tmp_path, run="cut", find_learning_rate=True, **COMMON)
    assert third.resume() == 2
    assert third.parameters.learning_rate == straight.parameters.learning_rate
    assert third.run() == "completed"
    assert third.progress.losses == straight.progress.losses
    assert weights(third) == weights(straight)


def test_the_table_shows_the_lowest() -> None:
    found = rate_search.RateSearch(1e-4, 1e-3, 2.5, ((1e-4, -0.1), (1e-3, -0.3), (1e-2, 0.4)))
    assert found.lines() == [
        "learning rate  change of the loss (from 2.5000)",
        "   1.0e-04  -0.1000",
        "   1.0e-03  -0.3000  lowest",
    ]


def test_a_diverging_run_ends_the_search_early(tmp_path: Path) -> None:
    rows = MemoryRows([ROWS.row(index) for index in range(4)])
    trainer = make_trainer(tmp_path, find_learning_rate=True, **{**COMMON, "train": rows, "apply_lora": False})
    trainer.run()
    assert trainer.progress.rate_search is not None
    assert len(trainer.progress.rate_search["points"]) < rate_search.STEPS - 1
