"""What is seen of an endpoint at work: its figures, its requests, and the conversations taken from it."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from tunesmith.records.base import Record


class DeploymentMetrics(Record):
    """The figures of one deployment since the server started; those of the recent past are over ``window_s``."""

    endpoint: str
    deployment: str
    model: str
    state: str
    instance_count: int
    ready_instances: int
    in_flight: int = 0
    queued: int = 0
    requests: int = 0
    errors: int = 0
    """Answers with a status of 400 and above."""
    cancelled: int = 0
    """Requests whose caller went away."""
    by_status: dict[int, int] = Field(default_factory=dict)
    window_s: float
    """Seconds that the following figures look back over, at most."""
    recent_requests: int = 0
    """Whole answers in that time, as far as they are remembered."""
    latency_p50_ms: float | None = None
    latency_p99_ms: float | None = None
    ttft_p50_ms: float | None = None
    """Time to the first token; streams only."""
    ttft_p99_ms: float | None = None
    requests_per_second: float = 0.0
    tokens_per_second: float = 0.0
    """Generated tokens of whole answers."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    retries: int = 0
    mirrored_requests: int = 0
    mirrored_errors: int = 0
    mirrored_dropped: int = 0
    collected: int = 0
    """Conversations kept by the data collector."""


class RequestLine(Record):
    """One line of the request log: who was asked, how it went, how long it took. Never a key, never a text."""

    time: datetime
    """When the request came."""
    endpoint: str
    deployment: str | None = None
    """None for a request that was refused before a deployment was chosen."""
    model: str | None = None
    protocol: str = ""
    """The path below the endpoint, such as ``v1/chat/completions``."""
    request_id: str = ""
    status: int
    """499: the caller went away."""
    error: str | None = None
    """The error's code."""
    stream: bool = False
    cancelled: bool = False
    mirrored: bool = False
    instance: str | None = None
    latency_ms: float
    queued_ms: float = 0.0
    """Of it, spent waiting for a slot."""
    ttft_ms: float | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    attempts: int = 1
    """Instances that were asked."""


class ConversationExport(Record):
    """What became of collected conversations that were asked for as training rows."""

    written: int = 0
    left_out: dict[str, int] = Field(default_factory=dict)
    """Why, and how many."""
    removed_before: int = 0
    """Conversations that made room for newer ones (``max_mb``) before this export."""
