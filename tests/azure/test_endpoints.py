"""Online endpoints and deployments over the wire, call by call. No controller runs here, so what it would report is
reported by hand; with instances that answer they are in ``test_sdk``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.azure.wire import W, Wire, azure_wire
from tests.support.tiny import tiny_model
from tunesmith.models import import_model
from tunesmith.records.assets import RegisterModel

E = "onlineEndpoints/talk"
D = f"{E}/deployments/blue"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    source = tiny_model("phi3", folder / "source")
    return import_model(str(source), folder / "package", downloads=folder / "downloads", name="tiny").path


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[Wire]:
    with azure_wire(tmp_path / "home") as found:
        yield found


@pytest.fixture
def model(wire: Wire, package: Path) -> str:
    """The id of a registered model, with an endpoint there to deploy it behind."""
    wire.services.models.register(RegisterModel(name="m", path=str(package)))
    wire.arm("PUT", E, endpoint(), 201)
    return f"{W}/models/m/versions/1"


def endpoint(**properties: Any) -> dict[str, Any]:
    """What the SDK sends for an endpoint."""
    return {
        "location": "eastus",
        "identity": {"type": "SystemAssigned"},
        "tags": {"a": "b"},
        "properties": {
            "authMode": "Key",
            "description": "d",
            "properties": {"p": "q"},
            "traffic": {},
            "mirrorTraffic": {},
            **properties,
        },
    }


def deployment(model: str, **properties: Any) -> dict[str, Any]:
    """What the SDK sends for a deployment."""
    return {
        "location": "eastus",
        "sku": {"name": "Default", "capacity": 1},
        "tags": {},
        "properties": {
            "endpointComputeType": "Managed",
            "model": model,
            "instanceType": "Standard_NC6s_v3",
            "environmentVariables": {},
            "properties": {},
            "appInsightsEnabled": False,
            "codeConfiguration": None,
            **properties,
        },
    }


def operation(wire: Wire, method: str, rest: str, body: Any, status: int) -> str:
    """A call that starts a long-running operation; where to ask how far it is."""
    url = f"https://management.azure.com{W}/{rest}"
    answer = wire.client.request(method, url, json=body, headers=wire.bearer)
    assert answer.status_code == status, answer.text
    assert int(answer.headers["x-ms-retry-after-ms"]) <= 1000 and "retry-after" not in answer.headers
    return str(answer.headers["azure-asyncoperation"])


def test_an_identity_that_somebody_chose_is_refused(wire: Wire, model: str) -> None:
    chosen = {"identity": {"type": "UserAssigned", "userAssignedIdentities": {"/subscriptions/s/i": {}}}}
    for rest, body in ((E, endpoint()), (f"{E}/deployments/blue", deployment(model))):
        error = wire.arm("PUT", rest, {**body, **chosen}, status=400)["error"]
        assert (error["code"], error["target"]) == ("NotImplementedByTunesmith", "identity")


def test_an_endpoint_is_made_changed_listed_and_deleted(wire: Wire) -> None:
    made = wire.arm("PUT", E, endpoint(), 201)
    assert (made["id"], made["name"], made["tags"]) == (f"{W}/{E}", "talk", {"a": "b"})
    properties = made["properties"]
    assert properties["scoringUri"].endswith("/endpoints/talk/score")
    assert (properties["authMode"], properties["provisioningState"]) == ("Key", "Succeeded")
    assert properties["traffic"] == properties["mirrorTraffic"] == {} and properties["properties"] == {"p": "q"}
    keys = wire.arm("POST", f"{E}/listKeys")
    made["properties"]["description"] = "other"
    made["properties"]["endpoint"] = "talk"  # some clients send it with a change of traffic
    assert wire.arm("PUT", E, made)["properties"]["description"] == "other"
    assert wire.arm("GET", E)["properties"]["scoringUri"] == properties["scoringUri"]
    assert wire.arm("POST", f"{E}/listKeys") == keys
    assert [one["name"] for one in wire.arm("GET", "onlineEndpoints")["value"]] == ["talk"]
    poll = operation(wire, "DELETE", E, None, 202)
    assert wire.call("GET", poll)["status"] == "InProgress"
    assert wire.arm("GET", E)["properties"]["provisioningState"] == "Deleting"
    wire.services.endpoints.outcomes.forget_endpoint("talk")
    assert wire.call("GET", poll)["status"] == "Succeeded"
    assert wire.arm("GET", E, status=404)["error"]["code"] == "ResourceNotFound"
    assert wire.arm("DELETE", E, status=404)["error"]["code"] == "ResourceNotFound"


def test_keys_and_tokens(wire: Wire) -> None:
    wire.arm("PUT", E, endpoint(), 201)
    first = wire.arm("POST", f"{E}/listKeys")
    assert set(first) == {"primaryKey", "secondaryKey"}
    wire.arm("POST", f"{E}/regenerateKeys", {"keyType": "Secondary", "keyValue": first["secondaryKey"]})
    second = wire.arm("POST", f"{E}/listKeys")
    assert second["primaryKey"] == first["primaryKey"] and second["secondaryKey"] != first["secondaryKey"]
    assert "keyType" in wire.arm("POST", f"{E}/regenerateKeys", {"keyType": "third"}, 400)["error"]["message"]
    assert wire.arm("POST", f"{E}/token", status=409)["error"]["target"] == "auth_mode"
    wire.arm("PUT", E, endpoint(authMode="AMLToken"))
    token = wire.arm("POST", f"{E}/token")
    assert token["tokenType"] == "Bearer" and token["refreshAfterTimeUtc"] < token["expiryTimeUtc"]
    assert wire.services.endpoints.authenticate("talk", f"Bearer {token['accessToken']}").name == "talk"
    for action in ("listKeys", "regenerateKeys"):
        assert wire.arm("POST", f"{E}/{action}", {"keyType": "Primary"}, 409)["error"]["code"] == "Conflict"


def test_what_an_endpoint_cannot_have_is_refused_by_its_field(wire: Wire) -> None:
    for target, value in (
        ("authMode", "AADToken"),
        ("compute", "aks"),
        ("publicNetworkAccess", "Disabled"),
        ("keys", {"primaryKey": "mine"}),
    ):
        error = wire.arm("PUT", E, endpoint(**{target: value}), 400)["error"]
        assert (error["code"], error["target"]) == ("NotImplementedByTunesmith", f"properties.{target}")
    assert wire.arm("GET", "onlineEndpoints")["value"] == []


def test_a_deployment_comes_up_and_takes_traffic(wire: Wire, model: str) -> None:
    asked = deployment(
        model,
        livenessProbe={"initialDelay": "PT10M", "period": "PT11S", "timeout": "PT3S", "failureThreshold": 7},
        requestSettings={"requestTimeout": "PT1M30S", "maxConcurrentRequestsPerInstance": 3},
        environmentVariables={"A": "b"},
        appInsightsEnabled=True,
        scaleSettings={"scaleType": "Default"},
    )
    poll = operation(wire, "PUT", D, asked, 201)
    assert wire.call("GET", poll)["status"] == "InProgress"
    wire.services.endpoints.outcomes.report(("talk", "blue"), 1, "Succeeded")
    assert wire.call("GET", poll)["status"] == "Succeeded"
    found = wire.arm("GET", D)
    assert (found["id"], found["sku"]) == (f"{W}/{D}", {"name": "Default", "capacity": 1})
    properties = found["properties"]
    assert (properties["model"], properties["instanceType"]) == (model, "Standard_NC6s_v3")
    assert properties["livenessProbe"] == {
        "initialDelay": "PT10M",
        "period": "PT11S",
        "timeout": "PT3S",
        "successThreshold": 1,
        "failureThreshold": 7,
    }
    assert properties["requestSettings"] == {
        "requestTimeout": "PT1M30S",
        "maxQueueWait": "PT1M",
        "maxConcurrentRequestsPerInstance": 3,
    }
    assert properties["environmentVariables"] == {"A": "b"} and properties["appInsightsEnabled"] is True
    assert properties["scaleSettings"] == {"scaleType": "Default"}
    assert "Standard_NC6s_v3 promises" in properties["properties"]["tunesmith.notices"]
    assert "Application Insights" in properties["properties"]["tunesmith.notices"]

    wire.arm("PUT", E, endpoint(traffic={"blue": 100}))
    assert wire.arm("GET", E)["properties"]["traffic"] == {"blue": 100}
    error = wire.arm("DELETE", D, status=409)["error"]
    assert "100 % of the traffic" in error["message"]
    # What was read may be sent back: nothing changes, and nothing is told twice.
    operation(wire, "PUT", D, found, 200)
    wire.services.endpoints.outcomes.report(("talk", "blue"), 1, "Succeeded")
    assert wire.arm("GET", D) == found
    operation(wire, "PUT", D, {**found, "sku": {"name": "Default", "capacity": 0}}, 200)
    assert wire.arm("GET", D)["sku"]["capacity"] == 0
    assert [one["name"] for one in wire.arm("GET", f"{E}/deployments")["value"]] == ["blue"]

    wire.arm("PUT", E, endpoint())
    poll = operation(wire, "DELETE", D, None, 202)
    assert wire.call("GET", poll)["status"] == "InProgress"
    wire.services.endpoints.outcomes.forget_deployment(("talk", "blue"))
    assert wire.call("GET", poll)["status"] == "Succeeded"
    wire.arm("GET", D, status=404)


def test_traffic_is_mirrored(wire: Wire, model: str) -> None:
    green = f"{E}/deployments/green"
    for rest in (D, green):
        operation(wire, "PUT", rest, deployment(model), 201)
        wire.services.endpoints.outcomes.report(("talk", rest.rpartition("/")[2]), 1, "Succeeded")
    wire.arm("PUT", E, endpoint(traffic={"blue": 100}, mirrorTraffic={"green": 20}))
    found = wire.arm("GET", E)["properties"]
    assert (found["traffic"], found["mirrorTraffic"]) == ({"blue": 100}, {"green": 20})
    for share, words in (({"green": 60}, "between 0 and 50"), ({"red": 10}, "red"), ({"blue": 5, "green": 5}, "one")):
        error = wire.arm("PUT", E, endpoint(traffic={"blue": 100}, mirrorTraffic=share), 400)["error"]
        assert words in error["message"]
    assert "20 % mirrored" in wire.arm("DELETE", green, status=409)["error"]["message"]
    assert wire.arm("GET", E)["properties"] == found


def test_a_deployment_that_fails_says_why(wire: Wire, model: str) -> None:
    poll = operation(wire, "PUT", D, deployment(model), 201)
    cause = {"code": "OutOfMemory", "message": "8 GB are needed and 2 are free", "way_out": "free some"}
    wire.services.endpoints.outcomes.report(("talk", "blue"), 1, "Failed", error=cause)
    answer = wire.call("GET", poll)
    assert answer["status"] == "Failed"
    assert "8 GB are needed and 2 are free" in answer["error"]["message"] and "free some" in answer["error"]["message"]
    assert wire.arm("GET", D)["properties"]["provisioningState"] == "Failed"


def test_logs_are_read_by_the_line(wire: Wire, model: str) -> None:
    operation(wire, "PUT", D, deployment(model), 201)
    log = wire.services.paths.deployment("talk", "blue") / "0" / "log.txt"
    log.parent.mkdir(parents=True)
    log.write_text("one\ntwo\nthree\n")
    assert wire.arm("POST", f"{D}/getLogs", {"tail": 2}) == {"content": "two\nthree\n"}
    container = {"containerType": "StorageInitializer", "tail": 9}
    assert "No container" in wire.arm("POST", f"{D}/getLogs", container)["content"]
    refused = wire.arm("POST", f"{D}/getLogs", {"containerType": "ModelDataCollector"}, 400)["error"]
    assert refused["target"] == "containerType"


def test_what_a_deployment_cannot_have_is_refused_by_its_field(wire: Wire, model: str) -> None:
    field: str
    value: Any
    for field, value, inner in (
        ("environmentId", f"{W}/environments/e/versions/1", ""),
        ("codeConfiguration", {"codeId": "x", "scoringScript": "score.py"}, ""),
        ("modelMountPath", "/mnt", ""),
        ("dataCollector", {"collections": {}}, ""),
        ("endpointComputeType", "Kubernetes", ""),
        ("egressPublicNetworkAccess", "Disabled", ""),
        ("scaleSettings", {"scaleType": "TargetUtilization", "maxInstances": 3}, ".scaleType"),
    ):
        error = wire.arm("PUT", D, deployment(model, **{field: value}), 400)["error"]
        assert (error["code"], error["target"]) == ("NotImplementedByTunesmith", f"properties.{field}{inner}")
    assert wire.arm("GET", f"{E}/deployments")["value"] == []


def test_faulty_values_are_refused_with_their_place(wire: Wire, model: str) -> None:
    field: str
    value: Any
    for field, value, words in (
        ("instanceType", "Standard_None", "instance_type"),
        ("requestSettings", {"requestTimeout": "90"}, "properties.requestSettings.requestTimeout"),
        ("requestSettings", {"requestTimeout": "PT1H"}, "request_timeout_ms"),
        ("livenessProbe", {"period": "PT0.5S"}, "properties.livenessProbe.period"),
        ("livenessProbe", {"failureThreshold": 0}, "failure_threshold"),
        ("colour", "blue", "colour"),
    ):
        error = wire.arm("PUT", D, deployment(model, **{field: value}), 400)["error"]
        assert words in f"{error.get('target')} {error['message']}"
    headers = {**wire.bearer, "content-type": "application/json"}
    nested = b'{"properties": ' * 600 + b"1" + b"}" * 600
    answer = wire.client.put(f"https://management.azure.com{W}/{D}", content=nested, headers=headers)
    assert (answer.status_code, answer.json()["error"]["target"]) == (400, "body")
    assert "none" in wire.arm("PUT", D, deployment("azureml:none:1"), 404)["error"]["message"]
    assert wire.arm("GET", f"{E}/deployments")["value"] == []
