"""The quickstart's work fits the machine, and a later run asks for the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith.quickstart import plan
from tunesmith.quickstart.budget import FILE, Budget, budget, conversations_for


@pytest.mark.parametrize(("rate", "conversations"), [(1e9, 32), (125e9, 32), (200e9, 49), (1e12, 60)])
def test_conversations_follow_the_rate_within_bounds(rate: float, conversations: int) -> None:
    assert conversations_for(rate) == conversations


def test_a_rate_is_measured_once_and_kept(tmp_path: Path) -> None:
    first = budget(tmp_path / "quickstart")
    assert first.rate > 0
    assert first.conversations == conversations_for(first.rate)
    # Another measurement would give another rate.
    assert budget(tmp_path / "quickstart") == first


@pytest.mark.parametrize("text", ["", "{}", '{"conversations": "many", "rate": 1}', "[1]"])
def test_a_damaged_budget_is_measured_anew(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    found = budget(tmp_path)
    assert plan.FEWEST_CONVERSATIONS <= found.conversations <= plan.MOST_CONVERSATIONS
    assert budget(tmp_path) == found


def test_what_is_kept_is_taken(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"conversations": 37, "rate": 5e10}')
    assert budget(tmp_path) == Budget(conversations=37, rate=5e10)
