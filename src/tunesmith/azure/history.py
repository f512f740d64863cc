"""Run history: how a run stands, its logs, its children, its outputs, and how it is described anew."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request

from tunesmith.azure import arm
from tunesmith.azure.blob_account import StorageAccount
from tunesmith.azure.context import AzureContext
from tunesmith.azure.jobs_answers import output_uri, services_of
from tunesmith.azure.run_files import log_files
from tunesmith.azure.runs import Run, child_id, find_run
from tunesmith.errors import ValidationFailed
from tunesmith.pipelines.values import MODEL_TYPES
from tunesmith.records.jobs import Output, UpdateJob

_MODELS = {"mlflow_model": "MLFlowModel", "custom_model": "CustomModel", "triton_model": "TritonModel"}
_READ_ONLY = {"run_id", "experiment_id", "parent_run_id", "status", "data_container_id"}


class RunDataRequest(arm.ArmBody):
    """What ``rundata`` is asked."""

    run_id: str
    select_run_metadata: bool = False
    """What is known is answered, selected or not; there are no definitions beside the job's own."""
    select_run_definition: bool = False
    select_job_specification: bool = False


class ChangeRun(arm.ArmBody):
    """What of a run may be described anew."""

    run_id: str | None = None
    display_name: str | None = None
    name: str | None = None
    description: str | None = None
    hidden: bool | None = None
    tags: dict[str, str] | None = None
    properties: dict[str, str] | None = None


class Ids(arm.ArmBody):
    """Ids of assets."""

    values: list[str] = Field(default_factory=list)


