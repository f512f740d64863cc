"""References of jobs, answered by the services of a real workspace."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipelines.conftest import command, wait_for
from tunesmith.errors import ValidationFailed
from tunesmith.pipelines.assets_resolver import check_spec
from tunesmith.records.assets import RegisterComponent, RegisterData
from tunesmith.records.compute import CreateCompute
from tunesmith.records.jobs import Job, JobStatus, SubmitJob
from tunesmith.settings import load_settings
from tunesmith.workspace import Services, open_workspace

COUNT = command(
    "count_lines",
    "python count.py ${{inputs.text}} ${{outputs.total}}",
    inputs={"text": {"type": "uri_file"}},
    outputs={"total": {"type": "uri_file"}},
    code="./src",
)
TWICE = {
    "type": "pipeline",
    "name": "twice",
    "inputs": {"text": {"type": "uri_file"}},
    "outputs": {"total": {"type": "uri_file"}},
    "jobs": {
        "first": {"component": "azureml:count_lines@latest", "inputs": {"text": "${{parent.inputs.text}}"}},
        "second": {
            "component": "azureml:count_lines:1",
            "inputs": {"text": "${{parent.jobs.first.outputs.total}}"},
            "outputs": {"total": "${{parent.outputs.total}}"},
        },
    },
}


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    found = open_workspace(load_settings(tmp_path / "home"))
    code = tmp_path / "src"
    code.mkdir()
    (code / "count.py").write_text(
        "import sys\nopen(sys.argv[2], 'w').write(str(len(open(sys.argv[1]).readlines())) + '\\n')\n"
    )
    (tmp_path / "text.jsonl").write_text("a\nb\nc\n")
    found.components.register(RegisterComponent(spec=COUNT, base_path=str(tmp_path)))
    (code / "count.py").unlink()  # the registered component has its own copy
    found.components.register(RegisterComponent(spec=TWICE))
    yield found
    found.close()


def run(services: Services, request: SubmitJob) -> Job:
    job = wait_for(services.jobs, services.jobs.submit(request).name)
    assert job.status == JobStatus.COMPLETED, job.error
    return job


def faults(services: Services, request: SubmitJob) -> dict[str | None, str]:
    with pytest.raises(ValidationFailed) as caught:
        services.jobs.submit(request)
    return {fault.target: fault.message for fault in caught.value.details}


def test_registered_components_data_and_outputs_of_jobs(services: Services, tmp_path: Path) -> None:
    services.data.register(RegisterData(name="text", path=str(tmp_path / "text.jsonl")))
    job = run(services, SubmitJob(component="azureml:twice:1", inputs={"text": "azureml:text:1"}))
    assert [step.component for step in job.steps] == ["azureml:count_lines:1"] * 2
    assert services.jobs.output_path(job.name, "total").read_text() == "1\n"
    first = next(step for step in job.steps if step.name == "twice/first")
    assert Path(str(first.outputs["total"].path)).read_text() == "3\n"

    after = run(
        services,
        SubmitJob(
            component="azureml:count_lines@latest",
            inputs={"text": {"type": "uri_file", "path": f"azureml://jobs/{job.name}/outputs/total"}},
        ),
    )
    assert services.jobs.output_path(after.name, "total").read_text() == "1\n"
    (why,) = services.jobs.explain(after.name)
    assert [line.split(" (")[0] for line in why.changed] == ["input:text changed"]


def test_what_is_not_there(services: Services) -> None:
    told = faults(
        services,
        SubmitJob(
            jobs={
                "a": {"component": "azureml:count_line:1"},
                "b": {"component": "azureml:count_lines:9"},
                "c": {"component": "azureml:count_lines:1", "inputs": {"text": "azureml:none:1"}},
                "d": {"component": "azureml:count_lines:1", "inputs": {"text": "azureml://jobs/none/outputs/o"}},
            }
        ),
    )
    assert "there is no component 'count_line'" in told["jobs.a.component"]
    assert "has no version '9'" in told["jobs.b.component"]
    assert "there is no data asset 'none'" in told["jobs.c.inputs.text"]
    assert "there is no job 'none'" in told["jobs.d.inputs.text"]


def test_weights_that_were_never_imported(services: Services) -> None:
    spec = command("use", "ls ${{inputs.model}}", inputs={"model": {"type": "mlflow_model"}})
    reference = "azureml://registries/azureml/models/Phi-4/labels/latest"
    told = faults(services, SubmitJob(component=spec, inputs={"model": reference}))
    assert "are not on this machine" in told["inputs.model"]


def test_a_compute_of_another_size_is_said(services: Services, tmp_path: Path) -> None:
    services.computes.create_or_update(CreateCompute(name="gpu-cluster", size="Standard_ND40rs_v2"))
    job = run(
        services,
        SubmitJob(
            component="azureml:count_lines:1", compute="gpu-cluster", inputs={"text": str(tmp_path / "text.jsonl")}
        ),
    )
    assert [notice.code for notice in job.notices] == ["ComputeDiffers"]
    assert "Standard_ND40rs_v2" in job.notices[0].message
    assert "nowhere" in faults(services, SubmitJob(component="azureml:count_lines:1", compute="nowhere"))["compute"]


def test_a_registered_pipeline_must_not_name_files() -> None:
    spec = {
        "type": "pipeline",
        "name": "p",
        "jobs": {
            "a": {"component": "./a.yml"},
            "b": {"command": "ls", "code": "./src"},
            "c": {"component": "azureml:c:1"},
        },
    }
    with pytest.raises(ValidationFailed) as caught:
        check_spec(spec)
    assert [fault.target for fault in caught.value.details] == ["jobs.a.component", "jobs.b.code"]
    assert len(check_spec(COUNT)) == 64
    assert check_spec(COUNT) == check_spec({**COUNT, "description": "other words", "version": "7"})
    assert check_spec(COUNT) != check_spec({**COUNT, "command": "ls"})
