"""What a training run gives back, and the lock that says exactly how it was made."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from tunesmith.finetune.files import write_text
from tunesmith.models.adapter_files import LOCK_FILE
from tunesmith.reporting import Level, Reporter

RESULT_FILE = "train_result.json"

Outcome = Literal["completed", "early_stopping", "max_minutes", "stopped"]


@dataclass(frozen=True, slots=True)
class HistoryPoint:
    """Numbers at one optimiser step."""

    step: int
    values: dict[str, float]


@dataclass(frozen=True, slots=True)
class Said:
    """A notice of the run."""

    code: str
    message: str
    level: Level
    count: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """How a run went. Times in seconds, memory in bytes, losses in nats per trained token."""

    outcome: Outcome
    steps: int
    total_steps: int
    steps_per_epoch: int
    train_loss: float
    """Over the last logged steps."""
    best_step: int | None
    """The step whose weights are the result."""
    best_metric: float | None
    metric_for_best_model: str
    tokens: int
    """Of the conversations seen, without padding."""
    trained_tokens: int
    seconds: float
    """Of optimiser steps, over all runs that were resumed."""
    evaluation_seconds: float
    tokens_per_second: float
    peak_memory_bytes: int
    parameters: int
    trainable_parameters: int
    learning_rate: float = 0.0
    """The highest of the schedule: as given, or as found."""
    rate_search: dict[str, Any] | None = None
    """What ``find_learning_rate`` saw: the suggestion, and rates with the change of the loss."""
    precision: dict[str, Any]
    attention: str
    resumed_from: int | None
    weights_sha256: str
    losses: list[float] = field(default_factory=list)
    """Of each optimiser step, per trained token; what a run that is made again is compared by."""
    history: list[HistoryPoint] = field(default_factory=list)
    notices: list[Said] = field(default_factory=list)
    output: str | None = None
    """The folder of the adapter or of the model package, relative to the output; ``None`` when the run was stopped."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def write(self, folder: Path) -> Path:
        """Write ``train_result.json`` into ``folder``."""
        path = folder / RESULT_FILE
        write_text(path, json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n")
        return path

    @classmethod
    def read(cls, folder: Path) -> TrainResult:
        """Read what ``write`` wrote."""
        body = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))
        body["history"] = [HistoryPoint(**point) for point in body["history"]]
        body["notices"] = [Said(**said) for said in body["notices"]]
        return cls(**body)


class KeepingReporter:
    """Passes everything on and keeps the notices, so that they stay with the run."""

    def __init__(self, inner: Reporter) -> None:
        self._inner = inner
        self.notices: list[Said] = []

    def progress(
        self, phase: str, done: float, total: float | None, *, unit: str = "", values: Mapping[str, Any] | None = None
    ) -> None:
        """Pass it on."""
        self._inner.progress(phase, done, total, unit=unit, values=values)

    def metric(self, step: int, values: Mapping[str, float]) -> None:
        """Pass it on."""
        self._inner.metric(step, values)

    def notice(self, code: str, message: str, *, level: Level = "warning", count: int | None = None) -> None:
        """Keep it and pass it on."""
        self.notices.append(Said(code, message, level, count))
        self._inner.notice(code, message, level=level, count=count)

    def log(self, message: str) -> None:
        """Pass it on."""
        self._inner.log(message)


_PACKAGES = ("tunesmith", "torch", "transformers", "tokenizers", "safetensors", "numpy", "peft")


def environment() -> dict[str, Any]:
    """Versions and machine, as far as they can change a number."""
    import torch

    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "python": sys.version.split()[0],
        "packages": versions,
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def write_lock(folder: Path, body: Mapping[str, Any]) -> Path:
    """Write ``run.lock`` into ``folder``."""
    path = folder / LOCK_FILE
    write_text(path, json.dumps(body, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
    return path
