from __future__ import annotations

import pytest

from tunesmith.azure.durations import read_duration, write_duration
from tunesmith.errors import ValidationFailed


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("PT10M", 600),
        ("PT1M30S", 90),
        ("PT0.5S", 0.5),
        ("P1DT1H", 90_000),
        ("PT0S", 0),
        ("P1W", 604_800),
        ("PT90S", 90),
    ],
)
def test_durations_are_seconds(text: str, seconds: float) -> None:
    assert read_duration(text, "here") == seconds
    assert read_duration(write_duration(seconds), "here") == seconds


@pytest.mark.parametrize("text", ["", "P", "PT", "10", "PT10", "P1Y", "P1M", "PT-1S", "pt1s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValidationFailed) as caught:
        read_duration(text, "properties.period")
    assert caught.value.target == "properties.period"


def test_durations_are_written_as_short_as_can_be() -> None:
    written = [write_duration(seconds) for seconds in (0, 90, 600, 3600, 0.25, 1.5, 86_400, 90_061)]
    assert written == ["PT0S", "PT1M30S", "PT10M", "PT1H", "PT0.25S", "PT1.5S", "P1D", "P1DT1H1M1S"]
