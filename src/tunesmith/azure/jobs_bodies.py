"""From Azure ML's job to ours: a pipeline job with its nodes, or a command job.

Every field is known and read, known and refused by name, or unknown and refused by name. What has no effect on one
machine (``distribution``, ``limits``, …) goes on to the job, which says so in its log.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tunesmith.azure.arm import refuse, short_reference
from tunesmith.azure.errors import NotImplementedHere
from tunesmith.errors import Fault, TunesmithError, ValidationFailed
from tunesmith.pipelines.values import did_you_mean
from tunesmith.records.jobs import JobSettings, SubmitJob

CodeFolder = Callable[..., Path]
"""The folder of a code asset: ``(reference, target=…)``."""

_COMMON = {
    "jobType", "displayName", "experimentName", "description", "tags", "properties", "isArchived", "computeId",
    "inputs", "outputs", "identity", "services", "componentId",
}  # fmt: skip
_READ_ONLY = {"status", "parentJobName", "parameters", "createdDateTime", "systemMetadata"}
_PIPELINE = _COMMON | {"jobs", "settings"}
_COMMAND = _COMMON | {
    "command", "codeId", "environmentId", "environmentVariables", "resources", "distribution", "limits",
}  # fmt: skip
_REFUSED = {
    "notificationSetting": "notifications by mail",
    "queueSettings": "the queues of serverless compute",
    "secretsConfiguration": "secrets of a key vault",
    "sourceJobId": "a job made of another job",
    "autologgerSettings": "settings of the autologger",
}
_NODE = {
    "type", "name", "componentId", "computeId", "inputs", "outputs", "_source", "environment_variables", "resources",
    "limits", "distribution", "display_name", "comment", "identity", "services", "properties", "tags", "description",
}  # fmt: skip
_SETTINGS = {"force_rerun", "continue_on_step_failure", "default_compute", "default_datastore", "_source"}
_NODE_TYPES = ("command", "pipeline")
_NOT_HERE = {"sweep", "parallel", "spark", "automl", "import", "if_else", "do_while", "parallel_for", "data_transfer"}
_RESOURCES = {
    "instanceCount": "instance_count",
    "instanceType": "instance_type",
    "shmSize": "shm_size",
    "dockerArgs": "docker_args",
    "maxInstanceCount": "max_instance_count",
    "properties": "properties",
    "locations": "locations",
}


class _Reader:
    def __init__(self) -> None:
        self.faults: list[Fault] = []

    def fault(self, target: str, message: str, way_out: str | None = None, code: str = "Invalid") -> None:
        self.faults.append(Fault(message, target, code, way_out))

    def known(self, body: Mapping[str, Any], known: set[str], place: str) -> None:
        for key, value in body.items():
            target = f"{place}.{key}" if place else str(key)
            if key in known or value is None:
                continue
            if key in _REFUSED:
                self.fault(target, f"{_REFUSED[key]} are not here", "leave it out", NotImplementedHere.code)
            else:
                hint = did_you_mean(str(key), known) or f"known: {', '.join(sorted(known))}"
                self.fault(target, f"unknown field {key!r}", hint, "UnknownField")

    def mapping(self, body: Mapping[str, Any], key: str, place: str) -> dict[str, Any]:
        value = body.get(key)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            self.fault(f"{place}.{key}" if place else key, "must be an object")
            return {}
        return dict(value)

    def texts(self, body: Mapping[str, Any], key: str, place: str = "") -> dict[str, str]:
        found: dict[str, str] = {}
        for name, value in self.mapping(body, key, place).items():
            if isinstance(value, Mapping | list):
                self.fault(f"{place}.{key}.{name}" if place else f"{key}.{name}", "must be text")
            elif value is not None:
                found[name] = str(value)
        return found

    def mount(self, entry: Mapping[str, Any], target: str) -> None:
        """Refuse what would show in the step: files always are at a path, and the path is ours."""
        if str(entry.get("mode") or "").lower() == "direct":
            message = "a step is given a path, never the URI itself"
            self.fault(f"{target}.mode", message, "leave it out, or mount or download", NotImplementedHere.code)
        if entry.get("pathOnCompute"):
            message = "where files lie in a step cannot be chosen"
            way_out = "leave it out; the command has the path in ${{inputs.NAME}} or ${{outputs.NAME}}"
            self.fault(f"{target}.pathOnCompute", message, way_out, NotImplementedHere.code)

    def inputs(self, body: Mapping[str, Any], place: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, entry in self.mapping(body, "inputs", place).items():
            target = f"{place}.inputs.{name}" if place else f"inputs.{name}"
            if entry is None:
                continue
            if not isinstance(entry, Mapping):
                self.fault(target, "must be an object with job_input_type and value or uri")
                continue
            kind = str(entry.get("jobInputType") or entry.get("job_input_type") or "literal").lower()
            self.known(
                entry,
                {"jobInputType", "job_input_type", "value", "uri", "mode", "description", "pathOnCompute", "type"},
                target,
            )
            self.mount(entry, target)
            if kind == "literal":
                if entry.get("value") is not None:
                    found[name] = entry["value"]
            elif not isinstance(entry.get("uri"), str) or not entry["uri"]:
                self.fault(f"{target}.uri", f"a {kind} needs one", code="Required")
            else:
                found[name] = {"type": kind, "path": short_reference(entry["uri"])}
        return found

    def outputs(self, body: Mapping[str, Any], place: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, entry in self.mapping(body, "outputs", place).items():
            target = f"{place}.outputs.{name}" if place else f"outputs.{name}"
            entry = {} if entry is None else entry
            if not isinstance(entry, Mapping):
                self.fault(target, "must be an object")
                continue
            self.known(
                entry,
                {"jobOutputType", "job_output_type", "type", "value", "uri", "mode", "description", "assetName",
                 "assetVersion", "pathOnCompute"},
                target,
            )  # fmt: skip
            self.mount(entry, target)
            if entry.get("assetName"):
                self.fault(
                    f"{target}.assetName",
                    "outputs are not registered by the job itself",
                    f"register it afterwards from azureml://jobs/JOB/outputs/{name}",
                    NotImplementedHere.code,
                )
            kind = str(entry.get("jobOutputType") or entry.get("job_output_type") or "uri_folder").lower()
            if isinstance(entry.get("value"), str):
                found[name] = entry["value"]
            else:
                found[name] = {"type": kind}
                if entry.get("uri") and not _own_place(str(entry["uri"])):
                    found[name]["path"] = str(entry["uri"])
        return found

    def resources(self, body: Mapping[str, Any], place: str) -> dict[str, Any]:
        given = self.mapping(body, "resources", place)
        self.known(given, {*_RESOURCES, *_RESOURCES.values()}, f"{place}.resources" if place else "resources")
        return {_RESOURCES.get(key, key): value for key, value in given.items() if value not in (None, {}, [])}

    def node(self, name: str, body: Any) -> dict[str, Any]:
        place = f"jobs.{name}"
        if not isinstance(body, Mapping):
            self.fault(place, "must be an object")
            return {}
        kind = str(body.get("type") or "command").lower()
        if kind in _NOT_HERE:
            message = f"nodes of the type {kind} are not here; command and pipeline components are"
            self.fault(f"{place}.type", message, code=NotImplementedHere.code)
            return {}
        if kind not in _NODE_TYPES:
            self.fault(f"{place}.type", f"{kind[:40]!r} is no type of a node", f"known: {', '.join(_NODE_TYPES)}")
            return {}
        self.known(body, _NODE, place)
        component = body.get("componentId")
        if not isinstance(component, str) or not component:
            self.fault(f"{place}.componentId", "is required", code="Required")
            return {}
        found: dict[str, Any] = {
            "type": kind,
            "component": short_reference(component),
            "inputs": self.inputs(body, place),
            "outputs": self.outputs(body, place),
        }
        if isinstance(body.get("computeId"), str) and body["computeId"]:
            found["compute"] = short_reference(body["computeId"])
        resources = self.resources(body, place)
        if resources:
            found["resources"] = resources
        for key in ("environment_variables", "tags", "properties"):
            texts = self.texts(body, key, place)
            if texts:
                found[key] = texts
        for key in ("limits", "distribution", "identity", "services"):
            given = self.mapping(body, key, place)
            if given:
                found[key] = given
        for key in ("display_name", "description", "comment"):
            if body.get(key):
                found[key] = str(body[key])
        return found


def read_job(name: str, properties: Any, *, code_folder: CodeFolder) -> SubmitJob:
    """The job in ``properties`` of a request.

    Raises:
        ValidationFailed: with every fault, by its field.
        NotImplementedHere: a kind of job that is not here.
    """
    if not isinstance(properties, Mapping):
        raise ValidationFailed("a job has properties", target="properties")
    kind = str(properties.get("jobType", ""))
    if kind not in ("Pipeline", "Command"):
        raise refuse(f"jobs of the type {kind[:40]!r} are not here; Pipeline and Command are", target="jobType")
    reader = _Reader()
    reader.known(properties, (_PIPELINE if kind == "Pipeline" else _COMMAND) | _READ_ONLY, "")
    fields: dict[str, Any] = {
        "type": kind.lower(),
        "name": name,
        "display_name": str(properties.get("displayName") or "") or None,
        "experiment_name": str(properties.get("experimentName") or "Default"),
        "description": str(properties.get("description") or ""),
        "tags": reader.texts(properties, "tags"),
        "properties": reader.texts(properties, "properties"),
        "inputs": reader.inputs(properties, ""),
        "outputs": reader.outputs(properties, ""),
        "identity": reader.mapping(properties, "identity", ""),
        "services": {
            key: value
            for key, value in reader.mapping(properties, "services", "").items()
            if key not in ("Studio", "Tracking")  # those are ours, sent back
        },
    }
    if properties.get("computeId"):
        fields["compute"] = short_reference(str(properties["computeId"]))
    if properties.get("componentId"):
        fields["component"] = short_reference(str(properties["componentId"]))
    if kind == "Pipeline":
        nodes = reader.mapping(properties, "jobs", "")
        fields["jobs"] = {key: reader.node(key, body) for key, body in nodes.items()}
        fields["settings"] = _settings(reader, properties)
    else:
        fields.update(_command(reader, properties, code_folder))
    if reader.faults:
        count = "1 fault" if len(reader.faults) == 1 else f"{len(reader.faults)} faults"
        raise ValidationFailed(f"the job has {count}; nothing was started", details=reader.faults)
    return SubmitJob(**fields)


def _settings(reader: _Reader, properties: Mapping[str, Any]) -> JobSettings:
    given = reader.mapping(properties, "settings", "")
    reader.known(given, _SETTINGS, "settings")
    found: dict[str, Any] = {}
    for key in ("force_rerun", "continue_on_step_failure"):
        value = given.get(key)
        if isinstance(value, bool):
            found[key] = value
        elif value is not None:
            reader.fault(f"settings.{key}", "must be true or false")
    for key in ("default_compute", "default_datastore"):
        if given.get(key):
            found[key] = short_reference(str(given[key])).removeprefix("azureml:")
    return JobSettings(**found)


def _command(reader: _Reader, properties: Mapping[str, Any], code_folder: CodeFolder) -> dict[str, Any]:
    found: dict[str, Any] = {
        "command": str(properties.get("command") or ""),
        "environment_variables": reader.texts(properties, "environmentVariables"),
        "resources": reader.resources(properties, ""),
        "distribution": reader.mapping(properties, "distribution", ""),
        "limits": reader.mapping(properties, "limits", ""),
        # A command job always runs; only steps of pipelines are taken over from earlier runs.
        "settings": JobSettings(force_rerun=True),
    }
    if not found["command"].strip():
        reader.fault("command", "is required", code="Required")
    if properties.get("environmentId"):
        found["environment"] = short_reference(str(properties["environmentId"]))
    if properties.get("codeId"):
        try:
            found["code"] = str(code_folder(str(properties["codeId"]), target="codeId"))
        except TunesmithError as error:
            reader.fault("codeId", error.message, error.way_out, error.code)
    return found


def _own_place(uri: str) -> bool:
    """Whether a URI is where outputs lie anyway: a job that is sent back has it."""
    return "/paths/jobs/" in uri
