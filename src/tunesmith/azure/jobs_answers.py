"""From our jobs to Azure ML's: as ARM shows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from starlette.requests import Request

from tunesmith.assets.references import AssetReference, parse_reference
from tunesmith.azure import arm
from tunesmith.azure.code_store import CodeStore
from tunesmith.azure.datastores import DEFAULT
from tunesmith.errors import TunesmithError
from tunesmith.pipelines.layout import read_json
from tunesmith.records.jobs import Job, Output

if TYPE_CHECKING:
    from tunesmith.workspace import Services

CAMEL = {
    "instance_count": "instanceCount",
    "instance_type": "instanceType",
    "shm_size": "shmSize",
    "docker_args": "dockerArgs",
    "max_instance_count": "maxInstanceCount",
}


def job_body(request: Request, services: Services, job: Job) -> dict[str, Any]:
    """A job as ARM has it."""
    properties: dict[str, Any] = {
        "jobType": "Command" if job.type == "command" else "Pipeline",
        "status": job.status.value,
        "displayName": job.display_name,
        "experimentName": job.experiment_name,
        "description": job.description,
        "tags": job.tags,
        "properties": job.properties,
        "isArchived": job.archived,
        "services": services_of(request, services, job),
        "inputs": {name: _input(request, value) for name, value in job.inputs.items() if value is not None},
        "outputs": {name: output_body(request, output) for name, output in job.outputs.items()},
    }
    compute = job.compute
    if compute not in ("local", "serverless", ""):
        properties["computeId"] = arm.resource_id(request, "computes", compute)
    if job.type == "command":
        properties.update(_command(request, services, job))
    else:
        properties["jobs"] = {name: _node(request, services, name, node) for name, node in _nodes(job).items()}
        properties["settings"] = _settings(job)
    return {
        "id": arm.resource_id(request, "jobs", job.name),
        "name": job.name,
        "type": "Microsoft.MachineLearningServices/workspaces/jobs",
        "properties": properties,
        "systemData": arm.system_data(job.created_at, job.ended_at or job.started_at),
    }


def services_of(request: Request, services: Services, job: Job) -> dict[str, Any]:
    """Where a job is looked at: the server's own page, and MLflow."""
    found: dict[str, Any] = {
        "Tracking": {
            "jobServiceType": "Tracking",
            "endpoint": f"{arm.api_url(request).replace('https://', 'azureml://')}/mlflow/v1.0{arm.workspace_id(request)}",
        }
    }
    server = read_json(services.paths.server_file)
    if isinstance(server, Mapping) and server.get("url"):
        # Clients put "&tid=…" after it.
        found["Studio"] = {"jobServiceType": "Studio", "endpoint": f"{server['url']}/?job={quote(job.name)}"}
    return found


def output_uri(request: Request, output: Output) -> str:
    """Where an output lies, as a path in the datastore."""
    _, _, rest = output.uri.partition("azureml://jobs/")
    job, _, name = rest.partition("/outputs/")
    named = arm.target(request)
    end = "" if output.type == "uri_file" else "/"
    return (
        f"azureml://subscriptions/{named.subscription}/resourcegroups/{named.resource_group}"
        f"/workspaces/{named.workspace}/datastores/{DEFAULT}/paths/jobs/{job}/{name}{end}"
    )


def output_body(request: Request, output: Output) -> dict[str, Any]:
    """An output of a job as ARM has it."""
    return {"jobOutputType": output.type, "mode": "ReadWriteMount", "uri": output_uri(request, output)}


