"""What a fine-tuning job would do, before it does it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tunesmith.display.jobs import job_tree

if TYPE_CHECKING:
    from tunesmith.records.jobs import Job


def render_plan(
    job: Job, defaults: Mapping[str, Any], *, forecast: Sequence[str] = (), console: Console | None = None
) -> None:
    """Print the resolved parameters and the steps of a job that was checked and not started.

    ``defaults`` are the component's own; values that were given are marked. ``forecast`` are lines on what it costs.
    """
    console = console or Console(highlight=False)
    grid = Table(title="Resolved parameters (● given)", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    grid.add_column("")
    grid.add_column("parameter")
    grid.add_column("value", overflow="fold")
    for name, value in {**defaults, **job.inputs}.items():
        shown = value.get("path", value) if isinstance(value, dict) else value
        grid.add_row("●" if name in job.inputs else "", name, Text("" if shown is None else str(shown)))
    console.print(grid)
    console.print(job_tree(job))
    for line in forecast:
        console.print(Text(line), soft_wrap=True)
    console.print("Nothing wrong found; nothing was started.", style="green")
