"""What stands above a workspace, as command-line tools ask for it when they log in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.azure.wire import Wire, azure_wire

MANAGEMENT = "https://management.azure.com"


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    with azure_wire(tmp_path_factory.mktemp("subscriptions") / "home") as wire:
        yield wire


def test_there_is_one_of_each_and_it_goes_by_any_name(wire: Wire) -> None:
    (tenant,) = wire.call("GET", f"{MANAGEMENT}/tenants?api-version=2022-12-01")["value"]
    (subscription,) = wire.call("GET", f"{MANAGEMENT}/subscriptions?api-version=2022-12-01")["value"]
    assert tenant["tenantId"] == subscription["tenantId"] == subscription["subscriptionId"] == wire.services.id
    assert subscription["state"] == "Enabled"
    mine = wire.call("GET", f"{MANAGEMENT}/subscriptions/mine")
    assert mine == {**subscription, "id": "/subscriptions/mine", "subscriptionId": "mine"}
    (group,) = wire.call("GET", f"{MANAGEMENT}/subscriptions/mine/resourcegroups")["value"]
    assert group["name"] == "tunesmith"
    other = wire.call("GET", f"{MANAGEMENT}/subscriptions/mine/resourceGroups/other")
    assert other == {**group, "id": "/subscriptions/mine/resourceGroups/other", "name": "other"}


def test_the_one_registry(wire: Wire) -> None:
    base = f"{MANAGEMENT}/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/registries"
    found = wire.call("GET", f"{base}/AzureML")
    assert found["id"] == base.removeprefix(MANAGEMENT) + "/azureml" and found["name"] == "azureml"
    assert wire.client.get(found["properties"]["discoveryUrl"]).json()["registryName"] == "azureml"
    assert wire.call("GET", base)["value"] == [found]
    assert "no registry 'other'" in wire.call("GET", f"{base}/other", status=404)["error"]["message"]
    assert wire.call("PUT", f"{base}/other", {}, 400)["error"]["code"] == "NotImplementedByTunesmith"
