"""Jobs from submission to their end, through real runners."""

from __future__ import annotations

from pathlib import Path

from tests.pipelines.conftest import command, wait_for
from tunesmith.pipelines.service import JobService
from tunesmith.records.jobs import JobStatus, SubmitJob

WRITE = command(
    "write",
    "echo ${{inputs.text}} > ${{outputs.file}}",
    inputs={"text": {"type": "string"}},
    outputs={"file": {"type": "uri_file"}},
)
COUNT = command(
    "count",
    "wc -c < ${{inputs.file}} > ${{outputs.folder}}/count.txt",
    inputs={"file": {"type": "uri_file"}},
    outputs={"folder": {"type": "uri_folder"}},
)


def two_steps(text: str = "hello world; $(touch /tmp/never)", **settings: object) -> SubmitJob:
    return SubmitJob(
        experiment_name="trial",
        settings=settings,
        inputs={"text": text},
        outputs={"result": {"type": "uri_folder"}},
        jobs={
            # Written before the node it needs: the order comes from the bindings.
            "count": {
                "component": COUNT,
                "inputs": {"file": "${{parent.jobs.write.outputs.file}}"},
                "outputs": {"folder": "${{parent.outputs.result}}"},
            },
            "write": {"component": WRITE, "inputs": {"text": "${{parent.inputs.text}}"}},
        },
    )


def test_pipeline_runs_and_publishes_its_outputs(service: JobService) -> None:
    text = "hello world; $(touch /tmp/never)"
    submitted = service.submit(two_steps(text))
    assert submitted.status == JobStatus.STARTING
    job = wait_for(service, submitted.name)
    assert job.status == JobStatus.COMPLETED, job.error
    assert [step.name for step in job.steps] == ["write", "count"]
    assert all(step.status == JobStatus.COMPLETED and step.attempt == 1 for step in job.steps)
    path = service.output_path(job.name, "result")
    assert path.joinpath("count.txt").read_text().strip() == str(len(text) + 1)
    assert job.outputs["result"].uri == f"azureml://jobs/{job.name}/outputs/result"
    assert not Path("/tmp/never").exists()
