"""How the craft tells what it is doing, without knowing who listens.

Functions on the ground floor take a ``Reporter``. A step of a job passes a ``FileReporter``, whose lines the
server reads and shows; a script may pass none. Nothing is silent: whatever is dropped, cut, waived or ignored goes
through ``notice`` with its count, and is kept with the run.

An event is one JSON object on one line:

    {"t": 1764.12, "kind": "progress", "phase": "train", "done": 3, "total": 120, "unit": "steps", "values": {...}}
    {"t": …, "kind": "metric", "step": 3, "values": {"loss": 2.31, "learning_rate": 0.001}}
    {"t": …, "kind": "notice", "code": "RowsDropped", "message": "37 of 1,000 …", "level": "warning", "count": 37}
    {"t": …, "kind": "log", "message": "…"}
    {"t": …, "kind": "error", "error": {…the wire form of an error…}}
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

EVENTS_VARIABLE = "TUNESMITH_EVENTS"
"""Environment variable that names the file a step appends its events to."""

Level = Literal["info", "warning"]


class Reporter(Protocol):
    """What the craft may say."""

    def progress(
        self, phase: str, done: float, total: float | None, *, unit: str = "", values: Mapping[str, Any] | None = None
    ) -> None:
        """``done`` of ``total`` ``unit`` in ``phase``; ``values`` are shown beside the bar (loss, tokens/s, eta_s)."""

    def metric(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers for the tracking store, at an optimiser step."""

    def notice(self, code: str, message: str, *, level: Level = "warning", count: int | None = None) -> None:
        """Something dropped, cut, waived or different from what was asked."""

    def log(self, message: str) -> None:
        """A line for the reader of the log."""


class NullReporter:
    """Listens to nothing. For tests and for scripts that do not care."""

    def progress(
        self, phase: str, done: float, total: float | None, *, unit: str = "", values: Mapping[str, Any] | None = None
    ) -> None:
        """Ignore it."""

    def metric(self, step: int, values: Mapping[str, float]) -> None:
        """Ignore it."""

    def notice(self, code: str, message: str, *, level: Level = "warning", count: int | None = None) -> None:
        """Ignore it."""

    def log(self, message: str) -> None:
        """Ignore it."""


class FileReporter:
    """Appends events to a file, one whole line per write, and echoes logs and notices on standard output.

    ``progress`` is written at most every ``interval`` seconds for a phase, and always at its end, so that a long
    phase does not fill the disk.
    """

    def __init__(self, path: Path, *, interval: float = 0.25, echo: bool = True) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._interval = interval
        self._echo = echo
        self._last: dict[str, float] = {}
        self._lock = threading.Lock()

    @classmethod
    def from_environment(cls) -> Reporter:
        """The reporter of this step: a file when the runner named one, silence otherwise."""
        path = os.environ.get(EVENTS_VARIABLE)
        return cls(Path(path)) if path else NullReporter()

    def _write(self, kind: str, body: Mapping[str, Any]) -> None:
        line = json.dumps({"t": round(time.time(), 3), "kind": kind, **body}, ensure_ascii=False, allow_nan=True)
        with self._lock:
            os.write(self._file, line.encode("utf-8", "surrogatepass") + b"\n")

    def progress(
        self, phase: str, done: float, total: float | None, *, unit: str = "", values: Mapping[str, Any] | None = None
    ) -> None:
        """Write a progress event, thinned."""
        now = time.monotonic()
        ended = total is not None and done >= total
        if not ended and now - self._last.get(phase, -1e9) < self._interval:
            return
        self._last[phase] = now
        self._write(
            "progress",
            {"phase": phase, "done": done, "total": total, "unit": unit, "values": dict(values or {})},
        )

    def metric(self, step: int, values: Mapping[str, float]) -> None:
        """Write a metric event."""
        self._write("metric", {"step": step, "values": {key: float(value) for key, value in values.items()}})

    def notice(self, code: str, message: str, *, level: Level = "warning", count: int | None = None) -> None:
        """Write a notice and echo it."""
        self._write("notice", {"code": code, "message": message, "level": level, "count": count})
        if self._echo:
            print(f"{level}: {message}", flush=True)

    def log(self, message: str) -> None:
        """Write a log line and echo it."""
        self._write("log", {"message": message})
        if self._echo:
            print(message, flush=True)

    def error(self, body: Mapping[str, Any]) -> None:
        """Write the error that ends this step, in its wire form (``TunesmithError.to_dict()``)."""
        self._write("error", dict(body))
