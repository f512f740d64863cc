"""The guide's script, run against a server of its own with a tiny model under the name that the script asks for."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.azure_sdk import ROOT
from tests.support.server import RunningServer, running_server
from tests.support.tiny import tiny_conversations, tiny_model
from tunesmith.client import Workspace

SCRIPT = ROOT / "examples" / "azure" / "finetune_chat_completion.py"
BASE = "Phi-3-mini-4k-instruct"
CONFIG = {"subscription_id": "0000-any", "resource_group": "any-group", "workspace_name": "any-workspace"}


@dataclass(frozen=True)
class Stage:
    """A server, an imported model, and the folder that the script stands in."""

    server: RunningServer
    python: Path
    folder: Path

    def run(self, *arguments: str, seconds: float = 900.0, check: bool = True) -> subprocess.CompletedProcess[str]:
        """``tunesmith azure run --python … ARGUMENTS`` in the folder, as a user types it."""
        command = [sys.executable, "-m", "tunesmith", "azure", "run", "--python", str(self.python), *arguments]
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=clean_environment(self.server.home),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert not check or done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
        return done


def clean_environment(home: Path) -> dict[str, str]:
    """The caller's variables without any that could lead the script elsewhere."""
    kept = {key: value for key, value in os.environ.items() if not key.upper().startswith(("AZURE", "MLFLOW"))}
    return {**kept, "TUNESMITH_HOME": str(home), "PYTHONUNBUFFERED": "1"}


@contextmanager
def stage(python: Path, work: Path, *, model: Path | None = None, name: str = BASE) -> Iterator[Stage]:
    """A server with ``model`` (a tiny random Phi-3 where none is given) as the system registry's ``name``."""
    folder = work / "project"
    (folder / "data").mkdir(parents=True)
    shutil.copy(SCRIPT, folder / SCRIPT.name)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    for split, count, seed in (("train", 48, 0), ("validation", 8, 1), ("test", 8, 2)):
        tiny_conversations(folder / "data" / f"{split}.jsonl", count, seed=seed)
    source = model or tiny_model("phi3", work / "tiny-phi3")
    with running_server(work / "home", environment={"TUNESMITH_MLFLOW": "jobs"}) as server:
        with Workspace(server.home, start=False) as workspace:
            job = workspace.models.import_(name, source, registry="azureml")
            assert job is not None and workspace.jobs.wait(job.name).status == "Completed"
        yield Stage(server, python, folder)


def notebook_of(script: Path, target: Path) -> Path:
    """The script as a notebook, cell for cell: what jupytext makes of the same marks."""
    cells: list[dict[str, Any]] = []
    for part in re.split(r"(?m)^# %%", script.read_text("utf-8"))[1:]:
        first, _, text = part.partition("\n")
        text = text.strip("\n")
        if "[markdown]" in first:
            text = re.sub(r"(?m)^# ?", "", text)
            cells.append({"cell_type": "markdown", "metadata": {}, "source": text})
        else:
            cells.append({"cell_type": "code", "metadata": {}, "source": text, "outputs": [], "execution_count": None})
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    target.write_text(
        json.dumps({"nbformat": 4, "nbformat_minor": 4, "metadata": {"kernelspec": kernel}, "cells": cells})
    )
    return target


def said(output: str, pattern: str) -> str:
    """The first group of ``pattern`` in what a run printed."""
    found = re.search(pattern, output)
    assert found is not None, f"{pattern!r} is not in:\n{output[-6000:]}"
    return found[1]
