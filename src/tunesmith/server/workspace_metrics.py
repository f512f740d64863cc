"""Prometheus metrics of the whole workspace: every endpoint's figures, and what stands behind them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import psutil

from tunesmith._version import __version__
from tunesmith.records.jobs import JobStatus

if TYPE_CHECKING:
    from tunesmith.endpoints.gateway import Gateway
    from tunesmith.workspace import Services

Labels = Mapping[str, str]


def workspace_metrics(services: Services, gateway: Gateway) -> str:
    """All figures in Prometheus' text format, version 0.0.4."""
    deployments = [
        one for endpoint in services.endpoints.list() for one in services.endpoints.list_deployments(endpoint.name)
    ]
    instances: Counter[tuple[str, str, str]] = Counter()
    for one in deployments:
        for instance in one.instances:
            instances[one.endpoint, one.name, instance.state] += 1
    unfinished = {status: len(services.jobs.list(status=status)) for status in JobStatus if not status.terminal}
    process = psutil.Process()
    text = gateway.metrics.prometheus()
    text += _family(
        "tunesmith_instances_wanted",
        "Instances that a deployment is to have.",
        [({"endpoint": one.endpoint, "deployment": one.name}, one.instance_count) for one in deployments],
    )
    text += _family(
        "tunesmith_instances",
        "Instances by state.",
        [
            ({"endpoint": endpoint, "deployment": deployment, "state": state}, count)
            for (endpoint, deployment, state), count in sorted(instances.items())
        ],
    )
    text += _family(
        "tunesmith_instance_restarts",
        "Restarts of the instances that are there.",
        [
            ({"endpoint": one.endpoint, "deployment": one.name}, sum(instance.restarts for instance in one.instances))
            for one in deployments
        ],
    )
    text += _family(
        "tunesmith_deployments",
        "Deployments by state.",
        [
            ({"state": state}, count)
            for state, count in sorted(Counter(one.provisioning_state for one in deployments).items())
        ],
    )
    text += _family(
        "tunesmith_jobs_unfinished",
        "Jobs that have not ended, by status.",
        [({"status": str(status)}, count) for status, count in unfinished.items()],
    )
    lost = gateway.journal.lost if gateway.journal is not None else 0
    text += _family("tunesmith_request_log_lost", "Entries of the request log that were not written.", [({}, lost)])
    text += _family("tunesmith_server_memory_bytes", "Memory of the server.", [({}, process.memory_info().rss)])
    return text + _family(
        "tunesmith_server_info", "The server.", [({"version": __version__, "workspace": services.name}, 1)]
    )


def _family(name: str, help_text: str, values: Iterable[tuple[Labels, float]]) -> str:
    lines = [f"{name}{_labels(labels)} {value}\n" for labels, value in values]
    return f"# HELP {name} {help_text}\n# TYPE {name} gauge\n{''.join(lines)}" if lines else ""


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    escaped = {
        name: value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for name, value in labels.items()
    }
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped.items()) + "}"
