"""The tables, as SQLAlchemy sees them.

Portable between SQLite and PostgreSQL: times are UTC, structured parts are JSON, nothing relies on a dialect. What
changes here needs a migration in ``migrations/versions``; a test compares the two.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    ForeignKeyConstraint,
    Index,
    MetaData,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

from tunesmith.records.base import utcnow

Json = dict[str, Any]


class UtcDateTime(TypeDecorator[datetime]):
    """An aware time; kept in UTC, and aware again when read (SQLite forgets the zone)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To UTC."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without its zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:
        """Aware, in UTC."""
        if value is None:
            return None
        aware: datetime = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
        return aware


class Table(DeclarativeBase):
    """Base of every table."""

    # Named, because a later migration can only change a constraint that has a name.
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012  (SQLAlchemy reads it as a class attribute)
        dict[str, Any]: JSON(none_as_null=True),
        list[Any]: JSON(none_as_null=True),
        datetime: UtcDateTime,
        str: String(255),
    }


class AssetRow(Table):
    """One version of a model, data asset, component or environment on the workspace's shelf."""

    __tablename__ = "asset_versions"
    __table_args__ = (UniqueConstraint("kind", "name", "version"), Index(None, "kind", "name"))

    id: Mapped[int] = mapped_column(primary_key=True)
    """Grows with each registration: the newest version has the largest."""
    kind: Mapped[str] = mapped_column(String(16))
    name: Mapped[str]
    version: Mapped[str] = mapped_column(String(100))
    description: Mapped[str] = mapped_column(Text, default="")
    tags: Mapped[Json] = mapped_column(default=dict)
    properties: Mapped[Json] = mapped_column(default=dict)
    archived: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    uri: Mapped[str | None] = mapped_column(Text)
    """Where its files are in the artifact store, if it has any."""
    sha256: Mapped[str | None] = mapped_column(String(64))
    size_bytes: Mapped[int | None] = mapped_column(BigInteger)
    body: Mapped[Json] = mapped_column(default=dict)
    """The fields that only this kind has."""


