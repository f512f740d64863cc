"""Jobs: submitted, listed, described, canceled, deleted through Azure ML's protocol."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from starlette.requests import Request

from tunesmith.azure import arm
from tunesmith.azure.code_assets import code_folder
from tunesmith.azure.context import AzureContext
from tunesmith.azure.jobs_answers import job_body
from tunesmith.azure.jobs_bodies import read_job
from tunesmith.azure.runs import Run, find_run
from tunesmith.errors import AlreadyExists, NotFound, ValidationFailed
from tunesmith.records.jobs import Job, JobStatus, SubmitJob, UpdateJob


def create_jobs_router(context: AzureContext) -> APIRouter:
    """The routes below ``/workspace/jobs``."""
    router = APIRouter()
    services = context.services
    jobs = services.jobs

    @router.put("/workspace/jobs/{name}")
    def put(request: Request, name: str, body: arm.Json) -> Response:
        properties = body.get("properties")
        known = _known(name)
        if known is not None:
            return JSONResponse(job_body(request, services, _change(known, properties)))
        asked = _read(name, properties)
        if _runs_commands_of_the_user(asked):
            # Their code logs to the run of the job, so that run must be there before they start.
            services.tracking.ensure_running()
        job = jobs.submit(asked)
        if isinstance(properties, dict) and properties.get("isArchived"):
            job = jobs.update(name, UpdateJob(archived=True))
        return JSONResponse(job_body(request, services, job), 201)

    @router.get("/workspace/jobs/{name}")
    def get(request: Request, name: str) -> dict[str, Any]:
        run = find_run(services, name)
        return job_body(request, services, run.job) if run.step is None else _child(request, run)

    @router.get("/workspace/jobs")
    def list_jobs(request: Request) -> dict[str, Any]:
        options = arm.list_options(
            request, "jobType", "tag", "properties", "status", "experimentName", "scheduled", "scheduleId", "assetName"
        )
        _check_statuses(options.extra.get("status"))
        wanted = [job for job in jobs.list() if arm.in_view(job.archived, options.view) and _wanted(job, options.extra)]
        return arm.page(request, wanted, lambda job: job_body(request, services, job), options)

    @router.post("/workspace/jobs/{name}/cancel")
    def cancel(name: str) -> Response:
        jobs.cancel(find_run(services, name).job.name)
        return Response(status_code=200)

    @router.delete("/workspace/jobs/{name}")
    def delete(name: str) -> Response:
        jobs.delete(name)
        return Response(status_code=200)

    def _read(name: str, properties: Any) -> SubmitJob:
        return read_job(name, properties, code_folder=partial(code_folder, context))

    def _known(name: str) -> Job | None:
        try:
            return jobs.get(name)
        except NotFound:
            return None

    def _change(known: Job, properties: Any) -> Job:
        """A job that is there, sent again: what describes it may change, and nothing that it does."""
        asked = _read(known.name, properties)
        if _work(asked) != _work(SubmitJob.model_validate(known.spec)):
            raise AlreadyExists(
                f"there is a job {known.name!r} already, and it does something else",
                target="name",
                way_out="give the new job another name, or none",
            )
        return jobs.update(
            known.name,
            UpdateJob(
                display_name=properties.get("displayName"),
                description=properties.get("description"),
                tags={key: str(value) for key, value in (properties.get("tags") or {}).items()},
                properties={key: str(value) for key, value in (properties.get("properties") or {}).items()},
                archived=bool(properties.get("isArchived")),
            ),
        )

    return router


def _child(request: Request, run: Run) -> dict[str, Any]:
    """A step by itself: ARM has no properties of it, which tells clients to ask run history."""
    return {
        "id": arm.resource_id(request, "jobs", run.id),
        "name": run.id,
        "type": "Microsoft.MachineLearningServices/workspaces/jobs",
        "properties": None,
    }


def _runs_commands_of_the_user(job: SubmitJob) -> bool:
    references = [str(node.get("component")) for node in job.jobs.values()] if job.jobs else [str(job.component)]
    return job.type == "command" or not all(text.startswith("azureml://registries/azureml/") for text in references)


def _work(job: SubmitJob) -> dict[str, Any]:
    """What a job does, without what describes it."""
    nodes = {
        name: {key: node.get(key) for key in ("component", "inputs", "environment_variables")}
        for name, node in job.jobs.items()
        if isinstance(node, dict)
    }
    return {
        "type": job.type,
        "component": job.component,
        "command": job.command,
        "inputs": {key: value for key, value in job.inputs.items() if value is not None},
        "jobs": {name: {key: value for key, value in node.items() if value} for name, node in nodes.items()},
    }


def _check_statuses(asked: str | None) -> None:
    known = [status.value for status in JobStatus]
    for value in asked.split(",") if asked is not None else ():
        if value not in known:
            raise ValidationFailed(
                f"{value[:40]!r} is no status of a job", target="status", way_out=f"known: {', '.join(known)}"
            )


def _wanted(job: Job, asked: dict[str, str]) -> bool:
    kind = "Command" if job.type == "command" else "Pipeline"
    if "jobType" in asked and asked["jobType"].lower() != kind.lower():
        return False
    if "status" in asked and job.status.value not in asked["status"].split(","):
        return False
    if "experimentName" in asked and job.experiment_name != asked["experimentName"]:
        return False
    if asked.get("scheduled", "false").lower() == "true" or "scheduleId" in asked or "assetName" in asked:
        return False  # nothing here runs by a schedule or materialises an asset
    for where, text in ((job.tags, asked.get("tag", "")), (job.properties, asked.get("properties", ""))):
        for part in filter(None, text.split(",")):
            key, equals, value = part.partition("=")
            if key not in where or (equals and where[key] != value):
                return False
    return True
