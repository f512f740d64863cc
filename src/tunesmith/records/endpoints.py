"""Online endpoints and deployments."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, Literal

from pydantic import Field, field_validator

from tunesmith.records.base import Record, Request

ProvisioningState = Literal["Creating", "Updating", "Succeeded", "Failed", "Deleting", "Canceled"]


class ProbeSettings(Request):
    """Azure ML's probe fields. Times in seconds."""

    initial_delay: int = Field(default=10, ge=0)
    period: int = Field(default=10, ge=1)
    timeout: int = Field(default=2, ge=1)
    success_threshold: int = Field(default=1, ge=1)
    failure_threshold: int = Field(default=30, ge=1)


class RequestSettings(Request):
    """Limits of one deployment."""

    request_timeout_ms: int = Field(default=180_000, ge=1, le=180_000)
    max_concurrent_requests_per_instance: int = Field(default=8, ge=1)
    max_queue_wait_ms: int = Field(default=60_000, ge=0)


class Autoscale(Request):
    """Let the number of instances follow the load.

    Wanted are as many instances as leave no more than ``target_queue_length`` requests waiting for each of them. More
    are started at once; fewer are kept once fewer have sufficed for ``cool_down_s``.
    """

    min_instances: int = Field(default=1, ge=1, le=100)
    max_instances: int = Field(ge=1, le=100)
    target_queue_length: int = Field(default=2, ge=0, le=10_000)
    """Requests that may wait for each instance before another one is started."""
    cool_down_s: int = Field(default=300, ge=0, le=86_400)
    """Seconds for which fewer instances must have sufficed before one goes."""


Redactable = Literal["email", "phone", "number"]
"""Kinds of text that can be taken out of collected conversations without a pattern of one's own."""


