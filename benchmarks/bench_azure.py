"""What the Azure face costs: the guide's script with Azure ML's own SDK and a tiny model, its time by step.

Of every step's time it is told how much the SDK waited between two polls (an instance comes up meanwhile), how long the
job ran, how long the server's answers took, and what is left when waiting and training are taken away: the server's
answers and the SDK's own work. The budget is for the sum of that, without the import of the SDK. ``make bench-azure``
runs it; it exits with 1 where the budget is broken.

The packages of ``requirements/azure.txt`` are installed once, below ``build/``.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from this_machine import describe  # noqa: E402

from tests.support.azure_sdk import NEWEST, OLDER, azure_python  # noqa: E402
from tests.support.walkthrough import SCRIPT, Stage, said, stage  # noqa: E402
from tunesmith.client import Workspace  # noqa: E402

BUDGET_S = 5.0


@dataclass(frozen=True)
class Step:
    """One step of the script; times in seconds."""

    title: str
    wall: float
    waiting: float
    answers: float
    requests: int
    trained: float = 0.0
    """The job ran for so long meanwhile; answers to polls are part of it."""

    @property
    def own(self) -> float:
        """What is neither waiting nor training."""
        return self.wall - max(self.waiting, self.trained)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--older", action="store_true", help="with the release that is a year older")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    requirements = OLDER if options.older else NEWEST
    python = azure_python(requirements)
    with tempfile.TemporaryDirectory() as work, stage(python, Path(work)) as scene:
        shutil.copy(Path(__file__).with_name("azure_cells.py"), scene.folder)
        server = psutil.Process(scene.server.process.pid)
        start, before = time.perf_counter(), server.cpu_times()
        done = scene.run("azure_cells.py", SCRIPT.name, "measured.json")
        total, after = time.perf_counter() - start, server.cpu_times()
        first, *others = json.loads((scene.folder / "measured.json").read_text())
        trained = _trained(scene, said(done.stdout, r"(?m)^job: (\S+)$"))
        steps = [Step(**{**first, "title": "importing the SDK"}), *(_step(line, trained) for line in others)]
    computed = after.user + after.system - before.user - before.system
    own = sum(step.own for step in steps[1:])
    _print(requirements, steps, total, own, computed)
    if options.json:
        figures: dict[str, Any] = {"total": total, "trained": trained, "server": computed}
        figures["steps"] = [vars(step) for step in steps]
        options.json.write_text(json.dumps(figures, indent=1))
    return 0 if own <= BUDGET_S else 1


def _step(line: dict[str, Any], trained: float) -> Step:
    return Step(**line, trained=trained if "watch it train" in line["title"] else 0.0)


def _trained(scene: Stage, name: str) -> float:
    """Seconds that the job ran."""
    with Workspace(scene.server.home, start=False) as workspace:
        job = workspace.jobs.get(name)
    assert job.started_at is not None and job.ended_at is not None
    return (job.ended_at - job.started_at).total_seconds()


def _print(requirements: Path, steps: list[Step], total: float, own: float, computed: float) -> None:
    import importlib.metadata

    pins = dict(re.findall(r"(?m)^([\w-]+)==(\S+)$", requirements.read_text()))
    packages = ", ".join(f"{name} {pins[name]}" for name in ("azure-ai-ml", "azure-identity", "azure-core"))
    print(f"{describe()}, {platform.system()} {platform.release()}")
    print(f"Python {platform.python_version()}, tunesmith {importlib.metadata.version('tunesmith')}, {packages}\n")
    width = max(len(step.title) for step in steps)
    print(f"{'seconds':{width}}    wall  waiting  training  requests  answers     own")
    for step in steps:
        times = f"{step.wall:7.2f} {step.waiting:8.2f} {step.trained:9.2f}"
        print(f"{step.title:{width}} {times} {step.requests:9} {step.answers:8.2f} {step.own:7.2f}")
    quick = sum(step.answers for step in steps if not step.trained)
    print(f"\nthe whole command: {total:.1f} s; the server's processor time meanwhile: {computed:.1f} s")
    print(f"the server's {sum(step.requests for step in steps)} answers, without the polls of the job: {quick:.2f} s")
    print(f"own, without the import: {own:.2f} s, budget {BUDGET_S:g} s {'kept' if own <= BUDGET_S else 'BROKEN'}")


if __name__ == "__main__":
    sys.exit(main())
