"""The figures of deployments as records: what the gateway counted beside what is wanted and ready."""

from __future__ import annotations

from collections.abc import Iterable

from tunesmith.endpoints.gateway import Gateway
from tunesmith.endpoints.metrics import WINDOW_S
from tunesmith.records.endpoints import Deployment
from tunesmith.records.serving import DeploymentMetrics


def deployment_metrics(gateway: Gateway, deployments: Iterable[Deployment]) -> list[DeploymentMetrics]:
    """One record for each of ``deployments``. To be called on the gateway's event loop."""
    return [_metrics(gateway, deployment) for deployment in deployments]


def _metrics(gateway: Gateway, deployment: Deployment) -> DeploymentMetrics:
    key = (deployment.endpoint, deployment.name)
    counters = gateway.metrics.of(key)
    recent = counters.recently()
    return DeploymentMetrics(
        endpoint=deployment.endpoint,
        deployment=deployment.name,
        model=deployment.model,
        state=deployment.provisioning_state,
        instance_count=deployment.instance_count,
        ready_instances=deployment.ready_instances,
        in_flight=gateway.metrics.in_flight(key),
        queued=gateway.metrics.queued(key),
        requests=counters.requests,
        errors=counters.errors,
        cancelled=counters.cancelled,
        by_status=dict(sorted(counters.by_status.items())),
        window_s=WINDOW_S,
        recent_requests=recent.requests,
        latency_p50_ms=recent.latency_p50_ms,
        latency_p99_ms=recent.latency_p99_ms,
        ttft_p50_ms=recent.ttft_p50_ms,
        ttft_p99_ms=recent.ttft_p99_ms,
        requests_per_second=round(recent.requests_per_second, 3),
        tokens_per_second=round(recent.tokens_per_second, 3),
        prompt_tokens=counters.prompt_tokens,
        completion_tokens=counters.completion_tokens,
        retries=counters.retries,
        mirrored_requests=sum(counters.mirrored_by_status.values()),
        mirrored_errors=sum(count for status, count in counters.mirrored_by_status.items() if status >= 400),
        mirrored_dropped=counters.mirrored_dropped,
        collected=counters.collected,
    )
