"""The examples in the docstrings do what they say, against a real server."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

from tests.support.server import RunningServer
from tests.support.tiny import tiny_conversations
from tunesmith.client import Workspace

MODULES = ("workspace", "models", "data", "components", "computes", "jobs", "endpoints", "deployments", "azure")


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str, server: RunningServer, tiny_folder: Path, tmp_path: Path) -> None:
    module = importlib.import_module(f"tunesmith.client.{name}")
    found = [test for test in doctest.DocTestFinder(exclude_empty=True).find(module) if test.examples]
    assert found or name == "deployments"
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    with Workspace(server.home, start=False) as ws:
        for test in found:
            test.globs = {
                "ws": ws,
                "path": server.home,
                "model": str(tiny_folder),
                "train": str(tiny_conversations(tmp_path / "train.jsonl")),
            }
            said: list[str] = []
            made = test.globs
            failed = runner.run(test, out=said.append, clear_globs=False).failed
            if made["ws"] is not ws:
                made["ws"].close()
            assert failed == 0, "".join(said)
