"""Jobs: submit, watch, cancel, read, delete."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Path, Query
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, PlainTextResponse, StreamingResponse

from tunesmith.records.jobs import Comparison, Job, JobStatus, MetricPoint, Output, StepExplanation, SubmitJob
from tunesmith.records.workspace import Deleted, FileEntry
from tunesmith.server.dependencies import LifecycleOf, ServicesOf
from tunesmith.server.folders import list_files, send_file
from tunesmith.server.sse import Batch, stream

router = APIRouter(tags=["jobs"])

Name = Annotated[str, Path(description="Name of the job.")]


@router.post("/jobs", status_code=201)
def submit_job(
    services: ServicesOf,
    request: SubmitJob,
    validate_only: Annotated[bool, Query(description="Check everything and start nothing.")] = False,
) -> Job:
    """Check a job and start it. Every fault is in one answer, and then nothing was started."""
    return services.jobs.validate(request) if validate_only else services.jobs.submit(request)


@router.get("/jobs")
def list_jobs(
    services: ServicesOf,
    status: Annotated[JobStatus | None, Query(description="Only jobs in this state.")] = None,
    experiment_name: Annotated[str | None, Query(description="Only jobs of this experiment.")] = None,
    limit: Annotated[int | None, Query(ge=1, description="At most so many.")] = None,
) -> list[Job]:
    """Jobs, newest first."""
    return services.jobs.list(status=status, experiment_name=experiment_name, limit=limit)


@router.get("/jobs/{name}")
def get_job(services: ServicesOf, name: Name) -> Job:
    """One job with its steps."""
    return services.jobs.get(name)


@router.post("/jobs/{name}/cancel", status_code=202)
def cancel_job(services: ServicesOf, name: Name) -> Job:
    """Ask a job to stop; a training step stops at a checkpoint."""
    return services.jobs.cancel(name)


@router.post("/jobs/{name}/reproduce", status_code=201)
def reproduce_job(services: ServicesOf, name: Name) -> Job:
    """Start a job that runs a completed one again with the same inputs, code and values, reusing nothing."""
    return services.jobs.reproduce(name)


@router.get("/jobs/{name}/compare/{other}")
def compare_jobs(
    services: ServicesOf, name: Name, other: Annotated[str, Path(description="Name of the later job.")]
) -> Comparison:
    """The losses of two runs of a job, one beside the other, and what is recorded to differ."""
    return services.jobs.compare(name, other)


@router.delete("/jobs/{name}")
def delete_job(services: ServicesOf, name: Name) -> Deleted:
    """Delete a job that has ended, with its files."""
    return Deleted(freed_bytes=services.jobs.delete(name))


@router.get(
    "/jobs/{name}/events",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
)
async def get_events(
    services: ServicesOf,
    lifecycle: LifecycleOf,
    name: Name,
    follow: Annotated[bool, Query(description="Wait for further events until the job is over.")] = True,
    after: Annotated[str | None, Query(description="The id of the last event that is known already.")] = None,
    last_event_id: Annotated[str | None, Header(description="The same, as browsers send it.")] = None,
) -> StreamingResponse:
    """What happened in the job and its steps, as server-sent events in order.

    The stream ends with the event `end` once the job is over. Without it, it broke off: ask again with `after`.
    """
    cursor = after or last_event_id

    def fetch(cursor: str | None) -> Batch:
        return services.jobs.events(name, cursor)

    first = await run_in_threadpool(fetch, cursor)  # an unknown job or cursor is an error, not an empty stream
    body = stream(fetch, first, after=cursor, follow=follow, stopping=lifecycle.stopping)
    return StreamingResponse(body, media_type="text/event-stream", headers={"x-accel-buffering": "no"})


@router.get("/jobs/{name}/logs", response_class=PlainTextResponse)
def get_logs(services: ServicesOf, name: Name) -> str:
    """The text that all steps wrote, in order."""
    return services.jobs.logs(name)


@router.get("/jobs/{name}/logs/{step:path}", response_class=PlainTextResponse)
def get_step_logs(services: ServicesOf, name: Name, step: str) -> str:
    """The text that one step wrote."""
    return services.jobs.logs(name, step)


@router.get("/jobs/{name}/metrics")
def get_metrics(services: ServicesOf, name: Name) -> list[MetricPoint]:
    """Every value of every metric so far."""
    return services.jobs.metrics(name)


@router.get("/jobs/{name}/explain")
def explain_job(services: ServicesOf, name: Name) -> list[StepExplanation]:
    """Why each step ran or was reused, against the closest earlier run."""
    return services.jobs.explain(name)


@router.get("/jobs/{name}/outputs")
def get_outputs(services: ServicesOf, name: Name) -> dict[str, Output]:
    """The job's outputs by name."""
    return services.jobs.outputs(name)


@router.get("/jobs/{name}/outputs/{output}/files")
def list_output_files(services: ServicesOf, name: Name, output: str) -> list[FileEntry]:
    """The files of one output."""
    return list_files(services.jobs.output_path(name, output))


@router.get("/jobs/{name}/outputs/{output}/files/{path:path}", response_class=FileResponse)
def get_output_file(services: ServicesOf, name: Name, output: str, path: str) -> FileResponse:
    """One file of one output."""
    return send_file(services.jobs.output_path(name, output), path)
