"""What the gateway counts, and its form for Prometheus.

Counters live in memory and begin at 0 with the server. Mirrored requests are counted apart: they are nobody's answers.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

Key = tuple[str, str]

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 180.0)
CLIENT_GONE = 499
"""Counted, never sent: the client went away before its answer was whole."""
WINDOW_S = 300.0
"""How far the figures of the recent past look back."""
REMEMBERED = 1024
"""Answers that they remember at most."""


class Answer(NamedTuple):
    """One whole answer of the recent past. Times in seconds, ``ended`` on the monotonic clock."""

    ended: float
    latency: float
    first_token: float | None
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Recent:
    """Figures over the last ``WINDOW_S`` seconds. Times in milliseconds; None where nothing was answered."""

    requests: int
    latency_p50_ms: float | None
    latency_p99_ms: float | None
    ttft_p50_ms: float | None
    ttft_p99_ms: float | None
    requests_per_second: float
    tokens_per_second: float


@dataclass(slots=True)
class Histogram:
    """Counts of seconds in fixed buckets."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(SECONDS) + 1))
    total: float = 0.0

    def add(self, seconds: float) -> None:
        """Count one value."""
        self.counts[bisect_left(SECONDS, seconds)] += 1
        self.total += seconds

    def lines(self, name: str, labels: str) -> Iterable[str]:
        """The histogram in text form."""
        running = 0
        for bound, count in zip((*SECONDS, "+Inf"), self.counts, strict=True):
            running += count
            yield f'{name}_bucket{{{labels},le="{bound}"}} {running}'
        yield f"{name}_sum{{{labels}}} {self.total:.6f}"
        yield f"{name}_count{{{labels}}} {running}"


@dataclass(slots=True)
class DeploymentCounters:
    """The counters of one deployment."""

    by_status: dict[int, int] = field(default_factory=dict)
    latency: Histogram = field(default_factory=Histogram)
    """From the arrival of a request to the end of its answer; answered ones only."""
    first_token: Histogram = field(default_factory=Histogram)
    """From the arrival of a request to the first piece of its answer; streams only."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    retries: int = 0
    """Requests sent to another instance because the first one went away."""
    mirrored_by_status: dict[int, int] = field(default_factory=dict)
    mirrored_dropped: int = 0
    """Copies not sent because the mirror was busy."""
    mirrored_tokens: int = 0
    collected: int = 0
    """Conversations handed to the data collector."""
    recent: deque[Answer] = field(default_factory=lambda: deque(maxlen=REMEMBERED))

    def finished(
        self, status: int, latency: float, first_token: float | None, prompt_tokens: int, completion_tokens: int
    ) -> None:
        """Count one request at its end. Times in seconds."""
        self.count(status)
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens
        if status == 200:
            self.latency.add(latency)
            self.recent.append(Answer(time.monotonic(), latency, first_token, completion_tokens))

    def recently(self, now: float | None = None) -> Recent:
        """The figures of the recent past; ``now`` is on the monotonic clock."""
        now = time.monotonic() if now is None else now
        answers = [answer for answer in self.recent if answer.ended > now - WINDOW_S]
        latencies = sorted(answer.latency for answer in answers)
        first = sorted(answer.first_token for answer in answers if answer.first_token is not None)
        # From the start of the first of them, so that a burst is not spread over the whole window.
        span = max(1.0, now - min(answer.ended - answer.latency for answer in answers)) if answers else 1.0
        return Recent(
            requests=len(answers),
            latency_p50_ms=_percentile_ms(latencies, 50),
            latency_p99_ms=_percentile_ms(latencies, 99),
            ttft_p50_ms=_percentile_ms(first, 50),
            ttft_p99_ms=_percentile_ms(first, 99),
            requests_per_second=len(answers) / span,
            tokens_per_second=sum(answer.completion_tokens for answer in answers) / span,
        )

    @property
    def requests(self) -> int:
        """All requests, mirrored ones apart."""
        return sum(self.by_status.values())

    @property
    def errors(self) -> int:
        """Requests that were answered with an error."""
        return sum(count for status, count in self.by_status.items() if status >= 400 and status != CLIENT_GONE)

    @property
    def cancelled(self) -> int:
        """Requests whose caller went away."""
        return self.by_status.get(CLIENT_GONE, 0)

    def count(self, status: int, *, mirrored: bool = False) -> None:
        """Count one request's outcome."""
        table = self.mirrored_by_status if mirrored else self.by_status
        table[status] = table.get(status, 0) + 1


