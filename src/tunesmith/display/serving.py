"""The figures of deployments for a person."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from tunesmith.records.serving import DeploymentMetrics

METRIC_COLUMNS = (
    "endpoint",
    "deployment",
    "state",
    "ready",
    "in flight",
    "queued",
    "requests",
    "errors",
    "cancelled",
    "p50 ms",
    "p99 ms",
    "ttft p50",
    "ttft p99",
    "req/s",
    "tokens/s",
    "mirrored",
)


def metric_rows(metrics: Sequence[DeploymentMetrics]) -> list[tuple[str, ...]]:
    """One row for each deployment, under ``METRIC_COLUMNS``; an empty cell where nothing was answered lately."""
    return [
        (
            one.endpoint,
            one.deployment,
            one.state,
            f"{one.ready_instances}/{one.instance_count}",
            str(one.in_flight),
            str(one.queued),
            str(one.requests),
            str(one.errors),
            str(one.cancelled),
            _ms(one.latency_p50_ms),
            _ms(one.latency_p99_ms),
            _ms(one.ttft_p50_ms),
            _ms(one.ttft_p99_ms),
            f"{one.requests_per_second:.1f}",
            f"{one.tokens_per_second:.1f}",
            f"{one.mirrored_requests} ({one.mirrored_errors} failed)" if one.mirrored_requests else "0",
        )
        for one in metrics
    ]


def metric_table(metrics: Sequence[DeploymentMetrics]) -> Table:
    """The figures as a table for a terminal."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption="Latencies and rates over the last five minutes.")
    for number, column in enumerate(METRIC_COLUMNS):
        table.add_column(column, justify="left" if number < 3 else "right")
    for one, row in zip(metrics, metric_rows(metrics), strict=True):
        busy = "yellow" if one.queued else ""
        failed = "bold red" if one.state == "Failed" else ""
        table.add_row(*[Text(cell, style=failed or busy) for cell in row])
    return table


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}" if value < 100 else f"{value:.0f}"
