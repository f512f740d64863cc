"""ISO 8601 durations, in which Azure's protocol writes times: ``PT1M30S`` is 90 seconds."""

from __future__ import annotations

import re

from tunesmith.errors import ValidationFailed

_PARTS = re.compile(
    r"P(?:(?P<weeks>\d+)W)?(?:(?P<days>\d+)D)?"
    r"(?:T(?:(?P<hours>\d+)H)?(?:(?P<minutes>\d+)M)?(?:(?P<seconds>\d+(?:[.,]\d+)?)S)?)?"
)
_SECONDS = {"weeks": 604_800, "days": 86_400, "hours": 3_600, "minutes": 60, "seconds": 1}


def read_duration(text: str, target: str) -> float:
    """Seconds in ``text``.

    Raises:
        ValidationFailed: it is no duration, or one in years or months, whose length depends on the calendar.
    """
    found = _PARTS.fullmatch(text.strip())
    given = {name: part for name, part in found.groupdict().items() if part} if found else {}
    if not given:
        raise ValidationFailed(
            f"{text[:80]!r} is not a duration", target=target, way_out="give it in ISO 8601, such as PT1M30S or PT10S"
        )
    return sum(float(part.replace(",", ".")) * _SECONDS[name] for name, part in given.items())


def write_duration(seconds: float) -> str:
    """``seconds`` as a duration, in milliseconds at the finest: ``PT1M30S``."""
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    last = f"{rest}.{milliseconds:03d}".rstrip("0") if milliseconds else str(rest)
    clock = "".join(
        f"{value}{unit}" for value, unit in ((str(hours), "H"), (str(minutes), "M"), (last, "S")) if value != "0"
    )
    text = (f"{days}D" if days else "") + (f"T{clock}" if clock else "")
    return f"P{text}" if text else "PT0S"
