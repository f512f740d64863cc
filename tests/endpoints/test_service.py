"""The wanted state: checks, keys, and what is on the disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.house import Rooms
from tunesmith.errors import Conflict, InvalidModel, NotAuthenticated, NotFound, TooManyRequests, ValidationFailed
from tunesmith.records.endpoints import CreateDeployment, CreateEndpoint, Deployment, UpdateDeployment, UpdateEndpoint


@pytest.fixture
def rooms(tmp_path: Path) -> Iterator[Rooms]:
    (tmp_path / "model").mkdir()
    made = Rooms(tmp_path / "home", {"m": tmp_path / "model", "lost": tmp_path / "nowhere"}, "http://here")
    yield made
    made.database.close()


def deploy(rooms: Rooms, name: str = "blue", **changes: object) -> Deployment:
    values = {"name": name, "endpoint": "chat", "model": "m", **changes}
    return rooms.service.create_or_update_deployment(CreateDeployment.model_validate(values))


def reopened(rooms: Rooms) -> Rooms:
    """The same workspace in a new server."""
    rooms.database.close()
    return Rooms(rooms.paths.home, rooms.resolver.models, "http://here")


def test_an_endpoint_is_made_shown_and_found_again(rooms: Rooms) -> None:
    made = rooms.service.create_or_update(CreateEndpoint(name="chat", description="for people", tags={"a": "b"}))
    assert made.provisioning_state == "Succeeded"
    assert made.scoring_uri == "http://here/endpoints/chat/score"
    assert made.openai_uri == "http://here/endpoints/chat/v1"
    keys = rooms.service.keys("chat")
    deploy(rooms)
    rooms.service.update("chat", UpdateEndpoint(traffic={"blue": 100}))
    shown = rooms.service.get("chat"), rooms.service.get_deployment("chat", "blue")
    later = reopened(rooms)
    assert (later.service.get("chat"), later.service.get_deployment("chat", "blue")) == shown
    assert later.service.keys("chat") == keys
    later.database.close()


def test_keys_are_not_on_the_disk_in_clear(rooms: Rooms) -> None:
    rooms.service.create_or_update(CreateEndpoint(name="chat"))
    keys = rooms.service.keys("chat")
    rooms.database.close()
    for path in rooms.paths.home.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert keys.primary_key.encode() not in data
            assert keys.secondary_key.encode() not in data


def test_a_regenerated_key_replaces_only_itself(rooms: Rooms) -> None:
    rooms.service.create_or_update(CreateEndpoint(name="chat"))
    before = rooms.service.keys("chat")
    after = rooms.service.regenerate_key("chat", "secondary")
    assert after.primary_key == before.primary_key
    assert after.secondary_key != before.secondary_key
    rooms.service.authenticate("chat", f"Bearer {before.primary_key}")
    rooms.service.authenticate("chat", f"bearer {after.secondary_key}")
    with pytest.raises(NotAuthenticated, match="does not open"):
        rooms.service.authenticate("chat", f"Bearer {before.secondary_key}")
    with pytest.raises(ValidationFailed):
        rooms.service.regenerate_key("chat", "third")  # type: ignore[arg-type]


def test_a_missing_endpoint_and_a_wrong_key_look_alike_and_a_storm_is_slowed(rooms: Rooms) -> None:
    rooms.service.create_or_update(CreateEndpoint(name="chat"))
    said = []
    for name in ("chat", "nothing"):
        with pytest.raises(NotAuthenticated) as caught:
            rooms.service.authenticate(name, "Bearer wrong", "1.2.3.4")
        said.append(caught.value.to_dict())
    assert said[0] == said[1]
    with pytest.raises(NotAuthenticated, match="no key"):
        rooms.service.authenticate("chat", None, "1.2.3.4")
    with pytest.raises(TooManyRequests) as slowed:
        for _ in range(100):
            with pytest.raises(NotAuthenticated):
                rooms.service.authenticate("chat", "Bearer wrong", "1.2.3.4")
    assert 0 < slowed.value.extra["retry_after"] <= 60
    # Neither the one with the right key nor another caller is slowed.
    rooms.service.authenticate("chat", f"Bearer {rooms.service.keys('chat').primary_key}", "1.2.3.4")
    with pytest.raises(NotAuthenticated):
        rooms.service.authenticate("chat", "Bearer wrong", "5.6.7.8")


def test_tokens_open_an_endpoint_of_their_mode_and_keys_do_not(rooms: Rooms) -> None:
    rooms.service.create_or_update(CreateEndpoint(name="chat", auth_mode="aml_token"))
    token = rooms.service.token("chat")
    assert token.refresh_after_time_utc < token.expiry_time_utc
    rooms.service.authenticate("chat", f"Bearer {token.access_token}")
    with pytest.raises(NotAuthenticated, match="the token does not open"):
        rooms.service.authenticate("chat", f"Bearer {rooms.service.keys('chat').primary_key}")
    rooms.service.regenerate_key("chat", "primary")
    with pytest.raises(NotAuthenticated):
        rooms.service.authenticate("chat", f"Bearer {token.access_token}")
    rooms.service.create_or_update(CreateEndpoint(name="keyed"))
    with pytest.raises(Conflict, match="uses keys"):
        rooms.service.token("keyed")


def test_every_fault_of_an_endpoint_is_in_one_answer(rooms: Rooms) -> None:
    with pytest.raises(ValidationFailed) as caught:
        rooms.service.create_or_update(
            CreateEndpoint(name="1!", traffic={"blue": 50}, mirror_traffic={"green": 60}),
        )
    targets = [fault.target for fault in caught.value.details]
    assert targets == ["name", "name", "traffic.blue", "traffic", "mirror_traffic.green", "mirror_traffic.green"]
    assert rooms.service.list() == []
    rooms.service.create_or_update(CreateEndpoint(name="chat"))
    with pytest.raises(ValidationFailed, match="cannot be made"):
        rooms.service.create_or_update(CreateEndpoint(name="CHAT"))
    with pytest.raises(NotFound, match="there is no endpoint 'other'"):
        rooms.service.get("other")


def test_a_deployment_needs_its_endpoint_its_name_and_its_weights(rooms: Rooms) -> None:
    with pytest.raises(NotFound, match="no endpoint 'chat'"):
        deploy(rooms)
    rooms.service.create_or_update(CreateEndpoint(name="chat"))
    with pytest.raises(ValidationFailed):
        deploy(rooms, "x")
    with pytest.raises(InvalidModel, match="not on this machine"):
        deploy(rooms, model="lost")
    with pytest.raises(NotFound, match="no model 'unknown'"):
        deploy(rooms, model="unknown")
    made = deploy(rooms)
    assert (made.provisioning_state, made.model) == ("Creating", "azureml:m:1")
    with pytest.raises(NotFound, match="no deployment 'green'"):
        rooms.service.get_deployment("chat", "green")
    for number in range(19):
        deploy(rooms, f"more{number}")
    with pytest.raises(ValidationFailed, match="cannot be made") as caught:
        deploy(rooms, "toomany")
    assert "has 20 deployments" in caught.value.details[0].message


def test_only_what_an_instance_is_made_of_starts_a_new_generation(rooms: Rooms) -> None:
    rooms.service.create_or_update(CreateEndpoint(name="chat"))
    deploy(rooms)

    def generation() -> int:
        return rooms.service.wanted()[0].generation

    rooms.service.update_deployment("chat", "blue", UpdateDeployment(instance_count=0, description="idle"))
    assert generation() == 1
    record = rooms.service.get_deployment("chat", "blue")
    assert (record.instance_count, record.description) == (0, "idle")
    rooms.service.update_deployment("chat", "blue", UpdateDeployment(environment_variables={"A": "1"}))
    assert generation() == 2
    rooms.service.outcomes.report(("chat", "blue"), 1, "Failed", error={"message": "of an old generation"})
    assert rooms.service.get_deployment("chat", "blue").provisioning_state == "Creating"
    rooms.service.outcomes.report(("chat", "blue"), 2, "Failed", error={"message": "melted"}, log_tail=["a", "b"])
    record = rooms.service.get_deployment("chat", "blue")
    assert (record.provisioning_state, record.error, record.log_tail) == ("Failed", {"message": "melted"}, ["a", "b"])
    rooms.service.update_deployment("chat", "blue", UpdateDeployment(description="try again"))
    assert generation() == 3


def test_listeners_hear_of_what_is_gone(rooms: Rooms) -> None:
    rooms.service.create_or_update(CreateEndpoint(name="chat"))
    deploy(rooms)
    rooms.service.delete("chat")
    heard: list[tuple[int, int]] = []
    rooms.service.subscribe(
        lambda: heard.append((len(rooms.service.wanted()), len(rooms.service.deleting_endpoints())))
    )
    rooms.service.outcomes.forget_deployment(("chat", "blue"))
    rooms.service.outcomes.forget_endpoint("chat")
    assert heard == [(0, 1), (0, 0)]


def test_a_deployment_with_traffic_cannot_be_deleted(rooms: Rooms) -> None:
    rooms.service.create_or_update(CreateEndpoint(name="chat"))
    deploy(rooms)
    deploy(rooms, "green")
    record = rooms.service.update("chat", UpdateEndpoint(traffic={"blue": 100}, mirror_traffic={"green": 10}))
    assert record.traffic == {"blue": 100, "green": 0}
    for name in ("blue", "green"):
        with pytest.raises(Conflict, match="of the traffic"):
            rooms.service.delete_deployment("chat", name)
    rooms.service.update("chat", UpdateEndpoint(traffic={"green": 100}, mirror_traffic={}))
    rooms.service.delete_deployment("chat", "blue")
    with pytest.raises(ValidationFailed, match="cannot be changed so"):
        rooms.service.update("chat", UpdateEndpoint(traffic={"blue": 100}))
    with pytest.raises(Conflict, match="being deleted"):
        deploy(rooms)
    rooms.service.outcomes.forget_deployment(("chat", "blue"))
    assert rooms.service.get("chat").traffic == {"green": 100}
    assert deploy(rooms).provisioning_state == "Creating"
    rooms.service.delete("chat")
    with pytest.raises(NotAuthenticated):
        rooms.service.authenticate("chat", f"Bearer {rooms.service.keys('chat').primary_key}")
    rooms.service.outcomes.forget_endpoint("chat")
    assert rooms.service.get("chat").provisioning_state == "Deleting"  # its deployments are still there
    for name in ("blue", "green"):
        rooms.service.outcomes.forget_deployment(("chat", name))
    rooms.service.outcomes.forget_endpoint("chat")
    assert rooms.service.list() == []
    later = reopened(rooms)
    assert later.service.list() == []
    later.database.close()
