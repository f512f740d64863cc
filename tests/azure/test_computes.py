from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.azure.wire import W, Wire, azure_wire
from tests.support.workspace import add_job
from tunesmith.records.jobs import JobStatus

LOCATION = "https://management.azure.com/subscriptions/sub/providers/Microsoft.MachineLearningServices/locations/eastus"


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    with azure_wire(tmp_path_factory.mktemp("computes") / "home") as wire:
        yield wire


def body(size: str = "Standard_ND40rs_v2", *, inner: Any = None, **outer: Any) -> dict[str, Any]:
    """What the SDK sends for an ``AmlCompute``."""
    return {
        "location": "eastus",
        **outer,
        "properties": {
            "computeType": "AmlCompute",
            "disableLocalAuth": True,
            "properties": {
                "vmSize": size,
                "vmPriority": "Dedicated",
                "scaleSettings": {"maxNodeCount": 2, "minNodeCount": 0, "nodeIdleTimeBeforeScaleDown": "PT2M"},
                "osType": "Linux",
                "enableNodePublicIp": True,
                "remoteLoginPortPublicAccess": "NotSpecified",
                **(inner or {}),
            },
        },
    }


def test_the_life_of_a_compute(wire: Wire) -> None:
    missing = wire.arm("GET", "computes/gpu-box", status=404)
    assert missing["error"]["code"] == "ResourceNotFound"
    made = wire.arm("PUT", "computes/gpu-box", body(tags={"team": "a"}), status=201)
    assert made["id"] == f"{W}/computes/gpu-box"
    assert made["tags"] == {"team": "a"}
    assert made["properties"]["provisioningState"] == "Succeeded"
    assert made["properties"]["properties"]["vmSize"] == "Standard_ND40rs_v2"
    assert made["properties"]["properties"]["scaleSettings"] == {
        "minNodeCount": 0,
        "maxNodeCount": 2,
        "nodeIdleTimeBeforeScaleDown": "PT2M",
    }
    # A client sends back what it got, with the change.
    made["properties"]["properties"]["scaleSettings"]["maxNodeCount"] = 4
    changed = wire.arm("PUT", "computes/gpu-box", made)
    assert changed["properties"]["properties"]["scaleSettings"]["maxNodeCount"] == 4
    assert wire.services.computes.get("gpu-box").max_instances == 4
    assert [item["name"] for item in wire.arm("GET", "computes")["value"]] == ["local", "gpu-box"]
    wire.arm("DELETE", "computes/gpu-box?underlyingResourceAction=Delete")
    wire.arm("GET", "computes/gpu-box", status=404)


def test_nodes_are_the_jobs_that_run(wire: Wire) -> None:
    wire.arm("PUT", "computes/busy-box", body(), status=201)
    assert wire.arm("POST", "computes/busy-box/listNodes")["nodes"] == []
    add_job(wire.services, "running-job", status=JobStatus.RUNNING, compute="busy-box")
    assert [node["runId"] for node in wire.arm("POST", "computes/busy-box/listNodes")["nodes"]] == ["running-job"]
    conflict = wire.arm("DELETE", "computes/busy-box", status=409)["error"]
    assert "is in use by running-job" in conflict["message"]


@pytest.mark.parametrize(
    ("sent", "code", "target"),
    [
        ({"properties": {"computeType": "ComputeInstance"}}, "NotImplementedByTunesmith", "properties.computeType"),
        ({}, "NotImplementedByTunesmith", "properties.computeType"),
        (body(identity={"type": "UserAssigned"}), "NotImplementedByTunesmith", "identity"),
        (body(inner={"subnet": {"id": "x"}}), "NotImplementedByTunesmith", "properties.properties.subnet"),
        (body(inner={"userAccountCredentials": {"adminUserName": "a"}}), "NotImplementedByTunesmith",
         "properties.properties.userAccountCredentials"),
    ],
)  # fmt: skip
def test_what_one_machine_does_not_have_is_refused(wire: Wire, sent: Any, code: str, target: str) -> None:
    error = wire.arm("PUT", "computes/gpu-box", sent, status=400)["error"]
    assert (error["code"], error["target"]) == (code, target)


@pytest.mark.parametrize(
    ("sent", "fault"),
    [
        (body("Standard_Foo"), "size"),
        (body(inner={"vmPriority": "Cheap"}), "properties.properties.vmPriority"),
        (body(inner={"colour": "red"}), "properties.properties.colour"),
        (body(inner={"osType": "Windows"}), "properties.properties.osType"),
    ],
)
def test_faults_are_named_by_their_field(wire: Wire, sent: Any, fault: str) -> None:
    error = wire.arm("PUT", "computes/gpu-box", sent, status=400)["error"]
    assert [detail["target"] for detail in error["details"]] == [fault]


def test_start_and_stop_are_for_compute_instances(wire: Wire) -> None:
    for action in ("start", "stop", "restart"):
        error = wire.arm("POST", f"computes/local/{action}", status=400)["error"]
        assert error["code"] == "NotImplementedByTunesmith"
        assert error["message"].startswith(f"{action} is an operation of compute instances; 'local' is a cluster")


def test_sizes_have_azures_numbers(wire: Wire) -> None:
    sizes = {size["name"]: size for size in wire.call("GET", f"{LOCATION}/vmSizes")["value"]}
    assert (sizes["Standard_ND40rs_v2"]["gpus"], sizes["Standard_ND40rs_v2"]["vCPUs"]) == (8, 40)
    assert sizes["Standard_NC6s_v3"]["gpus"] == 1
    machine = wire.services.computes.machine()
    assert (sizes["local"]["gpus"], sizes["local"]["vCPUs"]) == (len(machine.gpus), machine.cores)


def test_usage_counts_the_computes(wire: Wire) -> None:
    listed = wire.call("GET", f"{LOCATION}/usages")["value"]
    assert [item["currentValue"] for item in listed] == [len(wire.services.computes.list())]
