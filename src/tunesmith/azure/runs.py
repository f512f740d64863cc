"""Runs: what run history calls a job, or one step of a job.

A job's run has the job's name. A step's run is ``JOB--STEP``, with ``--`` for the slashes in the step's path: clients
take letters, digits, ``-`` and ``_`` for the id of a run, and nothing else.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tunesmith.errors import NotFound
from tunesmith.records.jobs import Job, Step

if TYPE_CHECKING:
    from tunesmith.workspace import Services


@dataclass(frozen=True, slots=True)
class Run:
    """A job, or one of its steps."""

    job: Job
    step: Step | None = None

    @property
    def id(self) -> str:
        """Its id."""
        return self.job.name if self.step is None else child_id(self.job, self.step)


def child_id(job: Job, step: Step) -> str:
    """The id of a step's run."""
    return f"{job.name}--{step.name.replace('/', '--')}"


def find_run(services: Services, run: str) -> Run:
    """The run of that id.

    Raises:
        NotFound: there is none.
    """
    with suppress(NotFound):
        return Run(services.jobs.get(run))
    parts = run.split("--")
    for count in range(1, len(parts)):
        with suppress(NotFound):
            job = services.jobs.get("--".join(parts[:count]))
            step = next((step for step in job.steps if child_id(job, step) == run), None)
            if step is not None:
                return Run(job, step)
    raise NotFound(
        f"there is no job or run {run[:300]!r}", target="run", way_out="list the jobs: ml_client.jobs.list()"
    )
