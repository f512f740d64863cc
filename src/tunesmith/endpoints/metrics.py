"""What the gateway counts, and its form for Prometheus.

Counters live in memory and begin at 0 with the server. Mirrored requests are counted apart: they are nobody's answers.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

Key = tuple[str, str]

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 180.0)
CLIENT_GONE = 499
"""Counted, never sent: the client went away before its answer was whole."""


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

    @property
    def requests(self) -> int:
        """All requests, mirrored ones apart."""
        return sum(self.by_status.values())

    @property
    def errors(self) -> int:
        """Requests that were answered with an error."""
        return sum(count for status, count in self.by_status.items() if status >= 400 and status != CLIENT_GONE)

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
        self._in_flight = in_flight
        self._queued = queued

    def of(self, key: Key) -> DeploymentCounters:
        """The counters of a deployment."""
        counters = self._deployments.get(key)
        if counters is None:
            counters = self._deployments[key] = DeploymentCounters()
        return counters

    def keep_only(self, keys: Iterable[Key]) -> None:
        """Forget deployments that are gone."""
        wanted = set(keys)
        for key in [key for key in self._deployments if key not in wanted]:
            del self._deployments[key]

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
            "tunesmith_in_flight": ("gauge", "Requests with an instance now.", []),
            "tunesmith_queued": ("gauge", "Requests that wait for an instance now.", []),
        }

        def say(name: str, labels: str, value: float) -> None:
            families[name][2].append(f"{name}{{{labels}}} {value}")

        for key, counters in sorted(self._deployments.items()):
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
            say("tunesmith_in_flight", labels, self._in_flight(key))
            say("tunesmith_queued", labels, self._queued(key))
        text: list[str] = []
        for name, (kind, help_text, lines) in families.items():
            if lines:
                text += [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}", *lines]
        return "\n".join(text) + "\n"
