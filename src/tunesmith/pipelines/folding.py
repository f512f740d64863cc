"""From events to rows: how what the runner and the steps say becomes the state that is shown.

Each function takes one event and changes one row. Applying an event twice changes nothing more, so a server that was
killed between reading and committing reads again.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from tunesmith.records.jobs import Job, JobSettings, JobStatus, Notice, Output, Progress, Step
from tunesmith.storage.tables import JobRow, JobStepRow

NOTICES_KEPT = 500
ARCHIVED = "tunesmith.archived"
"""Property of a job that is archived; records show it as a field of its own."""


def moment(seconds: float) -> datetime:
    """Unix seconds as an aware time."""
    return datetime.fromtimestamp(seconds, UTC)


def apply_step_event(job: JobRow, step: JobStepRow, event: Mapping[str, Any]) -> None:
    """A ``step`` event of the runner."""
    status = JobStatus(event["status"])
    if JobStatus(step.status).terminal and not status.terminal:
        return
    step.status = status
    step.attempt = max(step.attempt, int(event.get("attempt", 0)))
    if status in (JobStatus.PREPARING, JobStatus.RUNNING) and step.started_at is None:
        step.started_at = moment(float(event["t"]))
    if status.terminal:
        if step.attempt or event.get("reused_from"):
            step.started_at = step.started_at or moment(float(event["started_at"]))
        step.ended_at = moment(float(event["ended_at"]))
        step.reused_from = event.get("reused_from")
        step.error = event.get("error")
        step.outputs = {
            name: Output(
                type=output["type"],
                uri=f"azureml://jobs/{job.name}/steps/{step.name}/outputs/{name}",
                path=output["path"],
            ).model_dump(mode="json")
            for name, output in event.get("outputs", {}).items()
        }


def apply_work_event(job: JobRow, step: JobStepRow, event: Mapping[str, Any]) -> None:
    """An event of the step's own work; metrics and logs stay in the file."""
    if event["kind"] == "progress":
        step.progress = Progress.model_validate(event).model_dump(mode="json")
    elif event["kind"] == "notice":
        add_notice(job, Notice.model_validate({**event, "step": step.name}))


def add_notice(job: JobRow, notice: Notice) -> None:
    """Keep a notice once; a step that starts again says the same again."""
    body = notice.model_dump(mode="json")
    if body not in job.notices and len(job.notices) < NOTICES_KEPT:
        job.notices = [*job.notices, body]


def remove_notices(job: JobRow, code: str) -> None:
    """Drop the notices with ``code``: what they said is no longer so."""
    if any(notice.get("code") == code for notice in job.notices):
        job.notices = [notice for notice in job.notices if notice.get("code") != code]


def to_record(job: JobRow, steps: list[JobStepRow]) -> Job:
    """The record of a job with its steps."""
    return Job(
        name=job.name,
        display_name=job.display_name,
        experiment_name=job.experiment_name,
        type="command" if job.type == "command" else "pipeline",
        status=JobStatus(job.status),
        description=job.description,
        tags=job.tags,
        properties={key: value for key, value in job.properties.items() if key != ARCHIVED},
        archived=ARCHIVED in job.properties,
        compute=job.compute,
        inputs=job.inputs,
        outputs={name: Output.model_validate(body) for name, body in job.outputs.items()},
        steps=[
            Step(
                name=step.name,
                component=step.component,
                status=JobStatus(step.status),
                started_at=step.started_at,
                ended_at=step.ended_at,
                attempt=step.attempt,
                reused_from=step.reused_from,
                outputs={name: Output.model_validate(body) for name, body in step.outputs.items()},
                progress=Progress.model_validate(step.progress) if step.progress else None,
                error=step.error,
                log=step.log,
            )
            for step in sorted(steps, key=lambda step: step.position)
        ],
        settings=JobSettings.model_validate(job.settings),
        notices=[Notice.model_validate(notice) for notice in job.notices],
        error=job.error,
        created_at=job.created_at,
        started_at=job.started_at,
        ended_at=job.ended_at,
        mlflow_run_id=job.mlflow_run_id,
        spec=job.spec,
    )
