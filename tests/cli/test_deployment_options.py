"""Options of deployments become settings over those that are there."""

from __future__ import annotations

import pytest

from tunesmith.cli.deployment_options import collecting, scaling
from tunesmith.errors import UserError
from tunesmith.records.endpoints import Autoscale, DataCollector


def test_scaling_is_turned_on_by_its_most_and_changed_in_parts() -> None:
    assert scaling(None, None, None, None) is None
    assert scaling(2, 4, None, 0) == {"min_instances": 2, "max_instances": 4, "cool_down_s": 0}
    with pytest.raises(UserError, match="--target-queue-length needs --max-instances"):
        scaling(None, None, 3, None)
    known = Autoscale(max_instances=4)
    assert scaling(None, None, 3, None, known) == {**known.model_dump(), "target_queue_length": 3}


def test_collecting_is_turned_on_by_its_rate() -> None:
    assert collecting(None, None, []) is None
    assert collecting(0.5, "email, phone", ["a+b"]) == {
        "enabled": True,
        "sampling_rate": 0.5,
        "redact": ["email", "phone"],
        "redact_patterns": ["a+b"],
    }
    assert collecting(0.0, None, []) == {"enabled": False, "sampling_rate": 0.0}
    with pytest.raises(UserError, match="needs --sampling-rate"):
        collecting(None, "none", [], DataCollector())
    known = DataCollector(enabled=True, sampling_rate=0.1)
    assert collecting(None, "none", [], known) == {**known.model_dump(), "redact": []}
