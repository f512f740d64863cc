"""Pydantic's complaints in the product's own words."""

from __future__ import annotations

import pytest

from tunesmith.errors import ValidationFailed
from tunesmith.records.endpoints import CreateDeployment
from tunesmith.records.jobs import SubmitJob
from tunesmith.records.validation import dotted, parse


def test_every_fault_is_in_one_answer_with_its_field() -> None:
    body = {"name": "blue", "modle": "m:1", "instance_count": -1, "liveness_probe": {"peroid": 3, "timeout": "x"}}
    with pytest.raises(ValidationFailed, match="the request has 6 faults") as caught:
        parse(CreateDeployment, body)
    faults = {fault.target: fault for fault in caught.value.details}
    assert set(faults) == {
        "endpoint",
        "model",
        "modle",
        "instance_count",
        "liveness_probe.peroid",
        "liveness_probe.timeout",
    }
    assert faults["modle"].way_out == "did you mean 'model'?"
    assert faults["liveness_probe.peroid"].way_out == "did you mean 'period'?"
    assert faults["endpoint"].message == "is required"
    assert faults["instance_count"].message == "input should be greater than or equal to 0, got -1"


def test_a_field_that_resembles_none_lists_the_known_ones() -> None:
    with pytest.raises(ValidationFailed) as caught:
        parse(SubmitJob, {"zzzzzz": 1}, what="job")
    (fault,) = caught.value.details
    assert (fault.code, fault.target) == ("UnknownField", "zzzzzz")
    assert "known fields: type, name, display_name" in (fault.way_out or "")


def test_long_values_are_cut_in_the_message() -> None:
    with pytest.raises(ValidationFailed) as caught:
        parse(SubmitJob, {"name": list(range(1000))})
    assert len(caught.value.details[0].message) < 120


def test_paths_read_as_people_write_them() -> None:
    assert dotted(("traffic", "blue", 0, "x")) == "traffic.blue[0].x"
    assert dotted(()) == ""
