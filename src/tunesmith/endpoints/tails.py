"""The ends of log files."""

from __future__ import annotations

from pathlib import Path


def tail(path: Path, lines: int, *, limit: int = 256 * 1024) -> list[str]:
    """The last ``lines`` lines of a text file, reading at most ``limit`` bytes of its end."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - limit))
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return []
    return text.splitlines()[-lines:] if lines > 0 else []
