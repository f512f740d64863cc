"""Endpoints and deployments for a person, and the wait until a deployment is ready."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.text import Text

from tunesmith.display.jobs import error_lines
from tunesmith.display.units import seconds, when

if TYPE_CHECKING:
    from tunesmith.client import Workspace
    from tunesmith.records.endpoints import Deployment, Endpoint

POLL_SECONDS = 0.2


def wait_for_deployment(
    ws: Workspace,
    endpoint: str,
    name: str,
    *,
    quiet: bool = False,
    console: Console | None = None,
    timeout: float = 1800,
) -> Deployment:
    """Wait until a deployment is ready or has failed, and show its phases as they pass."""
    console = console or Console(highlight=False)
    shown: set[tuple[str, str]] = set()
    deadline = time.monotonic() + timeout
    while True:
        deployment = ws.deployments.get(endpoint, name)
        if not quiet:
            for instance in deployment.instances:
                for phase in instance.phases:
                    if phase.seconds is not None and (instance.id, phase.name) not in shown:
                        shown.add((instance.id, phase.name))
                        console.print(Text(f"  {name}: {phase.name}  {seconds(phase.seconds)}", "dim"))
        if deployment.provisioning_state in ("Succeeded", "Failed", "Canceled") or time.monotonic() > deadline:
            return deployment
        time.sleep(POLL_SECONDS)


def deployment_lines(deployment: Deployment) -> list[str]:
    """How a deployment stands, in a few lines."""
    lines = [
        f"{deployment.name}: {deployment.provisioning_state}, {deployment.ready_instances} of "
        f"{deployment.instance_count} instances ready, model {deployment.model}"
    ]
    lines += [f"  ! {notice}" for notice in deployment.notices]
    if deployment.error:
        inner = deployment.error.get("error", deployment.error)
        lines.append(f"  Cause: {inner.get('message', '')}")
        if inner.get("way_out"):
            lines.append(f"  Way out: {inner['way_out']}")
        lines += [f"  | {line}" for line in deployment.log_tail]
    return lines


def deployment_panel(deployment: Deployment) -> RenderableType:
    """A deployment with its instances and their phases."""
    parts: list[RenderableType] = [Text(line) for line in deployment_lines(deployment)[:1]]
    parts += [Text(f"  ! {notice}", "yellow") for notice in deployment.notices]
    parts.append(
        Text(
            f"  engine {deployment.engine}, precision {deployment.precision}, "
            f"instance type {deployment.instance_type}, timeout {deployment.request_settings.request_timeout_ms} ms, "
            f"{deployment.request_settings.max_concurrent_requests_per_instance} requests at once in an instance",
            "dim",
        )
    )
    parts += [Text(f"  {line}", "dim") for line in _settings(deployment)]
    for instance in deployment.instances:
        phases = ", ".join(f"{p.name} {seconds(p.seconds) or '…'}" for p in instance.phases)
        restarts = f", {instance.restarts} restarts" if instance.restarts else ""
        parts.append(Text(f"  {instance.id}  {instance.state}  process {instance.pid}{restarts}  {phases}"))
    opened = next((instance.engine for instance in deployment.instances if instance.engine), None)
    if opened is not None:
        parts += [Text(f"  {line}", "dim") for line in engine_lines(opened)]
    parts += [
        Text(f"  {when(event.time)}  autoscale {event.from_instances} → {event.to_instances}: {event.reason}", "dim")
        for event in deployment.scale_events[-5:]
    ]
    if deployment.error:
        parts += error_lines(deployment.error)
        parts += [Text(f"  | {line}", "dim") for line in deployment.log_tail]
    return Group(*parts)


def _settings(deployment: Deployment) -> list[str]:
    """What is set beyond the defaults, a line each."""
    lines = []
    if deployment.autoscale is not None:
        limits = deployment.autoscale
        lines.append(
            f"autoscale {limits.min_instances} to {limits.max_instances} instances, at most "
            f"{limits.target_queue_length} waiting for each, cool-down {limits.cool_down_s} s"
        )
    lines += [f"adapter {name}: {reference}" for name, reference in deployment.adapters.items()]
    collector = deployment.data_collector
    if collector.enabled:
        taken = [*collector.redact, *(f"/{pattern}/" for pattern in collector.redact_patterns)]
        lines.append(
            f"data collector: {collector.sampling_rate:.0%} of the conversations, without "
            f"{', '.join(taken) or 'redaction'}, at most {collector.max_mb} MB"
        )
    return lines


def engine_lines(engine: Mapping[str, Any]) -> list[str]:
    """What an instance opened, why so, and the details that the engine tells."""
    lines = [f"opened {engine['engine']} {engine['precision']}, {engine['threads']} threads: {engine['reason']}"]
    for name, value in engine.get("details", {}).items():
        shown = ", ".join(f"{key} {_short(item)}" for key, item in value.items()) if isinstance(value, dict) else value
        lines.append(f"  {name.replace('_', ' ')}: {_short(shown)}")
    return lines


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def endpoint_panel(endpoint: Endpoint, deployments: Sequence[Deployment]) -> RenderableType:
    """An endpoint, its deployments and calls that are ready to paste."""
    traffic = ", ".join(f"{name} {share} %" for name, share in endpoint.traffic.items()) or "none"
    parts: list[RenderableType] = [
        Text.assemble((endpoint.name, "bold"), f"  {endpoint.provisioning_state}  auth {endpoint.auth_mode}"),
        Text(f"  traffic {traffic}"),
    ]
    if endpoint.mirror_traffic:
        parts.append(Text("  mirror " + ", ".join(f"{n} {s} %" for n, s in endpoint.mirror_traffic.items())))
    if endpoint.description:
        parts.append(Text(f"  {endpoint.description}"))
    parts += [deployment_panel(each) for each in deployments]
    parts.append(Text(calls(endpoint), "dim"))
    return Group(*parts)


def calls(endpoint: Endpoint, key: str = "$KEY") -> str:
    """A curl line and an OpenAI-client snippet for an endpoint."""
    return f"""
curl -s {endpoint.openai_uri}/chat/completions \\
  -H "Authorization: Bearer {key}" -H "Content-Type: application/json" \\
  -d '{{"messages": [{{"role": "user", "content": "Hello, how are you?"}}], "max_tokens": 60}}'

curl -s {endpoint.scoring_uri} \\
  -H "Authorization: Bearer {key}" -H "Content-Type: application/json" \\
  -d '{{"input_data": {{"input_string": [{{"role": "user", "content": "Hello, how are you?"}}],
       "parameters": {{"max_new_tokens": 60}}}}}}'

from openai import OpenAI
client = OpenAI(base_url="{endpoint.openai_uri}", api_key="{key}")
answer = client.chat.completions.create(
    model="{endpoint.name}", messages=[{{"role": "user", "content": "Hello, how are you?"}}], max_tokens=60)
print(answer.choices[0].message.content)"""
