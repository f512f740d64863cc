"""Fixtures: packages of tiny models, and a running house shared by the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.exports import export_here
from tests.support.house import House
from tests.support.tiny import tiny_model
from tunesmith.models import import_model


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Packages by name: two of one family that answer differently, and one of another family."""
    folder = tmp_path_factory.mktemp("models")
    made: dict[str, Path] = {}
    for name, family, seed in (("tiny-phi3", "phi3", 0), ("tuned-phi3", "phi3", 1), ("tiny-llama", "llama", 0)):
        source = tiny_model(family, folder / f"{name}-source", seed=seed)  # type: ignore[arg-type]
        package = import_model(str(source), folder / name, downloads=folder / "downloads", name=name)
        export_here(package)
        made[name] = package.path
    return made


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, models: dict[str, Path]) -> Iterator[House]:
    """A running server for endpoints."""
    running = House(tmp_path_factory.mktemp("house"), dict(models)).start()
    yield running
    running.close()
