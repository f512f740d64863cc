"""Why a step's process ended: from its events, its log and its exit code."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any


def last_error(events: Path, start: int) -> dict[str, Any] | None:
    """The last error event at or after the byte ``start``, in its inner wire form."""
    try:
        with events.open("rb") as file:
            file.seek(start)
            lines = file.read().splitlines()
    except FileNotFoundError:
        return None
    for line in reversed(lines):
        if b'"error"' in line:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if event.get("kind") == "error" and isinstance(event.get("error"), dict):
                return dict(event["error"])
    return None


def last_line(log: Path, start: int) -> str:
    """The last line of the log with something on it."""
    with log.open("rb") as file:
        file.seek(max(start, file.seek(0, os.SEEK_END) - 8192))
        lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1][:500] if lines else ""


def exit_message(code: int, last: str) -> str:
    """What an exit code says, with the log's last line."""
    number = -code if code < 0 else code - 128 if code > 128 else 0
    if number == signal.SIGKILL:
        message = "it was killed (SIGKILL), which the system does when memory runs out"
    elif number and number in {s.value for s in signal.Signals}:
        message = f"it was ended by {signal.Signals(number).name}"
    elif code == 127:
        message = "its command was not found (exit code 127)"
    else:
        message = f"it ended with exit code {code}"
    return f"{message}; last line: {last}" if last else message
