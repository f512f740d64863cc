"""What ``--json`` prints."""

import json

import pytest

from tunesmith.cli.output import emit, plain
from tunesmith.client.printing import Listing
from tunesmith.records.jobs import MetricPoint


def test_listings_records_and_mappings_become_json(capsys: pytest.CaptureFixture[str]) -> None:
    points = Listing(
        [MetricPoint(key="loss", step=1, value=2.5, time=3.0)], (("metric", lambda p: p.key),), what="metrics"
    )
    body = {"key": "loss", "step": 1, "value": 2.5, "time": 3.0, "job_step": None}
    emit(points)
    assert json.loads(capsys.readouterr().out) == [body]
    assert plain({"a": (points[0], None, True)}) == {"a": [body, None, True]}
