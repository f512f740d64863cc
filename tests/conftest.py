"""Fixtures that every test may use."""

from __future__ import annotations

import gc
import os
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import pytest
from xdist.remote import Producer

# Two test processes share two cores: a thread each keeps them from fighting.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"
# Exporting a model takes seconds, so what is deployed once is served by transformers; tests that start many instances
# of one model name the openvino engine, which starts in a fifth of the time, and share exports (tests/support/exports).
os.environ["TUNESMITH_ENGINE"] = "transformers"
# MLflow takes eight processor seconds to start: a test that runs jobs and does not look into it has none.
os.environ["TUNESMITH_MLFLOW"] = "asked"

from tests.support.exports import share_exports
from tests.support.forked import Forks, forks
from tests.support.scheduling import UnitScheduling, ordered
from tests.support.tiny import tiny_conversations, tiny_model

LONG = ("long", "azure_long")
"""Marks of what runs only where ``-m`` names it: ``pytest -m long``, ``pytest -m azure_long tests/azure``."""


# No test depends on how fast this machine is at the moment.
hypothesis.settings.register_profile("tunesmith", deadline=None)
hypothesis.settings.load_profile("tunesmith")


def pytest_configure() -> None:
    """One folder of exports for this run, its worker processes' as well."""
    share_exports()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """No garbage is looked for in what the tests import: it stays."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes long and was not asked for, and begin with what is heavy."""
    left = [mark for mark in LONG if mark not in config.getoption("-m").replace("(", " ").replace(")", " ").split()]
    out = [item for item in items if any(item.get_closest_marker(mark) for mark in left)]
    if out:
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if item not in set(out)]
    items[:] = ordered(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> UnitScheduling | None:
    """What ``--dist loadfile`` means here."""
    return UnitScheduling(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.fixture(scope="session")
def forked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """Starts processes that compute, without the seconds that torch takes to import."""
    with forks(tmp_path_factory.mktemp("forks")) as found:
        yield found


@pytest.fixture
def tiny_phi3(tmp_path: Path) -> Path:
    """A Hugging Face folder with a tiny random Phi-3."""
    return tiny_model("phi3", tmp_path / "tiny-phi3")


@pytest.fixture
def tiny_llama(tmp_path: Path) -> Path:
    """A Hugging Face folder with a tiny random Llama and ChatML."""
    return tiny_model("llama", tmp_path / "tiny-llama")


@pytest.fixture
def conversations(tmp_path: Path) -> Path:
    """A small file of conversations."""
    return tiny_conversations(tmp_path / "conversations.jsonl")
