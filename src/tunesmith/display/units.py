"""Numbers for a person."""

from __future__ import annotations

from datetime import UTC, datetime


def size(count: float | None) -> str:
    """Bytes, in powers of 1000."""
    if count is None:
        return ""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def seconds(value: float | None) -> str:
    """A span of time."""
    if value is None or value != value or value < 0:
        return ""
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def clock(value: float) -> str:
    """A span of time as m:ss."""
    minutes, rest = divmod(int(value), 60)
    return f"{minutes}:{rest:02d}"


def duration(start: datetime | None, end: datetime | None) -> str:
    """How long something took, or has taken so far."""
    if start is None:
        return ""
    return seconds(((end or datetime.now(UTC)) - start).total_seconds())


def when(time: datetime | None) -> str:
    """A moment in local time, to the second."""
    return time.astimezone().strftime("%Y-%m-%d %H:%M:%S") if time else ""
