"""The number of instances follows the load: the rule by itself, and real instances under real requests."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.support.house import House, until
from tunesmith.endpoints.autoscale import Autoscaler, Decision, Load, needed
from tunesmith.errors import ValidationFailed
from tunesmith.records.endpoints import Autoscale, RequestSettings, UpdateDeployment, UpdateEndpoint

LIMITS = Autoscale(min_instances=1, max_instances=4, target_queue_length=2, cool_down_s=60)


def load(requests: int, slots: int = 8, instances: int = 1) -> Load:
    running = min(requests, slots * instances)
    return Load(in_flight=running, queued=requests - running, slots=slots)


@pytest.mark.parametrize(
    ("requests", "expected"), [(0, 1), (8, 1), (10, 1), (11, 2), (20, 2), (21, 3), (30, 3), (40, 4), (400, 4)]
)
def test_another_instance_is_needed_when_more_than_the_target_would_wait(requests: int, expected: int) -> None:
    assert needed(LIMITS, load(requests)) == expected


def test_up_is_at_once_and_as_far_as_needed() -> None:
    scaler = Autoscaler(now=0.0)
    decision = scaler.decide(LIMITS, 1, load(25), now=0.1)
    assert decision == Decision(3, "17 requests wait and 8 run; at most 2 are to wait for each instance")
    assert scaler.decide(LIMITS, 3, load(25, instances=3), now=0.2) is None


def test_down_is_after_a_cool_down_in_which_fewer_sufficed_and_no_further_than_they_did() -> None:
    scaler = Autoscaler(now=0.0)
    assert scaler.decide(LIMITS, 1, load(35), now=1.0) == Decision(
        4, "27 requests wait and 8 run; at most 2 are to wait for each instance"
    )
    assert scaler.decide(LIMITS, 4, load(15, instances=4), now=30.0) is None
    assert scaler.decide(LIMITS, 4, load(0), now=60.9) is None  # the peak of 1.0 is within the cool-down
    assert scaler.decide(LIMITS, 4, load(0), now=61.1) == Decision(2, "2 sufficed for 60 s")
    assert scaler.decide(LIMITS, 2, load(0), now=91.0) is None  # one cool-down for each step down
    assert scaler.decide(LIMITS, 2, load(0), now=121.2) == Decision(1, "1 sufficed for 60 s")
    assert scaler.decide(LIMITS, 1, load(0), now=1000.0) is None


def test_limits_are_kept_from_both_sides() -> None:
    scaler = Autoscaler(now=0.0)
    raised = LIMITS.model_copy(update={"min_instances": 3})
    assert scaler.decide(raised, 1, load(0), now=0.1) == Decision(
        3, "0 requests wait and 0 run; at most 2 are to wait for each instance"
    )


@pytest.mark.parametrize(
    ("limits", "count", "target"),
    [
        ({"min_instances": 3, "max_instances": 2}, None, "autoscale.min_instances"),
        ({"max_instances": 2}, 5, "instance_count"),
        ({"min_instances": 2, "max_instances": 3}, 1, "instance_count"),
    ],
)
def test_faulty_limits_are_named(house: House, limits: dict[str, int], count: int | None, target: str) -> None:
    asked = {"autoscale": Autoscale(**limits), **({} if count is None else {"instance_count": count})}
    with pytest.raises(ValidationFailed) as caught:
        house.deploy("faulty", "blue", "azureml:tiny-phi3:1", wait=False, **asked)
    assert [(fault.target, fault.code) for fault in caught.value.details] == [(target, "InvalidScaleSettings")]


def test_instances_come_with_the_queue_and_go_after_the_cool_down(house: House, models: dict[str, Path]) -> None:
    limits = RequestSettings(max_concurrent_requests_per_instance=1, max_queue_wait_ms=60_000)
    scaling = Autoscale(min_instances=1, max_instances=2, target_queue_length=1, cool_down_s=2)
    made = house.deploy("elastic", "blue", "azureml:tiny-phi3:1", request_settings=limits, autoscale=scaling)
    assert (made.instance_count, made.scale_events) == (1, [])
    house.service.update("elastic", UpdateEndpoint(traffic={"blue": 100}))

    stop = threading.Event()
    statuses: list[int] = []

    def ask() -> None:
        with house.client("elastic") as client:
            while not stop.is_set():
                answer = client.post(
                    "/v1/chat/completions",
                    json={"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 24, "temperature": 0},
                )
                statuses.append(answer.status_code)

    def deployment() -> tuple[int, int]:
        record = house.service.get_deployment("elastic", "blue")
        return record.instance_count, record.ready_instances

    callers = [threading.Thread(target=ask) for _ in range(4)]
    for caller in callers:
        caller.start()
    try:
        until(lambda: deployment() == (2, 2), "a second instance to be ready")
    finally:
        stop.set()
        for caller in callers:
            caller.join(60)
    until(lambda: deployment()[0] == 1, "the second instance to be given up")

    def alone() -> bool:
        return len(house.service.get_deployment("elastic", "blue").instances) == 1

    until(alone, "the second instance to go")
    assert set(statuses) == {200}
    record = house.ready("elastic", "blue")
    assert [(event.from_instances, event.to_instances) for event in record.scale_events] == [(1, 2), (2, 1)]
    assert record.scale_events[1].reason == "1 sufficed for 2 s"
    said = house.service.logs("elastic", "blue")
    assert "== autoscale ==" in said
    assert said[-1].endswith("autoscale: 2 → 1 instances: 1 sufficed for 2 s")

    # What load decided outlives an update that does not speak of it, and "off" keeps what is there.
    changed = house.service.update_deployment("elastic", "blue", UpdateDeployment(autoscale="off"))
    assert (changed.autoscale, changed.instance_count) == (None, 1)
    again = house.service.update_deployment(
        "elastic", "blue", UpdateDeployment(autoscale=Autoscale(min_instances=2, max_instances=3))
    )
    assert again.instance_count == 2
    house.service.update("elastic", UpdateEndpoint(traffic={"blue": 0}))
