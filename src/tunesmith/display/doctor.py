"""The doctor's findings for a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from tunesmith.records.workspace import Doctor

MARKS = {"ok": ("✓", "green"), "absent": ("-", "dim"), "problem": ("✗", "bold red")}


def render(found: Doctor, *, console: Console | None = None) -> None:
    """Print the machine and every item, problems last."""
    console = console or Console(highlight=False)
    machine = found.machine
    console.print(Text(f"{machine.processor}  {machine.platform}", style="bold"))
    if machine.instructions:
        console.print(Text(f"instructions: {', '.join(machine.instructions)}", style="dim"))
    grid = Table(box=None, show_header=False, pad_edge=False)
    grid.add_column()
    grid.add_column()
    grid.add_column(overflow="fold")
    order = ["ok", "absent", "problem"]
    for item in sorted(found.items, key=lambda each: order.index(each.state)):
        mark, style = MARKS[item.state]
        detail = Text(item.detail, style="dim" if item.state == "absent" else "")
        if item.way_out:
            detail.append(f"  → {item.way_out}", style="cyan" if item.state == "problem" else "dim cyan")
        grid.add_row(Text(mark, style), Text(item.name), detail)
    console.print(grid)
    problems = sum(item.state == "problem" for item in found.items)
    console.print(
        Text("Everything needed is here.", "green") if not problems else Text(f"{problems} to put right.", "bold red")
    )