class AssetNameRow(Table):
    """A name on the shelf, with the last whole number given out as a version."""

    __tablename__ = "asset_names"

    kind: Mapped[str] = mapped_column(String(16), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    last_number: Mapped[int] = mapped_column(default=0)


class AssetLabelRow(Table):
    """A label that points at a version. ``latest`` is not kept: it is the newest that is not archived."""

    __tablename__ = "asset_labels"

    kind: Mapped[str] = mapped_column(String(16), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    label: Mapped[str] = mapped_column(String(64), primary_key=True)
    version: Mapped[str] = mapped_column(String(100))


class ComputeRow(Table):
    """A named compute."""

    __tablename__ = "computes"

    name: Mapped[str] = mapped_column(String(24), primary_key=True)
    type: Mapped[str] = mapped_column(String(16))
    size: Mapped[str] = mapped_column(String(64))
    min_instances: Mapped[int]
    max_instances: Mapped[int]
    idle_time_before_scale_down: Mapped[int]
    tier: Mapped[str] = mapped_column(String(16))
    description: Mapped[str] = mapped_column(Text, default="")
    tags: Mapped[Json] = mapped_column(default=dict)
    created_at: Mapped[datetime] = mapped_column(default=utcnow)


class JobRow(Table):
    """A job: what was asked, and how it stands."""

    __tablename__ = "jobs"
    __table_args__ = (Index(None, "created_at"), Index(None, "status"))

    name: Mapped[str] = mapped_column(primary_key=True)
    type: Mapped[str] = mapped_column(String(16))
    display_name: Mapped[str]
    experiment_name: Mapped[str]
    status: Mapped[str] = mapped_column(String(20))
    description: Mapped[str] = mapped_column(Text, default="")
    tags: Mapped[Json] = mapped_column(default=dict)
    properties: Mapped[Json] = mapped_column(default=dict)
    compute: Mapped[str] = mapped_column(default="local")
    settings: Mapped[Json] = mapped_column(default=dict)
    inputs: Mapped[Json] = mapped_column(default=dict)
    outputs: Mapped[Json] = mapped_column(default=dict)
    notices: Mapped[list[Any]] = mapped_column(default=list)
    error: Mapped[Json | None]
    spec: Mapped[Json] = mapped_column(default=dict)
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    mlflow_run_id: Mapped[str | None] = mapped_column(String(64))
    runner_pid: Mapped[int | None]
    runner_started: Mapped[float | None]
    """The runner's start time in Unix seconds, so that a pid that was given out again is not taken for it."""
    events_offset: Mapped[int] = mapped_column(BigInteger, default=0)
    """Bytes of ``events.jsonl`` that are in this row already."""
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    deleting: Mapped[bool] = mapped_column(default=False)


class JobStepRow(Table):
    """One step of a job."""

    __tablename__ = "job_steps"
    __table_args__ = (ForeignKeyConstraint(["job"], ["jobs.name"], ondelete="CASCADE"),)

    job: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int]
    component: Mapped[str] = mapped_column(Text, default="")
    status: Mapped[str] = mapped_column(String(20))
    attempt: Mapped[int] = mapped_column(default=0)
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    reused_from: Mapped[str | None] = mapped_column(Text)
    outputs: Mapped[Json] = mapped_column(default=dict)
    progress: Mapped[Json | None]
    error: Mapped[Json | None]
    log: Mapped[str | None] = mapped_column(Text)
    explanation: Mapped[Json | None]
    """Why it ran or was reused: named parts of its content key."""
    events_offset: Mapped[int] = mapped_column(BigInteger, default=0)
    """Bytes of the step's ``events.jsonl`` that are in this row already."""


class EndpointRow(Table):
    """An online endpoint: what is wanted."""

    __tablename__ = "endpoints"

    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    auth_mode: Mapped[str] = mapped_column(String(16))
    description: Mapped[str] = mapped_column(Text, default="")
    tags: Mapped[Json] = mapped_column(default=dict)
    properties: Mapped[Json] = mapped_column(default=dict)
    traffic: Mapped[Json] = mapped_column(default=dict)
    mirror_traffic: Mapped[Json] = mapped_column(default=dict)
    provisioning_state: Mapped[str] = mapped_column(String(16))
    primary_key: Mapped[str] = mapped_column(Text)
    """Sealed by ``Secrets.encrypt``."""
    secondary_key: Mapped[str] = mapped_column(Text)
    """Sealed by ``Secrets.encrypt``."""
    created_at: Mapped[datetime] = mapped_column(default=utcnow)


class DeploymentRow(Table):
    """A deployment: what is wanted, and the last that was seen."""

    __tablename__ = "deployments"
    __table_args__ = (ForeignKeyConstraint(["endpoint"], ["endpoints.name"], ondelete="CASCADE"),)

    endpoint: Mapped[str] = mapped_column(String(32), primary_key=True)
    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    model: Mapped[str] = mapped_column(Text)
    """The resolved reference of the model version."""
    instance_count: Mapped[int]
    instance_type: Mapped[str] = mapped_column(String(64))
    engine: Mapped[str] = mapped_column(String(32))
    precision: Mapped[str] = mapped_column(String(16))
    request_settings: Mapped[Json]
    liveness_probe: Mapped[Json]
    readiness_probe: Mapped[Json]
    environment_variables: Mapped[Json] = mapped_column(default=dict)
    autoscale: Mapped[Json | None]
    data_collector: Mapped[Json | None]
    adapters: Mapped[Json | None]
    description: Mapped[str] = mapped_column(Text, default="")
    tags: Mapped[Json] = mapped_column(default=dict)
    properties: Mapped[Json] = mapped_column(default=dict)
    provisioning_state: Mapped[str] = mapped_column(String(16))
    error: Mapped[Json | None]
    notices: Mapped[list[Any]] = mapped_column(default=list)
    generation: Mapped[int] = mapped_column(default=1)
    """Grows when what an instance is made of changes, so that old instances are told from new ones."""
    created_at: Mapped[datetime] = mapped_column(default=utcnow)


class MirrorRow(Table):
    """How far a job's (``step`` empty) or a step's events are in MLflow."""

    __tablename__ = "mirror"

    job: Mapped[str] = mapped_column(String(400), primary_key=True)
    """The job, or the key of a registered model."""
    step: Mapped[str] = mapped_column(primary_key=True, default="")
    run_id: Mapped[str | None] = mapped_column(String(64))
    events_offset: Mapped[int] = mapped_column(BigInteger, default=0)
    """Bytes of the step's ``events.jsonl`` that MLflow has."""
    done: Mapped[bool] = mapped_column(default=False)


class KeyValueRow(Table):
    """Small facts that need no table of their own."""

    __tablename__ = "key_values"

    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[Json]
