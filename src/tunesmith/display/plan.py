"""What a fine-tuning job would do, before it does it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tunesmith.display.jobs import job_tree

if TYPE_CHECKING:
    from tunesmith.records.jobs import Job


def render_plan(job: Job, *, console: Console | None = None) -> None:
    """Print the resolved parameters and the steps of a job that was checked and not started."""
    console = console or Console(highlight=False)
    grid = Table(title="Resolved parameters", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    grid.add_column("parameter")
    grid.add_column("value", overflow="fold")
    for name, value in sorted(job.inputs.items()):
        shown = value.get("path", value) if isinstance(value, dict) else value
        grid.add_row(name, Text("" if shown is None else str(shown)))
    console.print(grid)
    console.print(job_tree(job))
    console.print("Nothing wrong found; nothing was started.", style="green")
