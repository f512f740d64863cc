"""A room uses what stands below it in the drawing, never what stands above."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "tunesmith"

MAY_LOOK_UP = {("display", "client")}
"""For types only: the live view names the client whose events it shows."""


def rooms() -> list[str]:
    """The rooms from the ground up, as docs/architecture.md draws them."""
    drawing = (
        (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split("src/tunesmith/\n", 1)[1].split("```")[0]
    )
    return re.findall(r"^  ([a-z_]+)(?:/|\.py)\s", drawing, flags=re.MULTILINE)


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """The rooms that a module imports, anywhere in it, with the line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module if node.module != "tunesmith" else f"tunesmith.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "tunesmith" and len(parts) > 1:
                yield parts[1], node.lineno  # type: ignore[attr-defined]


def test_every_room_is_drawn() -> None:
    found = {room_of(path) for path in SOURCE.rglob("*.py")} - {"__init__", "__main__", "_version"}
    assert found == set(rooms())


def test_no_room_uses_a_room_above_it() -> None:
    height = {room: number for number, room in enumerate(rooms())}
    upward = [
        f"{path.relative_to(ROOT)}:{line} uses {used}"
        for path in sorted(SOURCE.rglob("*.py"))
        if (room := room_of(path)) in height
        for used, line in imports(path)
        if used in height and height[used] > height[room] and (room, used) not in MAY_LOOK_UP
    ]
    assert upward == []
