"""What tests of steps need: a reporter that remembers."""

from __future__ import annotations

from tunesmith.reporting import Level, NullReporter


class Recorder(NullReporter):
    """Keeps notices (code and message) and log lines."""

    def __init__(self) -> None:
        self.notices: list[tuple[str, str]] = []
        self.lines: list[str] = []

    def notice(self, code: str, message: str, *, level: Level = "warning", count: int | None = None) -> None:
        self.notices.append((code, message))

    def log(self, message: str) -> None:
        self.lines.append(message)
