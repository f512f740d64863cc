"""How records print: plain text, what Rich shows, what a notebook shows, and lists of them as tables."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from io import StringIO
from typing import TYPE_CHECKING, Generic, TypeVar, overload

from tunesmith.display.units import duration

if TYPE_CHECKING:
    from rich.console import RenderableType

T = TypeVar("T")


class Shown(ABC):
    """What prints: subclasses give ``__rich__``."""

    @abstractmethod
    def __rich__(self) -> RenderableType:
        """What Rich shows."""

    def __str__(self) -> str:
        return as_text(self.__rich__())

    def _repr_html_(self) -> str:
        return as_html(self.__rich__())


def as_text(renderable: RenderableType, *, width: int = 120) -> str:
    """Plain text of ``renderable``, without colours."""
    from rich.console import Console

    console = Console(file=StringIO(), width=width, no_color=True, force_terminal=False, highlight=False)
    console.print(renderable)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines())


def as_html(renderable: RenderableType, *, width: int = 120) -> str:
    """An HTML fragment of ``renderable`` with its own styles."""
    from rich.console import Console

    console = Console(file=StringIO(), width=width, record=True, force_jupyter=False)
    console.print(renderable)
    return console.export_html(
        inline_styles=True,
        code_format='<pre style="line-height:1.25;font-family:monospace;overflow-x:auto">{code}</pre>',
    )


class Listing(Shown, Sequence[T], Generic[T]):
    """A list of records that prints as a table."""

    def __init__(
        self, items: Iterable[T], columns: Sequence[tuple[str, Callable[[T], object]]], *, what: str = "items"
    ) -> None:
        self._items = list(items)
        self._columns = columns
        self._what = what

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        return self._items[index]

    def __len__(self) -> int:
        return len(self._items)

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, Sequence) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return str(self)

    def __rich__(self) -> RenderableType:
        from rich.table import Table

        if not self._items:
            return f"no {self._what}"
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name, _ in self._columns:
            table.add_column(name, overflow="fold")
        for item in self._items:
            table.add_row(*(text_of(value(item)) for _, value in self._columns))
        return table


def text_of(value: object) -> str:
    """How a value reads in a cell: local time to the second, an empty cell for nothing."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key}={text_of(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(text_of(item) for item in value)
    return str(value)


def seconds_of(start: datetime | None, end: datetime | None) -> str:
    """How long what has ended took; nothing while it goes on, since a printed record does not tick."""
    return "" if end is None else duration(start, end)


def card(title: str, rows: Iterable[tuple[str, object]]) -> RenderableType:
    """A title over a two-column table, without the rows that have nothing to say."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in rows:
        text = text_of(value)
        if text:
            table.add_row(name, Text(text))
    return Group(Text(title, style="bold"), table)
