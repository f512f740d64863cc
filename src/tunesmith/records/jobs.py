"""Jobs and their steps."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from tunesmith.records.base import Record, Request


class JobStatus(StrEnum):
    """Azure ML's states of a job or a step."""

    NOT_STARTED = "NotStarted"
    STARTING = "Starting"
    PROVISIONING = "Provisioning"
    PREPARING = "Preparing"
    QUEUED = "Queued"
    RUNNING = "Running"
    FINALIZING = "Finalizing"
    CANCEL_REQUESTED = "CancelRequested"
    COMPLETED = "Completed"
    FAILED = "Failed"
    CANCELED = "Canceled"
    NOT_RESPONDING = "NotResponding"
    PAUSED = "Paused"

    @property
    def terminal(self) -> bool:
        """Whether nothing more will happen."""
        return self in {JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELED}


class JobSettings(Request):
    """Settings of a pipeline job."""

    force_rerun: bool = False
    continue_on_step_failure: bool = True
    default_compute: str | None = None
    default_datastore: str | None = None


class SubmitJob(Request):
    """A job in Azure ML's job schema, as YAML or JSON.

    ``inputs`` of a job or a node are literals, or mappings ``{"type": "uri_file", "path": …}``. Expressions
    (``${{parent.inputs.x}}``) are allowed where Azure ML allows them.
    """

    type: Literal["pipeline", "command"] = "pipeline"
    name: str | None = None
    display_name: str | None = None
    experiment_name: str = "Default"
    description: str = ""
    tags: dict[str, str] = Field(default_factory=dict)
    properties: dict[str, str] = Field(default_factory=dict)
    compute: str | None = None
    settings: JobSettings = Field(default_factory=JobSettings)
    inputs: dict[str, Any] = Field(default_factory=dict)
    outputs: dict[str, Any] = Field(default_factory=dict)
    jobs: dict[str, Any] = Field(default_factory=dict)
    """Nodes of a pipeline job: ``{"component": ref or inline spec, "inputs": …, "outputs": …, "compute": …}``."""
    component: str | dict[str, Any] | None = None
    """A whole job made of one component; the short way for the system pipeline."""
    command: str | None = None
    code: str | None = None
    environment: str | dict[str, Any] | None = None
    environment_variables: dict[str, str] = Field(default_factory=dict)
    resources: dict[str, Any] = Field(default_factory=dict)
    """Of a command: ``instance_type``, ``instance_count``, …"""
    distribution: dict[str, Any] = Field(default_factory=dict)
    """Without effect here, as the three after it; the job says why."""
    limits: dict[str, Any] = Field(default_factory=dict)
    identity: dict[str, Any] = Field(default_factory=dict)
    services: dict[str, Any] = Field(default_factory=dict)
    base_path: str | None = None
    """The folder that relative paths start from; the caller's working directory."""


class UpdateJob(Request):
    """The parts of a job that may change. Tags and properties are added to those that are there."""

    display_name: str | None = None
    description: str | None = None
    tags: dict[str, str] | None = None
    properties: dict[str, str] | None = None
    archived: bool | None = None


class Output(Record):
    """A named result of a job or step."""

    type: str
    uri: str
    """azureml://jobs/J/outputs/O."""
    path: str | None = None
    """On this machine, once there."""


class Notice(Record):
    """Something dropped, cut, waived or different from what was asked, with its count."""

    code: str
    message: str
    level: Literal["info", "warning"] = "warning"
    count: int | None = None
    step: str | None = None


class Progress(Record):
    """The last progress event of a step."""

    phase: str
    done: float
    total: float | None = None
    unit: str = ""
    values: dict[str, Any] = Field(default_factory=dict)


class Step(Record):
    """One step of a job."""

    name: str
    """Path in the graph, such as ``chat_completion_pipeline/chat_completion_finetune``."""
    component: str = ""
    status: JobStatus = JobStatus.NOT_STARTED
    started_at: datetime | None = None
    ended_at: datetime | None = None
    attempt: int = 0
    reused_from: str | None = None
    """``job/step`` whose outputs were taken, if any."""
    outputs: dict[str, Output] = Field(default_factory=dict)
    progress: Progress | None = None
    error: dict[str, Any] | None = None
    log: str | None = None
    """Path of its log relative to the job's folder."""


class Job(Record):
    """A run of a pipeline or a command."""

    name: str
    display_name: str
    experiment_name: str
    type: Literal["pipeline", "command"]
    status: JobStatus
    description: str = ""
    tags: dict[str, str] = Field(default_factory=dict)
    properties: dict[str, str] = Field(default_factory=dict)
    archived: bool = False
    """Whether Azure ML's lists of active jobs leave it out."""
    compute: str = "local"
    inputs: dict[str, Any] = Field(default_factory=dict)
    outputs: dict[str, Output] = Field(default_factory=dict)
    steps: list[Step] = Field(default_factory=list)
    settings: JobSettings = Field(default_factory=JobSettings)
    notices: list[Notice] = Field(default_factory=list)
    error: dict[str, Any] | None = None
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    mlflow_run_id: str | None = None
    spec: dict[str, Any] = Field(default_factory=dict)
    """The job as submitted."""


class Part(Record):
    """One named part of a step's content key."""

    name: str
    """component, code, input:train_file_path, parameter:learning_rate, …"""
    sha256: str
    value: str | None = None
    """Human-readable value, where short."""


class StepExplanation(Record):
    """Why a step ran or was reused."""

    step: str
    reused: bool
    reused_from: str | None = None
    reason: str
    changed: list[str] = Field(default_factory=list)
    """Lines such as ``input:train_file_path changed (9f2c… → 77aa…)`` against the closest earlier run."""
    parts: list[Part] = Field(default_factory=list)


class LossDifference(Record):
    """The first value in which two runs differ; ``None`` where one of them has no value there."""

    job_step: str
    key: str
    step: int
    """Optimiser step, from 1."""
    before: float | None = None
    after: float | None = None


class Comparison(Record):
    """Two runs of one job, loss by loss."""

    before: str
    after: str
    equal: bool
    """Whether every loss, and the weights where they are told, are equal to the last bit."""
    values: int
    """Losses that both runs have."""
    steps: int
    """The last optimiser step that both runs have."""
    first: LossDifference | None = None
    weights_equal: bool | None = None
    """``None`` where the runs do not tell their weights' hash."""
    changed: list[str] = Field(default_factory=list)
    """What is recorded to differ between the runs: versions, code, inputs, precision, threads; one line each."""


class MetricPoint(Record):
    """One value of one metric."""

    key: str
    step: int
    value: float
    time: float
    """Unix seconds."""
    job_step: str | None = None
