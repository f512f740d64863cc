"""The folder of a job, and the small files in it that the service, the runner and the steps share.

job.json            what the runner needs to know (JobFile)
graph.json          the graph
runner.json         pid and start time of the runner at work
runner.lock         held by it: there is never a second one
runner.log          what it printed
events.jsonl        states of the job and its steps, appended by the runner
cancel              its presence asks the job to stop
lineage.json        what went into the model, written by the steps
code/<hash>/        snapshots of code folders
steps/<step>/
    inputs.json     values and hashes of the step's inputs, for the step itself
    explanation.json  parts of the content key, and why the step ran or was reused
    process.json    pid and start time of the step's process at work, and the attempts before
    log.txt         what the step printed
    events.jsonl    the step's own events
    checkpoints/    survive a restart of the step
    outputs/        appears when the step ended well
    loose/          what a command of the user left in ./outputs and ./logs
    result.json     how it ended; written last
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from tunesmith.pipelines.cache import CachedOutput
from tunesmith.records.base import Record
from tunesmith.records.jobs import JobSettings, JobStatus


class JobFile(Record):
    """``job.json``."""

    name: str
    home: str
    experiment_name: str
    display_name: str = ""
    settings: JobSettings
    grace_s: float = 60.0
    """Seconds between asking a step to stop and killing it."""
    environment: dict[str, str] = Field(default_factory=dict)
    """Further variables for every step."""


class StepResult(Record):
    """``result.json``: how a step ended."""

    status: JobStatus
    attempt: int
    started_at: float
    """Unix seconds."""
    ended_at: float
    reused_from: str | None = None
    outputs: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """By name, as ``CachedOutput.to_dict`` writes them."""
    error: dict[str, Any] | None = None

    def cached(self) -> dict[str, CachedOutput]:
        """The outputs as value objects."""
        return {name: CachedOutput.from_dict(body) for name, body in self.outputs.items()}


@dataclass(frozen=True, slots=True)
class StepFolder:
    """Paths of one step."""

    root: Path

    @property
    def inputs(self) -> Path:
        """``inputs.json``."""
        return self.root / "inputs.json"

    @property
    def explanation(self) -> Path:
        """``explanation.json``."""
        return self.root / "explanation.json"

    @property
    def process(self) -> Path:
        """``process.json``."""
        return self.root / "process.json"

    @property
    def log(self) -> Path:
        """``log.txt``."""
        return self.root / "log.txt"

    @property
    def events(self) -> Path:
        """``events.jsonl``."""
        return self.root / "events.jsonl"

    @property
    def lineage(self) -> Path:
        """``lineage.json``: what went into what the step made, for steps that tell."""
        return self.root / "lineage.json"

    @property
    def checkpoints(self) -> Path:
        """``checkpoints/``."""
        return self.root / "checkpoints"

    @property
    def outputs(self) -> Path:
        """``outputs/``."""
        return self.root / "outputs"

    @property
    def outputs_aside(self) -> Path:
        """Where outputs are written until the step ends well."""
        return self.root / "outputs.unfinished"

    @property
    def work(self) -> Path:
        """The working directory: a copy of the code."""
        return self.root / "work"

    @property
    def loose(self) -> Path:
        """``loose/``: what a command left in ``outputs`` and ``logs`` of its working directory."""
        return self.root / "loose"

    @property
    def result(self) -> Path:
        """``result.json``."""
        return self.root / "result.json"


@dataclass(frozen=True, slots=True)
class JobFolder:
    """Paths of one job."""

    root: Path

    @property
    def job(self) -> Path:
        """``job.json``."""
        return self.root / "job.json"

    @property
    def graph(self) -> Path:
        """``graph.json``."""
        return self.root / "graph.json"

    @property
    def runner(self) -> Path:
        """``runner.json``."""
        return self.root / "runner.json"

    @property
    def runner_lock(self) -> Path:
        """``runner.lock``."""
        return self.root / "runner.lock"

    @property
    def runner_log(self) -> Path:
        """``runner.log``."""
        return self.root / "runner.log"

    @property
    def events(self) -> Path:
        """``events.jsonl``."""
        return self.root / "events.jsonl"

    @property
    def cancel(self) -> Path:
        """``cancel``."""
        return self.root / "cancel"

    @property
    def code(self) -> Path:
        """``code/``."""
        return self.root / "code"

    @property
    def lineage(self) -> Path:
        """``lineage.json``."""
        return self.root / "lineage.json"

    def step(self, folder: str) -> StepFolder:
        """The folder of a step, by ``GraphStep.folder``."""
        return StepFolder(self.root / "steps" / folder)


def append_line(path: Path, body: dict[str, Any]) -> None:
    """Append one event as one whole line, and sync it."""
    line = json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        if os.lseek(handle, 0, os.SEEK_END) and not _ends_whole(path):
            line = b"\n" + line  # a kill cut the line before
        os.write(handle, line)
        os.fsync(handle)
    finally:
        os.close(handle)


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def read_json(path: Path) -> Any | None:
    """The JSON value in a file, or ``None`` when it is not there or not whole."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
