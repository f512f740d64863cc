"""The two kinds of value object: what is asked, and what is."""

from __future__ import annotations

from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict


class Request(BaseModel):
    """What a caller asks. An unknown field is an error that names it, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class Record(BaseModel):
    """What is. A client older than its server skips the fields it does not know."""

    model_config = ConfigDict(extra="ignore", frozen=True, defer_build=True)


def utcnow() -> datetime:
    """The time now, aware, in UTC."""
    return datetime.now(UTC)
