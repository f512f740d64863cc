"""What the command line prints: tables and JSON on standard output, errors on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any

from tunesmith.cli.context import options
from tunesmith.display.units import duration, size, when
from tunesmith.errors import TunesmithError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["console", "duration", "emit", "exit_code_of", "plain", "say", "show_error", "size", "table", "when"]


def console() -> Console:
    """Standard output as a Rich console."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=False)


def exit_code_of(error: BaseException) -> int:
    """2 for a user's mistake, 1 for a failure."""
    if isinstance(error, TunesmithError):
        return error.exit_code
    return 2 if isinstance(error, FileNotFoundError | IsADirectoryError | PermissionError) else 1


def show_error(error: BaseException) -> None:
    """Print an error's cause, places and way out on standard error."""
    from rich.console import Console
    from rich.text import Text

    if options.json:
        body = error.to_dict() if isinstance(error, TunesmithError) else {"error": {"message": str(error)}}
        print(json.dumps(body, indent=2, ensure_ascii=False), file=sys.stderr)
        return
    out = Console(stderr=True, highlight=False)
    if not isinstance(error, TunesmithError):
        out.print(Text.assemble(("Error: ", "bold red"), f"{type(error).__name__}: {error}"))
        if not isinstance(error, OSError):
            out.print("  This is a fault in Tunesmith. Run again with --debug to see where.")
        return
    place = f"{error.target}: " if error.target else ""
    out.print(Text.assemble(("Error: ", "bold red"), place + error.message))
    for fault in error.details:
        out.print(Text(f"  - {fault}"))
    if error.way_out:
        out.print(Text.assemble(("  Way out: ", "bold"), error.way_out))


def emit(value: Any) -> None:
    """Print a value as JSON. Records, and lists and mappings of them, are dumped by their own rules."""
    print(json.dumps(plain(value), indent=2, ensure_ascii=False))


def plain(value: Any) -> Any:
    """A value as JSON's own types."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if hasattr(value, "to_dict"):
        return plain(value.to_dict())
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence | Set):
        return [plain(item) for item in value]
    return str(value)


def table(title: str | None, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str) -> None:
    """Print a table, or ``empty`` where there are no rows. In a pipe the columns are tab-separated, untrimmed."""
    rows = [["" if cell is None else str(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        print("\t".join(columns))
        for row in rows:
            print("\t".join(cell.replace("\t", " ").replace("\n", " ") for cell in row))
        return
    out = console()
    if not rows:
        out.print(empty)
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    grid = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        grid.add_column(column, overflow="fold")
    for row in rows:
        grid.add_row(*[Text(cell, style=STATE_STYLES.get(cell, "")) for cell in row])
    out.print(grid)


STATE_STYLES = {
    "Completed": "green",
    "Succeeded": "green",
    "Ready": "green",
    "imported": "green",
    "Failed": "bold red",
    "Canceled": "yellow",
    "Running": "cyan",
    "Queued": "cyan",
}


def say(message: str) -> None:
    """A line for a person. With ``--json`` it goes to standard error, so that standard output is JSON alone."""
    if options.json:
        print(message, file=sys.stderr)
    else:
        console().print(message, markup=False)
