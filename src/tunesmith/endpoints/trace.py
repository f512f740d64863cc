"""What a face knows of the HTTP request it works on, handed down to the gateway without passing through every call."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime

from tunesmith.records.base import utcnow


@dataclass(slots=True)
class RequestTrace:
    """One HTTP request below an endpoint."""

    endpoint: str
    request_id: str
    protocol: str
    """The path below the endpoint."""
    began: datetime = field(default_factory=utcnow)
    noted: bool = False
    """Whether the gateway has it in the request log already."""


current: ContextVar[RequestTrace | None] = ContextVar("tunesmith_request", default=None)
"""The request that the running task works on, if it is one's."""