class DataCollector(Request):
    """Keep a share of the conversations that a deployment answers. Off unless ``enabled``."""

    enabled: bool = False
    sampling_rate: float = Field(default=1.0, ge=0.0, le=1.0)
    """Share of the requests that is kept, drawn at random."""
    redact: tuple[Redactable, ...] = ("email", "phone", "number")
    """What is taken out before anything is written."""
    redact_patterns: tuple[str, ...] = Field(default=(), max_length=20)
    """Regular expressions (Python's) whose matches are taken out as well."""
    max_mb: int = Field(default=1024, ge=1)
    """Space for what is kept; beyond it the oldest goes."""

    @field_validator("redact_patterns")
    @classmethod
    def _compiles(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            if len(pattern) > 500:
                raise ValueError(f"a pattern has at most 500 characters, not {len(pattern)}")
            try:
                empty = re.compile(pattern).match("")
            except re.error as error:
                raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
            if empty:
                raise ValueError(f"{pattern!r} matches the empty text, so it would match everywhere")
        return patterns


class CreateEndpoint(Request):
    """Create or update an endpoint."""

    name: str
    auth_mode: Literal["key", "aml_token"] = "key"
    description: str = ""
    tags: dict[str, str] = Field(default_factory=dict)
    properties: dict[str, str] = Field(default_factory=dict)
    traffic: dict[str, int] | None = None
    mirror_traffic: dict[str, int] | None = None


class UpdateEndpoint(Request):
    """The parts to change; ``None`` leaves a part as it is."""

    auth_mode: Literal["key", "aml_token"] | None = None
    description: str | None = None
    tags: dict[str, str] | None = None
    properties: dict[str, str] | None = None
    traffic: dict[str, int] | None = None
    mirror_traffic: dict[str, int] | None = None


class Endpoint(Record):
    """A stable URL with keys and a traffic split."""

    name: str
    auth_mode: str
    description: str = ""
    tags: dict[str, str] = Field(default_factory=dict)
    properties: dict[str, str] = Field(default_factory=dict)
    traffic: dict[str, int] = Field(default_factory=dict)
    mirror_traffic: dict[str, int] = Field(default_factory=dict)
    provisioning_state: ProvisioningState
    deployments: list[str] = Field(default_factory=list)
    scoring_uri: str = ""
    """POST here with Azure's ``/score`` payloads."""
    openai_uri: str = ""
    """``base_url`` for an OpenAI client."""
    created_at: datetime


class EndpointKeys(Record):
    """The two keys of an endpoint; either opens it."""

    primary_key: str
    secondary_key: str


class EndpointToken(Record):
    """A short-lived access token of an endpoint whose ``auth_mode`` is ``aml_token``."""

    access_token: str
    expiry_time_utc: int
    """Unix seconds."""
    refresh_after_time_utc: int
    """Unix seconds; a client asks for the next one from then on."""


class CreateDeployment(Request):
    """Create or update a deployment."""

    name: str
    endpoint: str
    model: str
    """Reference of a model version."""
    instance_count: int = Field(default=1, ge=0)
    instance_type: str = "local"
    engine: str = "auto"
    """auto, openvino, transformers or vllm."""
    precision: str = "auto"
    """auto, 32, bf16, 16, or 8 for int8 weights."""
    request_settings: RequestSettings = Field(default_factory=RequestSettings)
    liveness_probe: ProbeSettings = Field(default_factory=ProbeSettings)
    readiness_probe: ProbeSettings = Field(default_factory=ProbeSettings)
    environment_variables: dict[str, str] = Field(default_factory=dict)
    autoscale: Autoscale | None = None
    """With it, ``instance_count`` is what the load asks for now."""
    data_collector: DataCollector = Field(default_factory=DataCollector)
    adapters: dict[str, str] = Field(default_factory=dict)
    """LoRA adapters over the model, served beside it: the name that callers give as ``model``, and a reference of the
    adapter's model version, job output or folder."""
    description: str = ""
    tags: dict[str, str] = Field(default_factory=dict)
    properties: dict[str, str] = Field(default_factory=dict)


class UpdateDeployment(Request):
    """The parts to change."""

    model: str | None = None
    instance_count: int | None = Field(default=None, ge=0)
    engine: str | None = None
    precision: str | None = None
    request_settings: RequestSettings | None = None
    liveness_probe: ProbeSettings | None = None
    readiness_probe: ProbeSettings | None = None
    environment_variables: dict[str, str] | None = None
    autoscale: Autoscale | Literal["off"] | None = None
    """``off`` keeps the number of instances as it is from now on."""
    data_collector: DataCollector | None = None
    adapters: dict[str, str] | None = None
    tags: dict[str, str] | None = None
    properties: dict[str, str] | None = None
    description: str | None = None


class Phase(Record):
    """One phase of bringing up an instance: copy, load, warm-up, contract check, ready."""

    name: str
    seconds: float | None = None
    """How long it took; ``None`` while it goes on."""


class Instance(Record):
    """One process that serves a deployment."""

    id: str
    state: Literal["Starting", "Ready", "Failing", "Stopping", "Stopped", "Failed"]
    pid: int | None = None
    port: int | None = None
    phases: list[Phase] = Field(default_factory=list)
    restarts: int = 0
    in_flight: int = 0
    engine: dict[str, Any] | None = None
    """What was opened and why so: engine, precision, reason, threads, context length, details; once it is loaded."""
    error: dict[str, Any] | None = None


class ScaleEvent(Record):
    """One change of the number of instances by ``autoscale``."""

    time: datetime
    from_instances: int
    to_instances: int
    reason: str


class Deployment(Record):
    """A model version served by N instances behind an endpoint."""

    name: str
    endpoint: str
    model: str
    instance_count: int
    instance_type: str
    engine: str
    precision: str
    request_settings: RequestSettings
    liveness_probe: ProbeSettings
    readiness_probe: ProbeSettings
    environment_variables: dict[str, str] = Field(default_factory=dict)
    autoscale: Autoscale | None = None
    data_collector: DataCollector = Field(default_factory=DataCollector)
    adapters: dict[str, str] = Field(default_factory=dict)
    description: str = ""
    tags: dict[str, str] = Field(default_factory=dict)
    properties: dict[str, str] = Field(default_factory=dict)
    provisioning_state: ProvisioningState
    ready_instances: int = 0
    instances: list[Instance] = Field(default_factory=list)
    error: dict[str, Any] | None = None
    log_tail: list[str] = Field(default_factory=list)
    """The last lines of a failed instance's log."""
    notices: list[str] = Field(default_factory=list)
    """Such as the difference between the instance type asked for and this machine."""
    scale_events: list[ScaleEvent] = Field(default_factory=list)
    """The last changes that ``autoscale`` made, the newest last."""
    created_at: datetime
