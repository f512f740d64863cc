"""Figures and deployments for a person."""

from __future__ import annotations

from rich.console import Console

from tunesmith.display.endpoints import deployment_panel
from tunesmith.display.serving import METRIC_COLUMNS, metric_rows, metric_table
from tunesmith.records.base import utcnow
from tunesmith.records.endpoints import (
    Autoscale,
    DataCollector,
    Deployment,
    Instance,
    ProbeSettings,
    RequestSettings,
    ScaleEvent,
)
from tunesmith.records.serving import DeploymentMetrics

BUSY = DeploymentMetrics(
    endpoint="chat",
    deployment="blue",
    model="azureml:m:1",
    state="Succeeded",
    instance_count=2,
    ready_instances=1,
    in_flight=8,
    queued=3,
    requests=100,
    errors=2,
    cancelled=1,
    window_s=300,
    latency_p50_ms=12.34,
    latency_p99_ms=1234.5,
    requests_per_second=2.5,
    tokens_per_second=99.96,
    mirrored_requests=7,
    mirrored_errors=1,
)


def text(renderable: object) -> str:
    console = Console(width=300)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def test_figures_are_rows_with_empty_cells_where_nothing_is_known() -> None:
    (row,) = metric_rows([BUSY])
    assert dict(zip(METRIC_COLUMNS, row, strict=True)) == {
        "endpoint": "chat",
        "deployment": "blue",
        "state": "Succeeded",
        "ready": "1/2",
        "in flight": "8",
        "queued": "3",
        "requests": "100",
        "errors": "2",
        "cancelled": "1",
        "p50 ms": "12.3",
        "p99 ms": "1234",
        "ttft p50": "",
        "ttft p99": "",
        "req/s": "2.5",
        "tokens/s": "100.0",
        "mirrored": "7 (1 failed)",
    }
    assert "7 (1 failed)" in text(metric_table([BUSY]))


def test_a_deployment_shows_how_it_scales_what_it_keeps_and_what_it_opened() -> None:
    engine = {
        "engine": "openvino",
        "precision": "8",
        "threads": 2,
        "reason": "asked for",
        "details": {"quality": {"mean_abs_logit_difference": 0.0123456, "positions": 64}, "device": "CPU"},
    }
    deployment = Deployment(
        name="blue",
        endpoint="chat",
        model="azureml:m:1",
        instance_count=2,
        instance_type="local",
        engine="auto",
        precision="auto",
        request_settings=RequestSettings(),
        liveness_probe=ProbeSettings(),
        readiness_probe=ProbeSettings(),
        autoscale=Autoscale(min_instances=1, max_instances=3),
        data_collector=DataCollector(enabled=True, sampling_rate=0.1, redact_patterns=("a+b",)),
        adapters={"polite": "azureml:polite:1"},
        provisioning_state="Succeeded",
        instances=[Instance(id="i1-a", state="Ready", pid=7, engine=engine)],
        scale_events=[ScaleEvent(time=utcnow(), from_instances=1, to_instances=2, reason="9 requests wait")],
        created_at=utcnow(),
    )
    shown = text(deployment_panel(deployment))
    for line in (
        "autoscale 1 to 3 instances, at most 2 waiting for each, cool-down 300 s",
        "adapter polite: azureml:polite:1",
        "data collector: 10% of the conversations, without email, phone, number, /a+b/, at most 1024 MB",
        "opened openvino 8, 2 threads: asked for",
        "quality: mean_abs_logit_difference 0.01235, positions 64",
        "device: CPU",
        "autoscale 1 → 2: 9 requests wait",
    ):
        assert line in shown