def _input(request: Request, value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        if "value" in value:
            return {"jobInputType": "literal", "value": _text(value["value"])}
        uri = str(value.get("path", ""))
        return {
            "jobInputType": str(value.get("type") or "uri_folder"),
            "uri": _long(request, uri),
            "mode": "ReadOnlyMount",
        }
    return {"jobInputType": "literal", "value": _text(value)}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(value)


def _long(request: Request, uri: str) -> str:
    """A short reference of an asset on the workspace's shelf in ARM's long form, which clients can take apart."""
    if not uri.startswith("azureml:") or uri.startswith("azureml://"):
        return uri
    try:
        found = parse_reference(uri)
    except TunesmithError:
        return uri
    if isinstance(found, AssetReference) and found.registry is None and found.version is not None:
        return arm.resource_id(request, found.kind or "data", found.name, "versions", found.version)
    return uri


def _nodes(job: Job) -> dict[str, Any]:
    spec = job.spec
    if spec.get("jobs"):
        return dict(spec["jobs"])
    component = spec.get("component")
    if component is None:
        return {}
    name = component.rstrip("/").split("/")[-3] if isinstance(component, str) and "/" in component else "component"
    return {name: {"component": component, "inputs": job.inputs, "outputs": {}}}


def _node(request: Request, services: Services, name: str, node: Any) -> dict[str, Any]:
    body: dict[str, Any] = {"name": name, "type": "command", "inputs": {}, "outputs": {}}
    if not isinstance(node, Mapping):
        return body
    component = node.get("component")
    body["type"] = node.get("type") or _type_of(services, component)
    if isinstance(component, str):
        body["componentId"] = _component(request, component)
    else:
        body["componentId"] = arm.resource_id(request, "components", name, "versions", "inline")
    for key, value in (node.get("inputs") or {}).items():
        if isinstance(value, Mapping) and "value" not in value:
            body["inputs"][key] = {
                "job_input_type": str(value.get("type") or "uri_folder"),
                "uri": _long(request, str(value.get("path", ""))),
            }
        elif value is not None:
            given = value["value"] if isinstance(value, Mapping) else value
            body["inputs"][key] = {"job_input_type": "literal", "value": _text(given)}
    for key, value in (node.get("outputs") or {}).items():
        if isinstance(value, str):
            body["outputs"][key] = {"type": "literal", "value": value}
        elif isinstance(value, Mapping):
            body["outputs"][key] = {"job_output_type": str(value.get("type") or "uri_folder")}
    if node.get("compute"):
        compute = str(node["compute"]).removeprefix("azureml:")
        known = compute in ("local", "serverless") or "${{" in compute
        body["computeId"] = compute if known else arm.resource_id(request, "computes", compute)
    for key in ("environment_variables", "resources", "limits", "distribution", "display_name"):
        if node.get(key):
            body[key] = node[key]
    return body


def _type_of(services: Services, component: Any) -> str:
    """The type of a component, for a node that names none; a component that is gone counts as a command."""
    if isinstance(component, Mapping):
        return str(component.get("type") or ("pipeline" if "jobs" in component else "command"))
    try:
        return services.components.resolve(str(component)).type
    except TunesmithError:
        return "command"


def _component(request: Request, reference: str) -> str:
    try:
        found = parse_reference(reference, kind="components")
    except TunesmithError:
        return reference
    if isinstance(found, AssetReference) and found.registry is None and found.version is not None:
        return arm.resource_id(request, "components", found.name, "versions", found.version)
    return reference


def _settings(job: Job) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "force_rerun": job.settings.force_rerun,
        "continue_on_step_failure": job.settings.continue_on_step_failure,
        "_source": "DSL",
    }
    if job.settings.default_compute:
        settings["default_compute"] = job.settings.default_compute
    if job.settings.default_datastore:
        settings["default_datastore"] = job.settings.default_datastore
    return settings


def _command(request: Request, services: Services, job: Job) -> dict[str, Any]:
    spec = job.spec
    resources = {CAMEL.get(key, key): value for key, value in (spec.get("resources") or {}).items()}
    found: dict[str, Any] = {
        "command": spec.get("command") or "",
        "environmentVariables": spec.get("environment_variables") or {},
        "resources": {"instanceCount": 1, "properties": {}, **resources},
    }
    environment = spec.get("environment")
    if isinstance(environment, str):
        found["environmentId"] = _environment(request, environment)
    for key in ("distribution", "limits"):
        if spec.get(key):
            found[key] = spec[key]
    code = CodeStore(services).at(str(spec["code"])) if spec.get("code") else None
    if code is not None:
        found["codeId"] = arm.resource_id(request, "codes", code.name, "versions", code.version)
    return found


def _environment(request: Request, reference: str) -> str:
    try:
        found = parse_reference(reference, kind="environments")
    except TunesmithError:
        return reference
    if isinstance(found, AssetReference) and found.registry is None:
        by = ("versions", found.version) if found.version is not None else ("labels", found.label or "latest")
        return arm.resource_id(request, "environments", found.name, *by)
    return reference
