"""The chat completion pipeline on a tiny model, through real services, runners and steps."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.pipelines.conftest import running, until, wait_for
from tests.support.tiny import tiny_conversations, tiny_model
from tunesmith.errors import ValidationFailed, error_from_dict
from tunesmith.pipelines.layout import JobFolder
from tunesmith.records.assets import ImportModel, RegisterData
from tunesmith.records.jobs import Job, JobSettings, JobStatus, SubmitJob
from tunesmith.settings import load_settings
from tunesmith.workspace import Services, open_workspace

SYSTEM = "azureml://registries/azureml/components"
PIPELINE = f"{SYSTEM}/chat_completion_pipeline/labels/latest"
FAST: dict[str, Any] = {
    "apply_lora": "true",
    "learning_rate": "1e-3",
    "max_seq_length": 128,
    "max_steps": 100,
    "evaluation_strategy": "steps",
    "eval_steps": 20,
    "logging_steps": 1,
    "evaluation_config_params": '{"num_samples": 2, "max_new_tokens": 6, "num_probes": 1}',
}


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    found = open_workspace(load_settings(tmp_path / "home"))
    yield found
    for job in found.jobs.list():
        if not job.status.terminal:
            found.jobs.cancel(job.name)
            wait_for(found.jobs, job.name)
    found.close()


@pytest.fixture
def splits(tmp_path: Path) -> dict[str, Path]:
    return {name: tiny_conversations(tmp_path / f"{name}.jsonl", count, seed=count) for name, count in _ROWS.items()}


_ROWS = {"train": 24, "validation": 6, "test": 5}


def losses(services: Services, job: str, step: str) -> dict[tuple[str, int], float]:
    return {
        (point.key, point.step): point.value
        for point in services.jobs.metrics(job)
        if point.key in ("loss", "eval_loss") and point.job_step == step
    }


def submit(services: Services, splits: dict[str, Path], **inputs: Any) -> Job:
    return services.jobs.submit(
        SubmitJob(
            outputs={"trained_model": {"type": "mlflow_model"}, "evaluation": {"type": "uri_folder"}},
            jobs={
                "ft": {
                    "component": PIPELINE,
                    "inputs": {
                        "mlflow_model_path": {"type": "mlflow_model", "path": "azureml:tiny:1"},
                        "train_file_path": {"type": "uri_file", "path": "azureml:chat:1"},
                        "validation_file_path": {"type": "uri_file", "path": str(splits["validation"])},
                        "test_file_path": {"type": "uri_file", "path": str(splits["test"])},
                        **FAST,
                        **inputs,
                    },
                    "outputs": {
                        "mlflow_model_folder": "${{parent.outputs.trained_model}}",
                        "evaluation_result": "${{parent.outputs.evaluation}}",
                    },
                }
            },
        )
    )


@pytest.mark.heavy
@pytest.mark.timeout(600)
def test_life_of_a_fine_tuning_job(services: Services, splits: dict[str, Path], tmp_path: Path) -> None:
    """Import; train through a kill of everything; evaluate; the same losses without the kill; reuse on the next run."""
    imported = services.import_model(ImportModel(name="tiny", source=str(tiny_model("phi3", tmp_path / "tiny"))))
    assert imported is not None
    wait_for(services.jobs, imported.name)
    services.data.register(RegisterData(name="chat", path=str(splits["train"])))

    name = submit(services, splits).name
    step = JobFolder(services.paths.job(name)).step("ft.chat_completion_finetune")
    until(lambda: services.jobs.reconcile() and step.events.exists() and '"step": 30' in step.events.read_text())
    runner = int(json.loads(JobFolder(services.paths.job(name)).runner.read_text())["pid"])
    trainer = int(json.loads(step.process.read_text())["pid"])
    os.kill(runner, signal.SIGKILL)
    os.killpg(trainer, signal.SIGKILL)
    until(lambda: not running(runner) and not running(trainer))
    assert not step.result.exists(), "the kill came while it trained"

    job = wait_for(services.jobs, name)
    assert job.status == JobStatus.COMPLETED, job.error
    attempts = {entry.name.removeprefix("ft/"): entry.attempt for entry in job.steps}
    assert attempts.pop("chat_completion_finetune") == 2
    assert set(attempts.values()) == {1}
    assert "going on from the last one" in services.jobs.logs(name, "chat_completion_finetune")

    # The same training without a kill, as a pipeline of a user over the system's component.
    outputs = JobFolder(services.paths.job(name)).root / "steps"
    again = services.jobs.submit(
        SubmitJob(
            settings=JobSettings(force_rerun=True),
            jobs={
                "alone": {
                    "component": f"{SYSTEM}/chat_completion_finetune/versions/0.0.81",
                    "inputs": {
                        "model_path": str(outputs / "ft.chat_completion_model_import" / "outputs" / "output_dir"),
                        "dataset_path": str(outputs / "ft.chat_completion_datapreprocess" / "outputs" / "output_dir"),
                        **{key: value for key, value in FAST.items() if key != "evaluation_config_params"},
                    },
                }
            },
        )
    )
    wait_for(services.jobs, again.name)
    straight = losses(services, again.name, "alone")
    resumed = losses(services, name, "ft/chat_completion_finetune")
    assert len(straight) > FAST["max_steps"]
    assert resumed == straight
    weights = [
        json.loads((root / "outputs" / "pytorch_model_folder" / "train_result.json").read_text())["weights_sha256"]
        for root in (step.root, JobFolder(services.paths.job(again.name)).step("alone").root)
    ]
    assert weights[0] == weights[1]

    # What came out.
    evaluation = services.jobs.output_path(name, "evaluation")
    metrics = json.loads((evaluation / "metrics.json").read_text())
    assert metrics["perplexity"] < metrics["base_perplexity"]
    told = {point.key for point in services.jobs.metrics(name)}
    assert {"loss", "eval_loss", "evaluation/perplexity", "evaluation/base_perplexity"} <= told
    lineage = services.jobs.lineage(name)
    assert lineage is not None
    items = {item["role"]: item for item in lineage["items"]}
    assert items["base_model"]["reference"] == "azureml:tiny:1"
    assert items["train"]["reference"] == "azureml:chat:1"
    assert items["train"]["detail"]["rows"] == _ROWS["train"]
    assert {"validation", "component", "code", "environment", "parameters", "template"} <= set(items)
    assert (services.jobs.output_path(name, "trained_model") / "MLmodel").is_file()

    # Another learning rate: what does not depend on it is reused, though the validation ran again.
    other = submit(services, splits, learning_rate="2e-3").name
    wait_for(services.jobs, other, until=lambda job: job.steps[3].status in ("Preparing", "Running"))
    services.jobs.cancel(other)
    canceled = wait_for(services.jobs, other)
    assert canceled.status == JobStatus.CANCELED
    why = {entry.step.removeprefix("ft/"): entry for entry in services.jobs.explain(other)}
    assert why["ft_nlp_common_validation"].changed == ["parameter:learning_rate changed (0.001 -> 0.002)"]
    assert why["chat_completion_model_import"].reused
    assert why["chat_completion_datapreprocess"].reused
    assert why["chat_completion_model_import"].reused_from == f"{name}/ft/chat_completion_model_import"


def test_faults_are_found_before_anything_starts(services: Services, splits: dict[str, Path], tmp_path: Path) -> None:
    model = str(tmp_path)
    request = SubmitJob(
        component=PIPELINE,
        inputs={
            "pytorch_model_path": model,
            "mlflow_model_path": model,
            "train_file_path": str(splits["train"]),
            "validation_file_path": str(tmp_path / "none.jsonl"),
            "num_train_epochs": 0,
            "learning_rate": "-1",
            "lr_scheduler_type": "cosin",
            "trust_remote_code": "true",
            "lora_rank": 8,
            "compute_finetune": "nowhere",
        },
    )
    with pytest.raises(ValidationFailed) as caught:
        services.jobs.submit(request)
    faults = {fault.target: fault for fault in caught.value.details}
    assert set(faults) >= {
        "inputs",
        "inputs.validation_file_path",
        "inputs.num_train_epochs",
        "inputs.learning_rate",
        "inputs.lr_scheduler_type",
        "inputs.trust_remote_code",
        "inputs.lora_rank",
        "jobs.chat_completion_finetune.compute",
    }
    assert faults["inputs.lora_rank"].way_out == "did you mean 'lora_r'?"
    assert "did you mean 'cosine'?" in faults["inputs.lr_scheduler_type"].message
    assert services.jobs.list() == []


def test_faulty_conversations_end_the_job_with_file_and_line(
    services: Services, splits: dict[str, Path], tmp_path: Path
) -> None:
    with splits["train"].open("a") as file:
        file.write('{"messages": [{"role": "user", "content": 5}]}\n')
    (tmp_path / "model").mkdir()
    job = services.jobs.submit(
        SubmitJob(
            component=PIPELINE,
            inputs={"pytorch_model_path": str(tmp_path / "model"), "train_file_path": str(splits["train"])},
        )
    )
    job = wait_for(services.jobs, job.name)
    assert job.status == JobStatus.FAILED
    failed = error_from_dict(job.steps[0].error or {})
    cause = failed.extra["cause"]
    assert cause["code"] == "ValidationFailed"
    assert f"{splits['train']}:25#messages[0].content" in [fault["target"] for fault in cause["details"]]
    assert [step.status for step in job.steps][:2] == ["Failed", "Canceled"]
    assert f"{splits['train']}:25#messages[0].content" in str(error_from_dict(job.error or {}))
