"""Names, traffic and mirrors by Azure's rules."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.endpoints.rules import mirror_faults, name_faults, traffic_faults


@pytest.mark.parametrize("name", ["abc", "A-1", "chat-2", "a" * 32])
def test_good_names(name: str) -> None:
    assert list(name_faults(name)) == []


@pytest.mark.parametrize("name", ["ab", "a" * 33, "1ab", "abc-", "a_b", "../x", "", "ab\n", "äbc"])
def test_bad_names_are_faults_that_name_the_field(name: str) -> None:
    faults = list(name_faults(name))
    assert faults
    assert {fault.target for fault in faults} == {"name"}


@given(st.text(max_size=40))
def test_the_rule_is_azures(name: str) -> None:
    allowed = re.fullmatch(r"[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?", name) is not None and 3 <= len(name) <= 32
    assert (not list(name_faults(name))) == allowed


def test_traffic_sums_to_0_or_100_over_known_deployments() -> None:
    known = {"blue", "green"}
    assert list(traffic_faults({"blue": 90, "green": 10}, known)) == []
    assert list(traffic_faults({"blue": 0, "green": 0}, known)) == []
    assert list(traffic_faults({}, known)) == []
    (fault,) = traffic_faults({"blue": 90, "green": 5}, known)
    assert fault.message == "the shares sum to 95 (blue 90, green 5); they must sum to 0 or 100"
    unknown, *_ = traffic_faults({"gren": 100}, known)
    assert (unknown.target, unknown.way_out) == ("traffic.gren", "did you mean 'green'?")
    targets = [fault.target for fault in traffic_faults({"blue": 150, "green": -50}, known)]
    assert targets == ["traffic.blue", "traffic.green"]


def test_a_mirror_is_one_deployment_with_at_most_half() -> None:
    known = {"blue", "green"}
    assert list(mirror_faults({"green": 50}, known)) == []
    assert list(mirror_faults({"green": 10, "blue": 0}, known)) == []
    assert [fault.target for fault in mirror_faults({"green": 51}, known)] == ["mirror_traffic.green"]
    assert [fault.target for fault in mirror_faults({"green": 1, "blue": 1}, known)] == ["mirror_traffic"]
