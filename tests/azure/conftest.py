"""The long trials run only where they are asked for: ``pytest -m azure_long tests/azure``."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is marked ``azure_long``, unless ``-m`` names it."""
    if "azure_long" in config.getoption("-m"):
        return
    long = [item for item in items if item.get_closest_marker("azure_long")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]