class GatewayMetrics:
    """Counters of every deployment.

    ``in_flight`` and ``queued`` are asked for when the text is made.
    """

    def __init__(self, in_flight: Callable[[Key], int], queued: Callable[[Key], int]) -> None:
        self._deployments: dict[Key, DeploymentCounters] = {}
        self.in_flight = in_flight
        self.queued = queued

    def of(self, key: Key) -> DeploymentCounters:
        """The counters of a deployment."""
        counters = self._deployments.get(key)
        if counters is None:
            counters = self._deployments[key] = DeploymentCounters()
        return counters

    def keep_only(self, keys: Iterable[Key]) -> None:
        """Forget deployments that are gone."""
        wanted = set(keys)
        for key in list(self._deployments):  # a copy: the gateway's loop may add one meanwhile
            if key not in wanted:
                self._deployments.pop(key, None)

    def prometheus(self, endpoint: str | None = None) -> str:
        """All of it, or what ``endpoint`` has, in Prometheus' text format, version 0.0.4."""
        families: dict[str, tuple[str, str, list[str]]] = {
            "tunesmith_requests_total": ("counter", "Requests by the status they were answered with.", []),
            "tunesmith_request_seconds": ("histogram", "Seconds from a request to the end of its answer.", []),
            "tunesmith_first_token_seconds": (
                "histogram",
                "Seconds from a request to the first piece of a stream.",
                [],
            ),
            "tunesmith_prompt_tokens_total": ("counter", "Tokens read.", []),
            "tunesmith_completion_tokens_total": ("counter", "Tokens generated.", []),
            "tunesmith_retries_total": ("counter", "Requests sent again because an instance went away.", []),
            "tunesmith_mirrored_requests_total": ("counter", "Mirrored requests by status.", []),
            "tunesmith_mirrored_dropped_total": ("counter", "Copies not sent because the mirror was busy.", []),
            "tunesmith_mirrored_tokens_total": ("counter", "Tokens generated for mirrored requests.", []),
            "tunesmith_collected_total": ("counter", "Conversations kept by the data collector.", []),
            "tunesmith_in_flight": ("gauge", "Requests with an instance now.", []),
            "tunesmith_queued": ("gauge", "Requests that wait for an instance now.", []),
        }

        def say(name: str, labels: str, value: float) -> None:
            families[name][2].append(f"{name}{{{labels}}} {value}")

        deployments = list(self._deployments.items())  # a copy: see keep_only
        for key, counters in sorted(deployments):
            if endpoint is not None and key[0] != endpoint:
                continue
            labels = f'endpoint="{key[0]}",deployment="{key[1]}"'
            for status, count in sorted(counters.by_status.items()):
                say("tunesmith_requests_total", f'{labels},code="{status}"', count)
            families["tunesmith_request_seconds"][2].extend(counters.latency.lines("tunesmith_request_seconds", labels))
            families["tunesmith_first_token_seconds"][2].extend(
                counters.first_token.lines("tunesmith_first_token_seconds", labels)
            )
            say("tunesmith_prompt_tokens_total", labels, counters.prompt_tokens)
            say("tunesmith_completion_tokens_total", labels, counters.completion_tokens)
            say("tunesmith_retries_total", labels, counters.retries)
            for status, count in sorted(counters.mirrored_by_status.items()):
                say("tunesmith_mirrored_requests_total", f'{labels},code="{status}"', count)
            say("tunesmith_mirrored_dropped_total", labels, counters.mirrored_dropped)
            say("tunesmith_mirrored_tokens_total", labels, counters.mirrored_tokens)
            say("tunesmith_collected_total", labels, counters.collected)
            say("tunesmith_in_flight", labels, self.in_flight(key))
            say("tunesmith_queued", labels, self.queued(key))
        text: list[str] = []
        for name, (kind, help_text, lines) in families.items():
            if lines:
                text += [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}", *lines]
        return "\n".join(text) + "\n"


def _percentile_ms(ordered: list[float], percent: int) -> float | None:
    """The nearest-rank percentile of values in seconds, in milliseconds."""
    if not ordered:
        return None
    rank = max(0, -(-len(ordered) * percent // 100) - 1)
    return round(ordered[rank] * 1000, 3)
