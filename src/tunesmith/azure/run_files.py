"""The files of a run as Azure ML names them: its logs, and what its command left in ``./outputs`` and ``./logs``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.azure.blob_places import within
from tunesmith.azure.execution_log import execution_log
from tunesmith.azure.runs import Run, find_run
from tunesmith.errors import NotFound
from tunesmith.pipelines.layout import JobFolder, StepFolder
from tunesmith.records.jobs import Step

if TYPE_CHECKING:
    from tunesmith.workspace import Services

EXECUTION_LOG = "logs/azureml/executionlogs.txt"
STD_LOG = "user_logs/std_log.txt"
LOOSE = ("outputs", "logs")
"""Folders below a command's working directory whose files Azure ML keeps with the run."""


def run_files(services: Services, run: str) -> dict[str, Path]:
    """The files of a run by name, without links that lead out of its folders; empty when there is no such run."""
    try:
        found = find_run(services, run)
    except NotFound:
        return {}
    return {**log_files(services, found), **dict(_loose(services, found))}


def log_files(services: Services, run: Run) -> dict[str, Path]:
    """The logs of a run that are there by now.

    A pipeline has its execution log, and its steps' logs below it; a command and a step have what they printed.
    """
    steps = _steps(run)
    alone = run.step is not None or run.job.type == "command"
    found: dict[str, Path] = {}
    if run.step is None and run.job.type != "command":
        found[EXECUTION_LOG] = execution_log(services, run.job)
    for step in steps:
        log = _folder(services, run, step).log
        if log.exists():
            found[STD_LOG if alone else f"user_logs/{step.name.rsplit('/', 1)[-1]}/std_log.txt"] = log
    return found


def _loose(services: Services, run: Run) -> Iterator[tuple[str, Path]]:
    steps = _steps(run)
    for step in steps:
        folder = _folder(services, run, step)
        for root in (folder.loose, folder.work):
            for name in LOOSE:
                for parent, _, files in os.walk(root / name):
                    for file in sorted(files):
                        path = Path(parent, file)
                        if not within(path, root):  # a link to a file that is not the run's
                            continue
                        relative = path.relative_to(root).as_posix()
                        yield (relative if len(steps) == 1 else f"{step.name.rsplit('/', 1)[-1]}/{relative}"), path


def _steps(run: Run) -> list[Step]:
    return [run.step] if run.step is not None else run.job.steps


def _folder(services: Services, run: Run, step: Step) -> StepFolder:
    return JobFolder(services.paths.job(run.job.name)).step(step.name.replace("/", "."))
