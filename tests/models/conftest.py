"""Packages that tests only read, made once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.tiny import tiny_model
from tunesmith.models import ModelPackage, import_model


class Listener:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.progressed: dict[str, list[tuple[float, float | None]]] = {}
        self.notices: list[tuple[str, str, int | None]] = []
        self.logs: list[str] = []

    def progress(self, phase: str, done: float, total: float | None, *, unit: str = "", values: Any = None) -> None:
        self.progressed.setdefault(phase, []).append((done, total))

    def metric(self, step: int, values: Any) -> None:
        raise AssertionError("this room has no metrics")

    def notice(self, code: str, message: str, *, level: str = "warning", count: int | None = None) -> None:
        self.notices.append((code, message, count))

    def log(self, message: str) -> None:
        self.logs.append(message)


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def llama(shared: Path) -> ModelPackage:
    """A tiny Llama as a package. Read only."""
    folder = tiny_model("llama", shared / "llama-folder")
    return import_model(str(folder), shared / "llama", downloads=shared / "downloads", name="tiny-llama")


@pytest.fixture(scope="session")
def phi3(shared: Path) -> ModelPackage:
    """A tiny Phi-3 as a package. Read only."""
    folder = tiny_model("phi3", shared / "phi3-folder")
    return import_model(str(folder), shared / "phi3", downloads=shared / "downloads", name="tiny-phi3")
