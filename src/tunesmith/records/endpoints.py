"""Online endpoints and deployments."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

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

    description: str | None = None
    tags: dict[str, str] | None = None
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
    """auto or transformers."""
    precision: str = "auto"
    """auto, 32, bf16 or 16."""
    request_settings: RequestSettings = Field(default_factory=RequestSettings)
    liveness_probe: ProbeSettings = Field(default_factory=ProbeSettings)
    readiness_probe: ProbeSettings = Field(default_factory=ProbeSettings)
    environment_variables: dict[str, str] = Field(default_factory=dict)
    description: str = ""
    tags: dict[str, str] = Field(default_factory=dict)
    properties: dict[str, str] = Field(default_factory=dict)


class UpdateDeployment(Request):
    """The parts to change."""

    model: str | None = None
    instance_count: int | None = Field(default=None, ge=0)
    request_settings: RequestSettings | None = None
    liveness_probe: ProbeSettings | None = None
    readiness_probe: ProbeSettings | None = None
    environment_variables: dict[str, str] | None = None
    tags: dict[str, str] | None = None
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
    error: dict[str, Any] | None = None


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
    created_at: datetime
