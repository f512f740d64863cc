from datetime import UTC, datetime, timedelta

import pytest

from tunesmith.display.units import clock, duration, seconds, size


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, ""), (0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (269_060_544, "269.1 MB"), (2.5e12, "2.5 TB")],
)
def test_size(count: float | None, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (float("nan"), ""),
        (-1, ""),
        (0.04, "0.0 s"),
        (59.9, "59.9 s"),
        (125, "2 min 05 s"),
        (7260, "2 h 01 min"),
    ],
)
def test_seconds(value: float | None, text: str) -> None:
    assert seconds(value) == text


def test_clock_and_duration() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    assert clock(125.9) == "2:05"
    assert duration(start, start + timedelta(seconds=90)) == "1 min 30 s"
    assert duration(None, start) == ""
