from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tunesmith.compute.service import ComputeService, parse_allow_list
from tunesmith.errors import Conflict, NotFound, ValidationFailed
from tunesmith.records.compute import CreateCompute, Machine
from tunesmith.storage.database import Database
from tunesmith.storage.tables import JobRow

TAGS = {
    "finetune_compute_allow_list": "['Standard_ND40rs_v2', 'Standard_NC24ads_A100_v4']",
    "inference_compute_allow_list": '["Standard_NC6s_v3"]',
}


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "db")
    yield database
    database.close()


@pytest.fixture
def service(database: Database, tmp_path: Path) -> ComputeService:
    return ComputeService(database, tmp_path, detect=lambda _disk: Machine(cores=4, memory_bytes=16 * 2**30))


def test_local_is_always_there(service: ComputeService) -> None:
    (local,) = service.list()
    assert (local.name, local.type, local.size, local.vcpus, local.memory_gb, local.gpus, local.difference) == (
        "local",
        "local",
        "local",
        4,
        16.0,
        0,
        None,
    )
    assert service.get("LOCAL") == local
    assert service.sizes()[0].name == "local"
    assert service.machine().disk_free_bytes > 0


def test_a_compute_is_created_found_changed_and_deleted(service: ComputeService) -> None:
    made = service.create_or_update(
        CreateCompute(name="gpu-cluster-big", size="standard_nd40rs_v2", max_instances=2, tags={"a": "b"})
    )
    assert (made.size, made.provisioning_state, made.vcpus, made.gpus, made.max_instances) == (
        "Standard_ND40rs_v2",
        "Succeeded",
        40,
        8,
        2,
    )
    assert made.difference is not None
    assert "this machine has 4 cores, 16 GiB and no GPU" in made.difference
    assert service.get("GPU-cluster-BIG") == made
    changed = service.create_or_update(CreateCompute(name="gpu-cluster-big", tier="low_priority"))
    assert (changed.size, changed.tier, changed.tags, changed.created_at) == (
        "local",
        "low_priority",
        {},
        made.created_at,
    )
    assert [compute.name for compute in service.list()] == ["local", "gpu-cluster-big"]
    service.delete("gpu-cluster-big")
    with pytest.raises(NotFound, match="gpu-cluster-big"):
        service.get("gpu-cluster-big")
    with pytest.raises(NotFound):
        service.delete("gpu-cluster-big")


def test_every_fault_is_said_at_once(service: ComputeService) -> None:
    with pytest.raises(ValidationFailed) as caught:
        service.create_or_update(CreateCompute(name="x", size="huge", min_instances=3, max_instances=1))
    assert [fault.target for fault in caught.value.details] == ["name", "size", "min_instances"]
    assert [compute.name for compute in service.list()] == ["local"]


@pytest.mark.parametrize("name", ["local", "Local", "serverless"])
def test_names_that_are_taken(service: ComputeService, name: str) -> None:
    with pytest.raises(Conflict):
        service.create_or_update(CreateCompute(name=name))
    with pytest.raises(Conflict):
        service.delete(name)


def test_a_compute_in_use_stays(service: ComputeService, database: Database) -> None:
    service.create_or_update(CreateCompute(name="cpu"))
    job = JobRow(
        name="j", type="pipeline", display_name="j", experiment_name="Default", status="Running", compute="cpu"
    )
    with database.session() as session:
        session.add(job)
    with pytest.raises(Conflict, match="in use by j") as caught:
        service.delete("cpu")
    assert "tunesmith jobs cancel j" in str(caught.value.way_out)
    with database.session() as session:
        session.get_one(JobRow, "j").status = "Completed"
    service.delete("cpu")


@pytest.mark.parametrize(
    "text",
    [
        "cpu",
        "azureml:cpu",
        "CPU",
        "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w/computes/cpu",
        "azureml:/subscriptions/s/resourceGroups/g/providers/p/workspaces/w/computes/cpu",
    ],
)
def test_a_compute_is_found_by_every_name_azure_has(service: ComputeService, text: str) -> None:
    service.create_or_update(CreateCompute(name="cpu", size="Standard_D12_v2"))
    target = service.resolve(text)
    assert (target.name, target.size.name) == ("cpu", "Standard_D12_v2")
    assert "promises 4 vCPUs" in target.notices[0]


def test_serverless_is_local_and_said(service: ComputeService) -> None:
    target = service.resolve("serverless")
    assert target.name == "local"
    assert target.notices == ("compute 'serverless' is 'local' here: jobs run on this machine",)
    assert service.resolve(None).notices == ()
    assert service.resolve("local").notices == ()


def test_a_compute_that_is_not_there_is_named_by_its_field(service: ComputeService) -> None:
    with pytest.raises(NotFound, match="no compute 'gpu'") as caught:
        service.resolve("gpu", target="inputs.compute_finetune")
    assert caught.value.target == "inputs.compute_finetune"


@pytest.mark.parametrize(
    ("size", "purpose", "allowed"),
    [
        ("Standard_ND40rs_v2", "finetune", True),
        ("Standard_nc24ads_a100_v4", "finetune", True),
        ("Standard_NC6s_v3", "finetune", False),
        ("Standard_NC6s_v3", "inference", True),
    ],
)
def test_an_allow_list_is_checked_without_case(service: ComputeService, size: str, purpose: str, allowed: bool) -> None:
    service.create_or_update(CreateCompute(name="cluster", size=size))
    for named in ("cluster", size):
        answer = service.check("Phi", TAGS, named, purpose)  # type: ignore[arg-type]
        assert answer.allowed is allowed
        assert size.lower() in answer.message.lower()


def test_this_machine_and_a_model_without_a_list_are_admitted_and_said(service: ComputeService) -> None:
    answer = service.check("Phi", TAGS, "local", "finetune")
    assert answer.allowed
    assert answer.message == "local is this machine (4 vCPUs and 16 GiB); the list names Azure's sizes"
    answer = service.check("Mine", {}, "local", "finetune")
    assert (answer.allowed, answer.allow_list) == (True, [])


def test_a_list_that_is_none_is_named() -> None:
    assert parse_allow_list("", target="t") == ()
    assert parse_allow_list("['a']", target="t") == parse_allow_list('["a"]', target="t") == ("a",)
    for text in ("{'a'}", "a, b", "[1]", "__import__('os')", "[" * 10_000):
        with pytest.raises(ValidationFailed) as caught:
            parse_allow_list(text, target="tags.x")
        assert caught.value.target == "tags.x"


def test_a_check_of_nothing_known(service: ComputeService) -> None:
    with pytest.raises(NotFound, match="no compute 'what'"):
        service.check("Phi", TAGS, "what", "finetune")
