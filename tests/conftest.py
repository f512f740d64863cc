"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Two test processes share two cores: a thread each keeps them from fighting.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"
# Exporting a model takes seconds, so what is deployed once is served by transformers; tests that start many instances
# of one model name the openvino engine, which starts in a fifth of the time, and share exports (tests/support/exports).
os.environ["TUNESMITH_ENGINE"] = "transformers"

from tests.support.exports import share_exports
from tests.support.tiny import tiny_conversations, tiny_model

LONG = ("long", "azure_long")
"""Marks of what runs only where ``-m`` names it: ``pytest -m long``, ``pytest -m azure_long tests/azure``."""


def pytest_configure() -> None:
    """One folder of exports for this run, its worker processes' as well."""
    share_exports()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes long and was not asked for, and begin with what is heavy."""
    left = [mark for mark in LONG if mark not in config.getoption("-m").replace("(", " ").replace(")", " ").split()]
    out = [item for item in items if any(item.get_closest_marker(mark) for mark in left)]
    if out:
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if item not in set(out)]
    items[:] = _dealt(items, getattr(config, "workerinput", {}).get("workercount", 1))


def _dealt(items: list[pytest.Item], processes: int) -> list[pytest.Item]:
    """The tests in the order of ``processes`` equal parts, of which every process begins with its own.

    What takes minutes comes first in each part, the longest in the first, and so on: begun last it would run on alone,
    with the other processes idle. The rest keeps its order, so that a module's fixtures are made in few processes.
    """
    heavy = sorted((item for item in items if item.get_closest_marker("heavy")), key=_limit, reverse=True)
    light = [item for item in items if not item.get_closest_marker("heavy")]
    dealt: list[pytest.Item] = []
    for number in range(processes):
        first = heavy[number::processes]
        # As pytest-xdist divides: what is left, by the processes that are left.
        size = (len(items) - len(dealt)) // (processes - number)
        more = max(0, size - len(first))
        dealt += first + light[:more]
        del light[:more]
    return dealt


def _limit(item: pytest.Item) -> float:
    limit = item.get_closest_marker("timeout")
    return float(limit.args[0]) if limit else 0.0


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
