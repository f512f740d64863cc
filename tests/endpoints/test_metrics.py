"""Figures of the recent past, and figures that go with their deployment."""

from __future__ import annotations

import time

import pytest

from tunesmith.endpoints.metrics import REMEMBERED, WINDOW_S, DeploymentCounters, GatewayMetrics


def test_percentiles_and_rates_are_those_of_the_window() -> None:
    counters = DeploymentCounters()
    for number in range(1, 101):
        counters.finished(200, number / 1000, number / 2000 if number % 2 else None, 10, 4)
    counters.finished(424, 99.0, None, 10, 0)
    counters.finished(499, 99.0, None, 10, 0)
    now = time.monotonic()
    recent = counters.recently(now + 9.0)
    assert recent.requests == 100
    assert (recent.latency_p50_ms, recent.latency_p99_ms) == (50.0, 99.0)
    assert (recent.ttft_p50_ms, recent.ttft_p99_ms) == (24.5, 49.5)
    assert recent.requests_per_second == pytest.approx(100 / 9.1, rel=0.05)
    assert recent.tokens_per_second == pytest.approx(4 * recent.requests_per_second)
    assert (counters.requests, counters.errors, counters.cancelled) == (102, 1, 1)
    assert (counters.prompt_tokens, counters.completion_tokens) == (1020, 400)
    later = counters.recently(now + WINDOW_S + 1)
    assert (later.requests, later.latency_p50_ms, later.tokens_per_second) == (0, None, 0.0)


def test_what_is_remembered_is_bounded() -> None:
    counters = DeploymentCounters()
    for _ in range(3 * REMEMBERED):
        counters.finished(200, 0.001, None, 1, 1)
    assert counters.recently().requests == REMEMBERED
    assert counters.requests == 3 * REMEMBERED


def test_counters_go_with_their_deployment() -> None:
    metrics = GatewayMetrics(lambda _key: 0, lambda _key: 0)
    for name in ("blue", "green"):
        metrics.of(("chat", name)).finished(200, 0.1, None, 1, 1)
    metrics.keep_only([("chat", "green")])
    text = metrics.prometheus()
    assert 'deployment="green"' in text
    assert 'deployment="blue"' not in text
