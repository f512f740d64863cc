from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.azure.wire import API, W, Wire, azure_wire


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    with azure_wire(tmp_path_factory.mktemp("workspaces") / "home") as wire:
        yield wire


def test_a_workspace_of_any_name_is_this_one(wire: Wire) -> None:
    found = wire.arm("GET", "")
    properties = found["properties"]
    assert (found["id"], found["name"], found["location"]) == (W, "ws", "eastus")
    assert properties["workspaceId"] == wire.services.id
    assert properties["discoveryUrl"] == f"{API}/discovery"
    assert properties["mlFlowTrackingUri"] == f"azureml://eastus.api.azureml.ms/mlflow/v1.0{W}"
    assert properties["storageAccount"].endswith(f"/storageAccounts/{wire.account.name}")


def test_paths_do_not_care_for_case(wire: Wire) -> None:
    path = W.replace("Microsoft.MachineLearningServices", "microsoft.machinelearningservices").replace(
        "resourceGroups", "resourcegroups"
    )
    assert wire.call("GET", f"https://management.azure.com{path}/Computes/LOCAL")["name"] == "local"


@pytest.mark.parametrize("place", ["/subscriptions/sub", "/subscriptions/sub/resourceGroups/other"])
def test_the_list_of_workspaces_has_this_one(wire: Wire, place: str) -> None:
    listed = wire.call(
        "GET", f"https://management.azure.com{place}/providers/Microsoft.MachineLearningServices/workspaces"
    )
    assert [item["name"] for item in listed["value"]] == [wire.services.name]
    assert listed["nextLink"] is None


def test_the_list_of_workspaces_by_kind(wire: Wire) -> None:
    base = "https://management.azure.com/subscriptions/sub/providers/Microsoft.MachineLearningServices/workspaces"
    assert wire.call("GET", f"{base}?kind=hub,project")["value"] == []
    assert len(wire.call("GET", f"{base}?kind=hub,default")["value"]) == 1
    assert wire.call("GET", f"{base}?$skipToken=x", status=400)["error"]["target"] == "$skipToken"


def test_discovery_needs_no_token(wire: Wire) -> None:
    assert wire.client.get(f"{API}/discovery").json()["api"] == API
    registry = wire.client.get(f"{API}/registrymanagement/v1.0/registries/azureml/discovery").json()
    assert registry["primaryRegionResourceProviderUri"] == "https://cert-eastus.experiments.azureml.net/"
    assert registry["subscriptionId"] == wire.services.id
    missing = wire.client.get(f"{API}/registrymanagement/v1.0/registries/other/discovery")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "ResourceNotFound")


def test_without_a_proxy_every_address_is_the_servers_own(wire: Wire) -> None:
    base = "https://localhost:9443"
    cloud = wire.client.get(f"{base}/metadata/endpoints").json()[0]
    assert cloud["resourceManager"] == f"{base}/"
    assert cloud["suffixes"] == {"storage": "localhost:9443"}
    found = wire.call("GET", f"{base}{W}")["properties"]
    assert found["discoveryUrl"] == f"{base}/discovery"
    assert found["mlFlowTrackingUri"].startswith("azureml://localhost:9443/mlflow/")
    registry = wire.client.get(f"{base}/registrymanagement/v1.0/registries/azureml/discovery").json()
    assert registry["primaryRegionResourceProviderUri"] == f"{base}/"


def test_there_are_no_connections(wire: Wire) -> None:
    assert wire.arm("GET", "connections") == {"value": [], "nextLink": None}


@pytest.mark.parametrize(
    ("method", "rest"),
    [("PUT", ""), ("DELETE", ""), ("POST", "listKeys"), ("GET", "schedules"), ("PUT", "batchEndpoints/b")],
)
def test_what_is_not_here_is_refused_by_its_name(wire: Wire, method: str, rest: str) -> None:
    answer = wire.call(method, f"https://management.azure.com{W}/{rest}".rstrip("/"), status=400)["error"]
    assert answer["code"] == "NotImplementedByTunesmith"
    assert answer["target"] == f"{method} management.azure.com{W}/{rest}".rstrip("/")


def test_no_token_no_answer(wire: Wire) -> None:
    answer = wire.client.get(f"https://management.azure.com{W}")
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert "tunesmith azure run" in answer.json()["error"]["message"]
