"""Which tests stay together in one process, and which of these units begin first.

A module's tests stay together, so that what its fixtures make is made once. Some folders stay together as a whole: they
share a server (and MLflow behind it), which takes longer to start than most of their tests take to run.
"""

from __future__ import annotations

from collections import defaultdict

import pytest
from xdist.scheduler import LoadScopeScheduling

TOGETHER = ("tests/cli", "tests/client", "tests/server", "tests/tracking")
"""Folders that share a server."""
ALONE = ("tests/client/test_lifecycle.py", "tests/server/test_process.py")
"""Modules in them that start servers of their own, and take long."""


class UnitScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """pytest-xdist's scheduling by unit, the units in the order in which they were collected."""

    def schedule(self) -> None:
        """Hand out units; by default the one with the most tests would be first, whatever they take."""
        self.config.option.loadscopereorder = False
        super().schedule()

    def _split_scope(self, nodeid: str) -> str:
        return unit_of(nodeid)


def unit_of(nodeid: str) -> str:
    """The unit of a test: its module, or its folder where that stays together."""
    module = nodeid.partition("::")[0]
    folder = module.rpartition("/")[0]
    return folder if folder in TOGETHER and module not in ALONE else module


def ordered(items: list[pytest.Item]) -> list[pytest.Item]:
    """The tests unit by unit: first the units with what is heavy, the longest first; then folders; then modules.

    What takes minutes and begins last would run on alone, with the other processes idle.
    """
    units: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        units[unit_of(item.nodeid)].append(item)

    def weight(unit: str) -> tuple[float, bool]:
        return max(_seconds(item) for item in units[unit]), unit in TOGETHER

    return [item for unit in sorted(units, key=weight, reverse=True) for item in units[unit]]


def _seconds(item: pytest.Item) -> float:
    """What a heavy test may take, its time limit; 0 for the others."""
    if item.get_closest_marker("heavy") is None:
        return 0.0
    limit = item.get_closest_marker("timeout")
    return float(limit.args[0]) if limit else 1.0
