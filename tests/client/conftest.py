"""One workspace for the tests that leave its server running."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.server import RunningServer, running_server
from tunesmith.client import Workspace


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with running_server(tmp_path_factory.mktemp("client") / "home") as running:
        yield running


@pytest.fixture
def ws(server: RunningServer) -> Iterator[Workspace]:
    with Workspace(server.home, start=False) as workspace:
        yield workspace


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder with a tiny random Phi-3."""
    from tests.support.tiny import tiny_model

    return tiny_model("phi3", tmp_path_factory.mktemp("tiny") / "tiny-phi3")
