"""A deployment in Azure's form, and back.

A deployment here is a model without code: the engine of this machine serves it. What only an image or a script of
one's own could do (``environmentId``, ``codeConfiguration``, …) is refused by its field's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field
from starlette.requests import Request

from tunesmith.assets.references import parse_asset
from tunesmith.azure import arm
from tunesmith.azure.durations import read_duration, write_duration
from tunesmith.azure.hosts import LOCATION
from tunesmith.errors import ValidationFailed
from tunesmith.records.assets import WORKSPACE
from tunesmith.records.endpoints import CreateDeployment, Deployment, ProbeSettings, RequestSettings

NOTICES = "tunesmith.notices"
"""The property of an answer that says what is different from what was asked."""
APP_INSIGHTS = "azureml.appInsightsEnabled"
"""The property that remembers that the deployment asked for Application Insights."""
NO_APP_INSIGHTS = "Nothing is sent to Application Insights; get_logs has the instances' log."

_WITHOUT_CODE = "a deployment here is an MLflow model without code, served by the engine of this machine"
_REFUSED = {
    "environment_id": f"an environment cannot be chosen: {_WITHOUT_CODE}",
    "code_configuration": f"a scoring script is not run: {_WITHOUT_CODE}",
    "model_mount_path": f"there is no container to mount the model in: {_WITHOUT_CODE}",
    "data_collector": "Azure's data collector is not here; a deployment's own collects conversations with it",
    "startup_probe": "there is no startup probe; an instance is ready when the readiness probe says so",
    "private_network_connection": "there are no private networks here",
}
_WAY_OUT = {
    "environment_id": "leave environment out and deploy the registered model itself",
    "code_configuration": "leave code_configuration out and deploy the registered model itself",
}


class Sku(arm.ArmBody):
    """How many instances."""

    name: str = "Default"
    capacity: int | None = Field(default=None, ge=0)
    tier: str | None = None
    size: str | None = None
    family: str | None = None


class Probe(arm.ArmBody):
    """A probe; times are durations."""

    initial_delay: str | None = None
    period: str | None = None
    timeout: str | None = None
    success_threshold: int | None = None
    failure_threshold: int | None = None


class Requests(arm.ArmBody):
    """Limits for requests; times are durations."""

    request_timeout: str | None = None
    max_queue_wait: str | None = None
    max_concurrent_requests_per_instance: int | None = None


class Scale(arm.ArmBody):
    """How the number of instances is chosen. The fields of other types than Default are taken, to refuse the type."""

    scale_type: str = "Default"
    min_instances: int | None = None
    max_instances: int | None = None
    polling_interval: str | None = None
    target_utilization_percentage: int | None = None


class DeploymentProperties(arm.ArmBody):
    """``properties`` of a deployment."""

    endpoint_compute_type: str = "Managed"
    model: str
    instance_type: str = "local"
    description: str = ""
    properties: dict[str, str] = Field(default_factory=dict)
    environment_variables: dict[str, str] = Field(default_factory=dict)
    request_settings: Requests | None = None
    liveness_probe: Probe | None = None
    readiness_probe: Probe | None = None
    scale_settings: Scale | None = None
    app_insights_enabled: bool = False
    egress_public_network_access: Literal["Enabled", "Disabled", "enabled", "disabled"] = "Enabled"
    environment_id: Any = None
    code_configuration: Any = None
    model_mount_path: Any = None
    data_collector: Any = None
    startup_probe: Any = None
    private_network_connection: Any = None
    provisioning_state: str | None = None
    """Read only: a client that changes a deployment sends it back."""


class DeploymentBody(arm.ArmResource):
    """A deployment as it is sent. What is in no field of ours is read only, or only says where Azure keeps it."""

    properties: DeploymentProperties
    sku: Sku | None = None
    tags: dict[str, str] = Field(default_factory=dict)
    location: str | None = None
    identity: Any = None
    kind: str | None = None


def wanted_deployment(endpoint: str, name: str, data: Mapping[str, Any]) -> CreateDeployment:
    """What the body ``data`` asks for. What it leaves out is at this workspace's defaults.

    Raises:
        ValidationFailed: fields are faulty.
        NotImplementedHere: it asks for what only Azure has; the field is named.
    """
    body = arm.read_body(DeploymentBody, data, what="deployment")
    asked = body.properties
    arm.check_identity(body.identity)
    _refuse(asked)
    counted: dict[str, Any] = {}
    if body.sku is not None and body.sku.capacity is not None:
        counted["instance_count"] = body.sku.capacity
    return CreateDeployment(
        name=name,
        endpoint=endpoint,
        model=arm.short_reference(asked.model),
        instance_type=asked.instance_type,
        request_settings=_request_settings(asked.request_settings),
        liveness_probe=_probe(asked.liveness_probe, "properties.livenessProbe"),
        readiness_probe=_probe(asked.readiness_probe, "properties.readinessProbe"),
        environment_variables=asked.environment_variables,
        description=asked.description,
        tags=body.tags,
        properties={
            **{key: value for key, value in asked.properties.items() if key not in (NOTICES, APP_INSIGHTS)},
            **({APP_INSIGHTS: "true"} if asked.app_insights_enabled else {}),
        },
        **counted,
    )


def deployment_body(request: Request, record: Deployment) -> dict[str, Any]:
    """A deployment as Azure has it. What differs from what was asked is in the property ``tunesmith.notices``."""
    app_insights = record.properties.get(APP_INSIGHTS) == "true"
    notices = [*record.notices, *([NO_APP_INSIGHTS] if app_insights else [])]
    properties = {key: value for key, value in record.properties.items() if key != APP_INSIGHTS}
    if notices:
        properties[NOTICES] = " ".join(notices)
    return {
        "id": arm.resource_id(request, "onlineEndpoints", record.endpoint, "deployments", record.name),
        "name": record.name,
        "type": "Microsoft.MachineLearningServices/workspaces/onlineEndpoints/deployments",
        "location": LOCATION,
        "kind": "Managed",
        "tags": record.tags,
        "sku": {"name": "Default", "capacity": record.instance_count},
        "properties": {
            "endpointComputeType": "Managed",
            "model": _model_id(request, record.model),
            "instanceType": record.instance_type,
            "description": record.description,
            "properties": properties,
            "environmentVariables": record.environment_variables,
            "requestSettings": {
                "requestTimeout": write_duration(record.request_settings.request_timeout_ms / 1000),
                "maxQueueWait": write_duration(record.request_settings.max_queue_wait_ms / 1000),
                "maxConcurrentRequestsPerInstance": record.request_settings.max_concurrent_requests_per_instance,
            },
            "livenessProbe": _probe_body(record.liveness_probe),
            "readinessProbe": _probe_body(record.readiness_probe),
            "scaleSettings": {"scaleType": "Default"},
            "appInsightsEnabled": app_insights,
            "egressPublicNetworkAccess": "Enabled",
            "provisioningState": record.provisioning_state,
        },
        "systemData": arm.system_data(record.created_at),
    }


def _refuse(asked: DeploymentProperties) -> None:
    for field, why in _REFUSED.items():
        if getattr(asked, field) is not None:
            wire = DeploymentProperties.model_fields[field].alias
            raise arm.refuse(why, target=f"properties.{wire}", way_out=_WAY_OUT.get(field, "leave it out"))
    if asked.endpoint_compute_type != "Managed":
        raise arm.refuse(
            f"deployments of the type {asked.endpoint_compute_type[:40]!r} are not served here",
            target="properties.endpointComputeType",
            way_out="use ManagedOnlineDeployment",
        )
    if asked.scale_settings is not None and asked.scale_settings.scale_type != "Default":
        raise arm.refuse(
            f"scaling of the type {asked.scale_settings.scale_type[:40]!r} is not here",
            target="properties.scaleSettings.scaleType",
            way_out="leave scale_settings out; the number of instances is instance_count",
        )
    if asked.egress_public_network_access.lower() == "disabled":
        raise arm.refuse(
            "an instance's way to the network is the machine's",
            target="properties.egressPublicNetworkAccess",
            way_out="leave it out; an instance needs no network, and opens no connection",
        )


def _request_settings(asked: Requests | None) -> RequestSettings:
    given: dict[str, Any] = {}
    if asked is not None:
        for field, text in (("request_timeout", asked.request_timeout), ("max_queue_wait", asked.max_queue_wait)):
            if text is not None:
                wire = Requests.model_fields[field].alias
                given[f"{field}_ms"] = round(1000 * read_duration(text, f"properties.requestSettings.{wire}"))
        if asked.max_concurrent_requests_per_instance is not None:
            given["max_concurrent_requests_per_instance"] = asked.max_concurrent_requests_per_instance
    return arm.read_body(RequestSettings, given, what="deployment's requestSettings")


def _probe(asked: Probe | None, place: str) -> ProbeSettings:
    given: dict[str, Any] = {}
    if asked is not None:
        for field, value in asked.model_dump(exclude_none=True).items():
            target = f"{place}.{Probe.model_fields[field].alias}"
            given[field] = _whole_seconds(value, target) if isinstance(value, str) else value
    return arm.read_body(ProbeSettings, given, what="deployment's probe")


def _whole_seconds(text: str, target: str) -> int:
    seconds = read_duration(text, target)
    if seconds != int(seconds):
        raise ValidationFailed(f"{text!r} is not a number of whole seconds", target=target)
    return int(seconds)


def _probe_body(probe: ProbeSettings) -> dict[str, Any]:
    return {
        "initialDelay": write_duration(probe.initial_delay),
        "period": write_duration(probe.period),
        "timeout": write_duration(probe.timeout),
        "successThreshold": probe.success_threshold,
        "failureThreshold": probe.failure_threshold,
    }


def _model_id(request: Request, reference: str) -> str:
    """The model's id as Azure writes it: by ARM on the workspace's shelf, ``azureml://`` in a registry."""
    found = parse_asset(reference, kind="models")
    if found.registry is not None and found.registry != WORKSPACE:
        return reference
    return arm.resource_id(request, "models", found.name, "versions", found.version or "")
