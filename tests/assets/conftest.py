from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.tiny import tiny_model
from tests.support.workspace import temporary_workspace
from tunesmith.workspace import Services


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Services]:
    with temporary_workspace(tmp_path / "home") as services:
        yield services


@pytest.fixture(scope="session")
def made_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tunesmith.models import import_model

    folder = tmp_path_factory.mktemp("package")
    source = tiny_model("llama", folder / "source")
    import_model(str(source), folder / "package", downloads=folder / "downloads", name="tiny-llama")
    return folder / "package"


@pytest.fixture
def package(made_package: Path, tmp_path: Path) -> Path:
    """A copy of a small model package."""
    return Path(shutil.copytree(made_package, tmp_path / "package"))