def create_history_router(context: AzureContext) -> APIRouter:
    """The routes of run history, and of the two services that say where outputs lie."""
    router = APIRouter()
    services = context.services
    account = StorageAccount(context)

    def _details(request: Request, run_id: str) -> dict[str, Any]:
        run = find_run(services, run_id)
        logs = log_files(services, run)
        body = _run(request, run)
        return {
            **body,
            "createdTimeUtc": body["createdUtc"],
            "logFiles": {name: account.run_file_url(request, run.id, name) for name in logs},
            "runDefinition": None,
            "warnings": [
                {"source": notice.step or run.job.name, "message": notice.message}
                for notice in run.job.notices
                if notice.level == "warning" and (run.step is None or notice.step == run.step.name)
            ],
        }

    def _run(request: Request, run: Run) -> dict[str, Any]:
        job, step = run.job, run.step
        started = job.started_at if step is None else step.started_at
        ended = job.ended_at if step is None else step.ended_at
        error = job.error if step is None else step.error
        outputs = job.outputs if step is None else step.outputs
        body: dict[str, Any] = {
            "runId": run.id,
            "rootRunId": job.name,
            "parentRunId": None if step is None else job.name,
            "experimentId": job.experiment_name,
            "status": (job.status if step is None else step.status).value,
            "displayName": job.display_name if step is None else step.name.rsplit("/", 1)[-1],
            "name": job.display_name if step is None else step.name,
            "description": job.description if step is None else "",
            "tags": job.tags if step is None else {},
            "properties": dict(job.properties) if step is None else _step_properties(run),
            "hidden": job.archived,
            "runType": "azureml.StepRun" if step is not None else _run_type(run),
            "target": job.compute,
            "compute": {"target": job.compute},
            "dataContainerId": f"dcid.{run.id}",
            "createdUtc": arm.timestamp(job.created_at if step is None else (started or job.created_at)),
            "startTimeUtc": _time(started),
            "endTimeUtc": _time(ended),
            "error": _error(error),
            "services": services_of(request, services, job) if step is None else {},
            "inputs": {},
            "outputs": {
                name: {"assetId": _asset_id(run, name), "type": _MODELS.get(output.type, output.type)}
                for name, output in outputs.items()
                if step is None and output.path is not None
            },
        }
        return body

    # Each is asked for alone, and below its experiment by name or id.
    for base in ("/history", "/history/experiments/{experiment}", "/history/experimentids/{experiment}"):

        @router.get(f"{base}/runs/{{run}}/details")
        def details(request: Request, run: str) -> dict[str, Any]:
            return _details(request, run)

        @router.get(f"{base}/runs/{{run}}")
        def get(request: Request, run: str) -> dict[str, Any]:
            return _run(request, find_run(services, run))

        @router.get(f"{base}/runs/{{run}}/children")
        def children(request: Request, run: str) -> dict[str, Any]:
            found = find_run(services, run)
            steps = found.job.steps if found.step is None else []
            # A command job is one run; its only step is the job itself.
            if found.job.type == "command":
                steps = []
            for option in request.query_params:
                if option not in ("$top", "api-version"):
                    raise arm.refuse(f"the children of a run have no option {option[:80]!r}", target=option[:80])
            top = request.query_params.get("$top", str(len(steps)))
            if not (top.isascii() and top.isdecimal() and len(top) < 10):
                raise ValidationFailed(f"{top[:20]!r} is not a number", target="$top")
            value = [_run(request, Run(found.job, step)) for step in steps[: int(top)]]
            return {"value": value, "continuationToken": None, "nextLink": None}

        @router.patch(f"{base}/runs/{{run}}")
        def change(request: Request, run: str, body: arm.Json) -> dict[str, Any]:
            asked = arm.read_body(ChangeRun, body, what="run")
            found = find_run(services, run)
            if found.step is not None:
                raise arm.refuse("a step of a pipeline is not described anew; its job is", target="runId")
            job = services.jobs.update(
                found.job.name,
                UpdateJob(
                    display_name=asked.display_name or asked.name,
                    description=asked.description,
                    tags=asked.tags,
                    properties=asked.properties,
                    archived=asked.hidden,
                ),
            )
            return _run(request, Run(job))

    @router.get("/history/runs/{run}/serviceinstances/{node}")
    def instances(request: Request, run: str, node: str) -> dict[str, Any]:
        found = find_run(services, run)
        told = services_of(request, services, found.job)
        return {
            "instances": {
                name: {
                    "type": service["jobServiceType"],
                    "port": None,
                    "status": "Running",
                    "endpoint": service["endpoint"],
                    "properties": {},
                }
                for name, service in told.items()
            }
        }

    @router.post("/history/rundata")
    def rundata(request: Request, body: arm.Json) -> dict[str, Any]:
        asked = arm.read_body(RunDataRequest, body)
        return {
            "runMetadata": _run(request, find_run(services, asked.run_id)),
            "runDefinition": None,
            "jobSpecification": None,
        }

    def _uris(request: Request, ids: list[str]) -> dict[str, tuple[str, Output]]:
        found: dict[str, tuple[str, Output]] = {}
        for identity in ids:
            job, separator, name = identity.removeprefix("azureml://jobs/").partition("/outputs/")
            outputs = services.jobs.outputs(job) if separator else {}
            if name in outputs:
                found[identity] = (output_uri(request, outputs[name]), outputs[name])
        return found

    @router.post("/data/dataversion/batchGetResolvedUris")
    def data_uris(request: Request, body: arm.Json) -> dict[str, Any]:
        asked = arm.read_body(Ids, body)
        return {
            "values": {
                identity: {"uri": uri, "type": output.type}
                for identity, (uri, output) in _uris(request, asked.values).items()
                if output.type not in MODEL_TYPES
            }
        }

    @router.post("/modelregistry/models/batchGetResolvedUris")
    def model_uris(request: Request, body: arm.Json) -> dict[str, Any]:
        asked = arm.read_body(Ids, body)
        return {
            "values": {
                identity: {"path": uri, "type": _MODELS[output.type]}
                for identity, (uri, output) in _uris(request, asked.values).items()
                if output.type in MODEL_TYPES
            }
        }

    return router


def _asset_id(run: Run, output: str) -> str:
    return f"azureml://jobs/{run.job.name}/outputs/{output}"


def _run_type(run: Run) -> str:
    return "azureml.scriptrun" if run.job.type == "command" else "azureml.PipelineRun"


def _step_properties(run: Run) -> dict[str, str]:
    assert run.step is not None
    found = {"azureml.nodeid": run.step.name, "azureml.moduleid": run.step.component}
    if run.step.reused_from is not None:
        job, _, step = run.step.reused_from.partition("/")
        found["azureml.isreused"] = "true"
        found["azureml.reusedrunid"] = child_id(run.job.model_copy(update={"name": job}), run.step)
        found["azureml.reusednodeid"] = step
    return found


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else arm.timestamp(moment)


def _error(body: dict[str, Any] | None) -> dict[str, Any] | None:
    """What went wrong, in the form that clients raise: code, message with the way out, and the details."""
    if not body:
        return None
    inner = body.get("error", body)
    return {
        "error": {
            "code": str(inner.get("code", "Failure")),
            "message": _message(inner),
            "target": inner.get("target"),
            "details": [
                {
                    "code": str(detail.get("code", "Invalid")),
                    "message": _message(detail),
                    "target": detail.get("target"),
                }
                for detail in inner.get("details", ())
            ],
        }
    }


def _message(inner: dict[str, Any]) -> str:
    message = str(inner.get("message", ""))
    return f"{message}. Way out: {inner['way_out']}" if inner.get("way_out") else message
