"""How endpoints and deployments are kept in the database.

The documents are the wanted state plus what was last known of the real one. They know nothing of processes; the
store knows nothing of rules.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select

from tunesmith.records.endpoints import CreateDeployment, ProvisioningState
from tunesmith.storage.database import Database
from tunesmith.storage.tables import DeploymentRow, EndpointRow

_MODEL = re.compile(r"(?:.*/models/|azureml:)(?P<name>[^/:]+)(?:/versions/|:)(?P<version>[^/:]+)$")


class EndpointDocument(BaseModel):
    """One endpoint as it is stored. Its keys are ciphertext."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    name: str
    auth_mode: str
    description: str = ""
    tags: dict[str, str] = Field(default_factory=dict)
    properties: dict[str, str] = Field(default_factory=dict)
    traffic: dict[str, int] = Field(default_factory=dict)
    mirror_traffic: dict[str, int] = Field(default_factory=dict)
    provisioning_state: ProvisioningState = "Succeeded"
    created_at: datetime
    primary_key: str = Field(repr=False)
    secondary_key: str = Field(repr=False)


class DeploymentDocument(BaseModel):
    """One deployment as it is stored: what is wanted, and the last known outcome."""

    model_config = ConfigDict(frozen=True)

    spec: CreateDeployment
    """``model`` is the resolved reference."""
    generation: int = 1
    """Grows when what an instance is made of changes."""
    state: ProvisioningState = "Creating"
    error: dict[str, Any] | None = None
    log_tail: list[str] = Field(default_factory=list)
    notices: list[str] = Field(default_factory=list)
    created_at: datetime

    @property
    def key(self) -> tuple[str, str]:
        """(endpoint, deployment)."""
        return (self.spec.endpoint, self.spec.name)

    @property
    def model_name(self) -> str:
        """The model's name, without registry and version."""
        found = _MODEL.match(self.spec.model)
        return found["name"] if found else self.spec.model


class EndpointStore:
    """Reads and writes the two tables."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def endpoints(self) -> list[EndpointDocument]:
        """Every endpoint."""
        with self._database.reading() as session:
            return [EndpointDocument.model_validate(row) for row in session.scalars(select(EndpointRow))]

    def deployments(self) -> list[DeploymentDocument]:
        """Every deployment."""
        with self._database.reading() as session:
            return [_read_deployment(row) for row in session.scalars(select(DeploymentRow))]

    def put_endpoint(self, document: EndpointDocument) -> None:
        """Insert or replace an endpoint."""
        with self._database.session() as session:
            session.merge(EndpointRow(**document.model_dump()))

    def put_deployment(self, document: DeploymentDocument) -> None:
        """Insert or replace a deployment."""
        values = document.spec.model_dump()
        error = dict(document.error) if document.error else None
        if error is not None:
            error["log_tail"] = document.log_tail
        with self._database.session() as session:
            session.merge(
                DeploymentRow(
                    **{name: values[name] for name in values if name in DeploymentRow.__table__.columns},
                    provisioning_state=document.state,
                    error=error,
                    notices=document.notices,
                    generation=document.generation,
                    created_at=document.created_at,
                )
            )

    def delete_endpoint(self, name: str) -> None:
        """Remove an endpoint; it must have no deployments."""
        with self._database.session() as session:
            row = session.get(EndpointRow, name)
            if row is not None:
                session.delete(row)

    def delete_deployment(self, endpoint: str, name: str) -> None:
        """Remove a deployment."""
        with self._database.session() as session:
            row = session.get(DeploymentRow, (endpoint, name))
            if row is not None:
                session.delete(row)


def _read_deployment(row: DeploymentRow) -> DeploymentDocument:
    columns = DeploymentRow.__table__.columns
    values = {name: getattr(row, name) for name in CreateDeployment.model_fields if name in columns}
    # Rows from before a setting have nothing for it: its default holds.
    values = {name: value for name, value in values.items() if value is not None}
    error = dict(row.error) if row.error else None
    log_tail = list(error.pop("log_tail", [])) if error else []
    return DeploymentDocument(
        spec=CreateDeployment.model_validate(values),
        generation=row.generation,
        state=row.provisioning_state,  # type: ignore[arg-type]  # pydantic checks it
        error=error,
        log_tail=log_tail,
        notices=[str(notice) for notice in row.notices],
        created_at=row.created_at,
    )
