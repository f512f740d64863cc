from __future__ import annotations

import json
from pathlib import Path

import pytest
from starlette.requests import Request

from tests.azure.wire import W, azure_wire
from tunesmith.azure.operations import Operations, OperationState
from tunesmith.azure.paths import normalise
from tunesmith.errors import DeploymentFailed, NotFound


def request(path: str = W) -> Request:
    short, target = normalise("management.azure.com", path)
    return Request({"type": "http", "path": short, "query_string": b"", "headers": [], "azure": target})


def test_an_operation_goes_on_until_it_is_over() -> None:
    states = [OperationState("InProgress"), OperationState("Succeeded")]
    asked: list[tuple[str, str]] = []

    def watch(endpoint: str, deployment: str) -> OperationState:
        asked.append((endpoint, deployment))
        return states.pop(0)

    operations = Operations()
    operations.watch("deployment", watch)
    answer = operations.accepted(request(), "deployment", "e", "blue", body={"name": "blue"})
    assert answer.status_code == 201
    assert json.loads(bytes(answer.body)) == {"name": "blue"}
    assert answer.headers["x-ms-retry-after-ms"] == "250"
    url = answer.headers["azure-asyncoperation"]
    assert url.startswith("https://management.azure.com/subscriptions/sub/providers/Microsoft.MachineLearningServices/")
    # Another server, after a restart, knows the operation by its id.
    restarted = Operations()
    restarted.watch("deployment", watch)
    identity = url.rsplit("/", 1)[1].partition("?")[0]
    first, second = restarted.answer(request(), identity), restarted.answer(request(), identity)
    assert json.loads(bytes(first.body))["status"] == "InProgress"
    assert first.headers["x-ms-retry-after-ms"] == "250"
    assert json.loads(bytes(second.body))["status"] == "Succeeded"
    assert "x-ms-retry-after-ms" not in second.headers
    assert asked == [("e", "blue")] * 2


def test_a_failure_says_why() -> None:
    operations = Operations()
    error = DeploymentFailed("the model does not load", way_out="look into the log")
    operations.watch("deployment", lambda name: OperationState("Failed", error))
    identity = operations.accepted(request(), "deployment", "e").headers["azure-asyncoperation"].rsplit("/", 1)[1]
    body = json.loads(bytes(operations.answer(request(), identity.partition("?")[0]).body))
    assert body["status"] == "Failed"
    assert body["error"]["code"] == "DeploymentFailed"
    assert body["error"]["message"] == "the model does not load. Way out: look into the log"


@pytest.mark.parametrize("identity", ["x", "W10", "WyJub2JvZHkiXQ", "e30"])
def test_an_id_that_is_none(identity: str) -> None:
    with pytest.raises(NotFound, match="there is no operation"):
        Operations().answer(request(), identity)


def test_nobody_starts_what_nobody_watches() -> None:
    with pytest.raises(ValueError, match="nobody watches 'deployment'"):
        Operations().accepted(request(), "deployment")


def test_an_unknown_id_on_the_wire(tmp_path: Path) -> None:
    with azure_wire(tmp_path / "home") as wire:
        url = (
            "https://management.azure.com/subscriptions/s/providers/Microsoft.MachineLearningServices/locations/eastus"
        )
        assert wire.call("GET", f"{url}/mfeOperationsStatus/x", status=404)["error"]["code"] == "ResourceNotFound"
