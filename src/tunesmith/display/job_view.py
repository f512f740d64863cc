"""Watches a job: live bars in a terminal, plain lines in a pipe.

The watcher only reads. Ending it leaves the job as it is.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn
from rich.text import Text

from tunesmith.display.units import clock, seconds, size

if TYPE_CHECKING:
    from tunesmith.client import Workspace
    from tunesmith.records.jobs import Job
    from tunesmith.records.workspace import JobEvent

PLAIN_INTERVAL = 10.0
"""Seconds between two progress lines of one phase where there is no terminal."""

VALUE_FORMATS = {
    "loss": "loss {:.3f}",
    "eval_loss": "eval {:.3f}",
    "learning_rate": "lr {:.1e}",
    "tokens_per_second": "{:,.0f} tok/s",
    "rows_per_second": "{:,.0f} rows/s",
    "tokens": "{:,.0f} tokens",
    "perplexity": "ppl {:.2f}",
}


def watch(ws: Workspace, name: str, *, console: Console | None = None) -> Job:
    """Show what the job ``name`` does until it ends; returns it as it then is."""
    console = console or Console(highlight=False)
    view = _Live(console) if console.is_terminal else _Plain(console)
    try:
        with view:
            for event in ws.jobs.events(name, follow=True):
                view.take(event)
    except KeyboardInterrupt:
        console.print(
            f"The job goes on. Watch it again: tunesmith jobs stream {name}. Stop it: tunesmith jobs cancel {name}",
            markup=False,
        )
        raise
    return ws.jobs.get(name)


def values_text(values: Mapping[str, Any]) -> str:
    """The numbers beside a bar."""
    parts = []
    for key, form in VALUE_FORMATS.items():
        value = values.get(key)
        if isinstance(value, int | float):
            parts.append(form.format(value))
    return "  ".join(parts)


def amount(done: float, total: float | None, unit: str) -> str:
    """``12/60 steps``, ``3.1/98.4 MB``."""
    if unit == "bytes":
        return f"{size(done)} of {size(total)}" if total else size(done)
    return f"{done:,.0f}/{total:,.0f} {unit}" if total else f"{done:,.0f} {unit}"


def short(step: str) -> str:
    """The last part of a step's path, without the pipeline's prefix."""
    return step.rsplit("/", 1)[-1].removeprefix("chat_completion_").removeprefix("ft_nlp_").replace("_", " ")


class _Amount(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(amount(task.completed, task.total, task.fields["unit"]), style="dim")


class _Left(ProgressColumn):
    def render(self, task: Task) -> Text:
        eta = task.fields.get("eta")
        left = eta if eta is not None else task.time_remaining
        text = clock(task.finished_time if task.finished and task.finished_time else task.elapsed or 0)
        if not task.finished and left is not None:
            text += f" (left {clock(left)})"
        return Text(text, style="cyan")


class _Live:
    """Bars, one for each phase of each step."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            SpinnerColumn(finished_text=Text("✓", style="green")),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            _Amount(),
            TextColumn("[bold]{task.fields[values]}"),
            _Left(),
            console=console,
            refresh_per_second=8,
        )
        self._console = console
        self._bars: dict[tuple[str, str], TaskID] = {}
        self._started: dict[str, float] = {}

    def __enter__(self) -> _Live:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def take(self, event: JobEvent) -> None:
        step = event.step or ""
        if event.kind == "progress":
            self._bar(step, event.data)
        elif event.kind == "step":
            self._state(step, event)
        elif event.kind == "notice":
            colour = "yellow" if event.data.get("level", "warning") == "warning" else "dim"
            self._print(f"  ! {event.data.get('message', '')}", colour)

    def _print(self, text: str, style: str) -> None:
        self._progress.console.print(Text(text, style=style))

    def _bar(self, step: str, data: Mapping[str, Any]) -> None:
        key = (step, str(data.get("phase", "")))
        fields: dict[str, Any] = {"values": values_text(data.get("values") or {}), "unit": data.get("unit") or ""}
        eta = (data.get("values") or {}).get("eta_s")
        if key not in self._bars:
            label = f"{short(step)}: {key[1]}" if step else key[1]
            self._bars[key] = self._progress.add_task(label, total=data.get("total"), eta=eta, **fields)
        self._progress.update(
            self._bars[key], total=data.get("total"), completed=data.get("done", 0), eta=eta, **fields
        )

    def _state(self, step: str, event: JobEvent) -> None:
        status = event.data.get("status")
        if status == "Running":
            self._started[step] = event.t
        elif status == "Completed":
            reused = event.data.get("reused_from")
            took = f"reused from {reused}" if reused else seconds(event.t - self._started.get(step, event.t))
            for (owner, _), bar in self._bars.items():
                task = self._progress.tasks[self._progress.task_ids.index(bar)]
                if owner == step and not task.finished:
                    self._progress.update(bar, total=max(task.completed, 1), completed=max(task.completed, 1))
            self._print(f"{'↺' if reused else '✓'} {short(step)}  {took}", "green")
        elif status == "Failed":
            error = (event.data.get("error") or {}).get("error", {})
            self._print(f"✗ {short(step)}: {error.get('message', 'failed')}", "bold red")
        elif status == "Canceled":
            self._print(f"✗ {short(step)}: canceled", "yellow")


class _Plain:
    """Lines for logs and pipes: states, notices, and each phase now and then."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last: dict[tuple[str, str], float] = {}
        self._started: dict[str, float] = {}

    def __enter__(self) -> _Plain:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)

    def take(self, event: JobEvent) -> None:
        step, data = event.step or "", event.data
        if event.kind == "progress":
            key = (step, str(data.get("phase", "")))
            done, total = data.get("done", 0), data.get("total")
            ended = total is not None and done >= total
            now = time.monotonic()
            if not ended and now - self._last.get(key, -1e9) < PLAIN_INTERVAL:
                return
            self._last[key] = now
            values = values_text(data.get("values") or {})
            self._print(f"  {short(step)}: {key[1]} {amount(done, total, data.get('unit') or '')}  {values}".rstrip())
        elif event.kind == "step":
            status, reused = data.get("status"), data.get("reused_from")
            if status == "Running":
                self._started[step] = event.t
            took = ""
            if status == "Completed":
                took = (
                    f" (reused from {reused})"
                    if reused
                    else f" ({seconds(event.t - self._started.get(step, event.t))})"
                )
            elif status == "Failed":
                took = ": " + str((data.get("error") or {}).get("error", {}).get("message", ""))
            self._print(f"{short(step)}: {status}{took}")
        elif event.kind == "notice":
            self._print(f"  ! {data.get('message', '')}")
