"""What a job's graph as a whole is refused for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.tiny import tiny_conversations, tiny_model
from tests.support.workspace import temporary_workspace
from tunesmith.components import admission
from tunesmith.errors import ValidationFailed
from tunesmith.models import import_model
from tunesmith.records.compute import CreateCompute, Machine
from tunesmith.records.jobs import SubmitJob
from tunesmith.workspace import Services

PIPELINE = "azureml://registries/azureml/components/chat_completion_pipeline/labels/latest"
STEP = "chat_completion_pipeline/chat_completion_finetune"
MODEL = "azureml://registries/azureml/models/SmolLM2-135M-Instruct/labels/latest"


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    with temporary_workspace(tmp_path / "home") as found:
        yield found


def request(tmp_path: Path, **inputs: Any) -> SubmitJob:
    train = tiny_conversations(tmp_path / "train.jsonl", 8)
    given = {"mlflow_model_path": {"type": "mlflow_model", "path": MODEL}, "train_file_path": str(train)}
    return SubmitJob(component=PIPELINE, inputs={**given, **inputs})


def add_weights(services: Services, tmp_path: Path) -> int:
    """A tiny package in the place of the model's weights; its bytes."""
    folder = services.models.package_folder(services.models.get("SmolLM2-135M-Instruct"))
    source = str(tiny_model("llama", tmp_path / "hf"))
    return import_model(source, folder, downloads=tmp_path / "downloads", name="SmolLM2-135M-Instruct").size_bytes


def test_a_compute_of_a_size_that_the_model_does_not_admit(services: Services, tmp_path: Path) -> None:
    for name, size in (("small", "Standard_DS2_v2"), ("gpu", "Standard_NC24ads_A100_v4")):
        services.computes.create_or_update(CreateCompute(name=name, size=size))
    model = services.models.get("SmolLM2-135M-Instruct")
    allowed = services.computes.check(model.name, model.tags, "gpu", "finetune").allowed
    assert allowed
    assert services.jobs.validate(request(tmp_path, compute_finetune="gpu")).status == "NotStarted"
    with pytest.raises(ValidationFailed, match="nothing was started") as caught:
        services.jobs.submit(request(tmp_path, compute_finetune="small"))
    (fault,) = caught.value.details
    assert fault.target == f"{STEP}.compute"
    assert "Standard_DS2_v2 is not one of the sizes for finetune of SmolLM2-135M-Instruct" in fault.message
    assert services.jobs.list() == []


def test_more_disk_than_is_free(services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = add_weights(services, tmp_path)
    assert services.jobs.validate(request(tmp_path)).status == "NotStarted"
    machine = services.computes.machine()
    free = 2 * size

    def little(self: object) -> Machine:
        return machine.model_copy(update={"disk_free_bytes": free})

    monkeypatch.setattr(type(services.computes), "machine", little)
    with pytest.raises(ValidationFailed) as caught:
        services.jobs.submit(request(tmp_path, num_train_epochs=3))
    (fault,) = caught.value.details
    assert (fault.target, fault.code) == (f"{STEP}.save_total_limit", "DiskFull")
    assert "GB are free" in fault.message
    assert services.jobs.list() == []
    # One checkpoint of an adapter is small.
    assert services.jobs.validate(request(tmp_path, apply_lora="true", lora_r=1, save_total_limit=1))


def test_the_forecast_counts_what_is_kept(services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = add_weights(services, tmp_path)
    seen: list[dict[str, int]] = []
    real = admission.forecast

    def forecast(step: Any, graph: Any) -> Any:
        seen.append(dict(real(step, graph)))
        return seen[-1]

    monkeypatch.setattr(admission, "forecast", forecast)
    for inputs in (
        {"num_train_epochs": 4},
        {"num_train_epochs": 4, "save_total_limit": 1},
        {"merge_lora_weights": "false"},
    ):
        services.jobs.validate(request(tmp_path, **inputs))
    every, last, _ = (needs["checkpoints and weights"] for needs in seen)
    assert every > last
    assert [needs["tuned model"] for needs in seen] == [size, size, 0]
    data = (tmp_path / "train.jsonl").stat().st_size
    assert seen[0]["prepared conversations"] == 2 * data
