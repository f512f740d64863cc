"""What a run costs, in words."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from io import StringIO

from rich.console import Console

from tunesmith.display.estimate import estimate_line, forecast_lines
from tunesmith.display.plan import render_plan
from tunesmith.finetune import Estimate
from tunesmith.records.jobs import Job, JobStatus

FOUND = Estimate(
    memory_bytes=2_500_000_000,
    seconds=249.0,
    disk_bytes=68_400_000,
    steps=36,
    tokens=34_670,
    trainable_parameters=2_442_240,
    parts={"weights": 2_000_000_000, "process": 500_000_000},
)


def test_the_estimate_beside_what_the_machine_has() -> None:
    assert forecast_lines(FOUND, memory_bytes=24_000_000_000, disk_free_bytes=80_000_000_000) == [
        "Steps    36 optimiser steps, 34,670 tokens, 2.4 M weights trained",
        "Time     about 4 min 09 s of training at this machine's measured rate, without evaluations",
        "Memory   about 2.5 GB of 24.0 GB: weights 2.0 GB, process 500.0 MB",
        "Disk     about 68.4 MB for checkpoints and the result, 80.0 GB are free",
    ]
    assert "36 steps, 34,670 tokens" in estimate_line(FOUND)


def test_without_a_measured_rate_no_time_is_told() -> None:
    unmeasured = replace(FOUND, seconds=None)
    _, time, *_ = forecast_lines(unmeasured, memory_bytes=24_000_000_000, disk_free_bytes=80_000_000_000)
    assert time == "Time     not told: a GPU's rate is not measured beforehand"
    assert estimate_line(unmeasured).startswith("2.5 GB of memory, ")


def test_what_does_not_fit_is_said_with_a_way_out() -> None:
    *_, memory, disk = forecast_lines(FOUND, memory_bytes=2_000_000_000, disk_free_bytes=1_000_000)
    assert "more memory than there is" in memory and "gradient_checkpointing" in memory
    assert "more disk than is free" in disk and "save_total_limit" in disk


def test_the_plan_marks_what_was_given_and_breaks_no_line_of_the_forecast() -> None:
    job = Job(
        name="words",
        display_name="words",
        experiment_name="Default",
        type="pipeline",
        status=JobStatus.NOT_STARTED,
        inputs={"lora_r": 16, "train_file_path": {"type": "uri_file", "path": "/data/train.jsonl"}},
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    text = StringIO()
    lines = forecast_lines(FOUND, memory_bytes=24_000_000_000, disk_free_bytes=80_000_000_000)
    console = Console(file=text, width=60, highlight=False)
    render_plan(job, {"lora_r": 8, "lora_alpha": 128}, forecast=lines, console=console)
    shown = text.getvalue()
    rows = [line.split() for line in shown.splitlines()]
    assert ["●", "lora_r", "16"] in rows
    assert ["lora_alpha", "128"] in rows
    assert ["●", "train_file_path", "/data/train.jsonl"] in rows
    for line in lines:
        assert f"{line}\n" in shown
    assert shown.rstrip().endswith("Nothing wrong found; nothing was started.")
