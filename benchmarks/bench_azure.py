"""What the Azure face costs: the guide's script with Azure ML's own SDK and a tiny model, its time by step.

Of every step's time it is told how much the SDK waited between two polls (an instance comes up meanwhile), how long the
job ran, how long the server's answers took, and what is left when waiting and training are taken away: the server's
answers (the face) and the SDK's own work. The budget is for the sum of that, without the import of the SDK.
``make bench-azure`` runs it; it exits with 1 where the budget is broken.

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
from collections.abc import Iterable
from dataclasses import dataclass, field
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


Interval = tuple[float, float]
"""Begin and end in Unix seconds."""


def covered(intervals: Iterable[Interval]) -> float:
    """Seconds in which at least one of the intervals lay."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(intervals):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


@dataclass(frozen=True)
class Step:
    """One step of the script."""

    title: str
    began: float
    ended: float
    waiting: list[Interval]
    """The SDK's pauses between two polls."""
    answers: list[Interval]
    asked: list[str]
    """Of each answer: method, host and path."""
    training: list[Interval] = field(default_factory=list)
    """The job ran meanwhile; answers to polls are part of it."""

    @property
    def wall(self) -> float:
        """Seconds from the step's begin to its end."""
        return self.ended - self.began

    @property
    def own(self) -> float:
        """Seconds of neither waiting nor training."""
        return self.wall - self._within(*self.waiting, *self.training)

    @property
    def face(self) -> float:
        """Seconds of ``own`` in which an answer of the server was waited for; the rest is the SDK's own work."""
        others = (*self.waiting, *self.training)
        return self._within(*others, *self.answers) - self._within(*others)

    def _within(self, *intervals: Interval) -> float:
        return covered((max(begin, self.began), min(end, self.ended)) for begin, end in intervals)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--older", action="store_true", help="with the release that is a year older")
    parser.add_argument("--slowest", type=int, default=0, help="also print so many requests, the slowest first")
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
        training = _training(scene, said(done.stdout, r"(?m)^job: (\S+)$"))
        steps = [Step(**{**first, "title": "importing the SDK"}), *(_step(line, training) for line in others)]
    computed = after.user + after.system - before.user - before.system
    own = sum(step.own for step in steps[1:])
    _print(requirements, steps, total, own, computed)
    _print_slowest(steps, options.slowest)
    if options.json:
        figures: dict[str, Any] = {"total": total, "server": computed}
        figures["steps"] = [{**vars(step), "own": step.own} for step in steps]
        options.json.write_text(json.dumps(figures, indent=1))
    return 0 if own <= BUDGET_S else 1


def _step(line: dict[str, Any], training: Interval) -> Step:
    return Step(**line, training=[training] if "watch it train" in line["title"] else [])


def _training(scene: Stage, name: str) -> Interval:
    """When the job ran."""
    with Workspace(scene.server.home, start=False) as workspace:
        job = workspace.jobs.get(name)
    assert job.started_at is not None and job.ended_at is not None
    return job.started_at.timestamp(), job.ended_at.timestamp()


def _print(requirements: Path, steps: list[Step], total: float, own: float, computed: float) -> None:
    import importlib.metadata

    pins = dict(re.findall(r"(?m)^([\w-]+)==(\S+)$", requirements.read_text()))
    packages = ", ".join(f"{name} {pins[name]}" for name in ("azure-ai-ml", "azure-identity", "azure-core"))
    print(f"{describe()}, {platform.system()} {platform.release()}")
    print(f"Python {platform.python_version()}, tunesmith {importlib.metadata.version('tunesmith')}, {packages}\n")
    width = max(len(step.title) for step in steps)
    print(f"{'seconds':{width}}    wall  waiting  training  requests  answers     own    face")
    for step in steps:
        times = f"{step.wall:7.2f} {covered(step.waiting):8.2f} {covered(step.training):9.2f}"
        answers = f"{len(step.answers):9} {covered(step.answers):8.2f}"
        print(f"{step.title:{width}} {times} {answers} {step.own:7.2f} {step.face:7.2f}")
    face = sum(step.face for step in steps[1:])
    print(f"\nthe whole command: {total:.1f} s; the server's processor time meanwhile: {computed:.1f} s")
    print(f"own, without the import: {own:.2f} s, budget {BUDGET_S:g} s {'kept' if own <= BUDGET_S else 'BROKEN'}")
    print(f"of it {face:.2f} s are the server's answers and {own - face:.2f} s the SDK's own work")


def _print_slowest(steps: list[Step], count: int) -> None:
    """Those that ran while the job did not."""
    found = [
        (end - begin, what, step)
        for step in steps
        for (begin, end), what in zip(step.answers, step.asked, strict=True)
        if not any(start <= begin <= stop for start, stop in step.training)
    ]
    for seconds, what, step in sorted(found, key=lambda one: -one[0])[:count]:
        print(f"{seconds:6.2f} s  {step.title.partition('.')[0]:>3}  {what}")


if __name__ == "__main__":
    sys.exit(main())
