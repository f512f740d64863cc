"""The rows of jobs: made for a new one, found for the others."""

from __future__ import annotations

import json

from sqlalchemy import select
from sqlalchemy.orm import Session

from tunesmith.errors import NotFound
from tunesmith.pipelines.graph import Graph
from tunesmith.records.base import utcnow
from tunesmith.records.jobs import JobStatus, Output, SubmitJob
from tunesmith.storage.tables import JobRow, JobStepRow


def job_row(session: Session, name: str) -> JobRow:
    """The row of a job.

    Raises:
        NotFound: there is no such job.
    """
    row = session.get(JobRow, name)
    if row is None or (row.deleting and not JobStatus(row.status).terminal):
        raise NotFound(f"there is no job {name[:80]!r}", target="job", way_out="tunesmith jobs list")
    return row


def step_rows(session: Session, name: str) -> list[JobStepRow]:
    """The rows of a job's steps, in order."""
    return list(session.scalars(select(JobStepRow).where(JobStepRow.job == name).order_by(JobStepRow.position)))


def new_rows(name: str, request: SubmitJob, graph: Graph) -> tuple[JobRow, list[JobStepRow]]:
    """The rows of a job that is being submitted."""
    row = JobRow(
        name=name,
        type=request.type,
        display_name=request.display_name or name,
        experiment_name=request.experiment_name,
        status=JobStatus.NOT_STARTED,
        description=request.description,
        tags=dict(request.tags),
        properties=dict(request.properties),
        compute=(request.compute or request.settings.default_compute or "local").removeprefix("azureml:"),
        settings=request.settings.model_dump(mode="json"),
        inputs=json.loads(json.dumps(request.inputs, default=str)),
        outputs={
            key: Output(type=output.type, uri=f"azureml://jobs/{name}/outputs/{key}").model_dump(mode="json")
            for key, output in graph.outputs.items()
        },
        notices=[notice.model_dump(mode="json") for notice in graph.notices],
        error=None,
        spec=request.model_dump(mode="json", exclude_defaults=True),
        created_at=utcnow(),
        cancel_requested=False,
        deleting=False,
        events_offset=0,
    )
    steps = [
        JobStepRow(
            job=name,
            name=step.name,
            position=position,
            component=step.component_id,
            status=JobStatus.NOT_STARTED,
            attempt=0,
            outputs={},
            log=f"steps/{step.folder}/log.txt",
            events_offset=0,
        )
        for position, step in enumerate(graph.steps)
    ]
    return row, steps
