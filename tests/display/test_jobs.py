from datetime import UTC, datetime, timedelta

from rich.console import Console

from tunesmith.display.jobs import explanation_lines, job_tree, outcome
from tunesmith.records.jobs import Job, JobStatus, Notice, Output, Step, StepExplanation

START = datetime(2026, 1, 1, tzinfo=UTC)


def shown(renderable: object) -> str:
    console = Console(width=120, record=True, no_color=True)
    with console.capture() as captured:
        console.print(renderable)
    return captured.get()


def a_job() -> Job:
    return Job(
        name="calm_river_1",
        display_name="t",
        experiment_name="E",
        type="pipeline",
        status=JobStatus.FAILED,
        created_at=START,
        started_at=START,
        ended_at=START + timedelta(seconds=65),
        steps=[
            Step(name="p/prepare", status=JobStatus.COMPLETED, reused_from="old/p/prepare"),
            Step(
                name="p/train",
                status=JobStatus.FAILED,
                started_at=START,
                ended_at=START + timedelta(seconds=5),
                attempt=2,
            ),
        ],
        notices=[Notice(code="RowsCut", message="3 rows cut", step="p/prepare")],
        outputs={
            "made": Output(type="uri_folder", uri="azureml://jobs/calm_river_1/outputs/made", path="/x"),
            "never": Output(type="uri_folder", uri="azureml://jobs/calm_river_1/outputs/never"),
        },
        error={"error": {"message": "out of memory", "target": "p/train", "way_out": "smaller rows"}},
    )


def test_tree() -> None:
    text = shown(job_tree(a_job()))
    assert "calm_river_1  Failed  1 min 05 s" in text
    assert "prepare  Completed  reused from old/p/prepare" in text
    assert "train  Failed  5.0 s  attempt 2" in text
    assert "! prepare: 3 rows cut" in text
    assert "made  azureml://jobs/calm_river_1/outputs/made" in text
    assert "never" not in text
    assert "Cause: p/train: out of memory" in text
    assert "Way out: smaller rows" in text


def test_outcome_names_the_log_to_read() -> None:
    assert "Read: tunesmith jobs logs calm_river_1 --step train" in shown(outcome(a_job()))


def test_explanations() -> None:
    found = [
        StepExplanation(step="p/a", reused=True, reused_from="old/p/a", reason=""),
        StepExplanation(
            step="p/b", reused=False, reason="1 part changed since old/p/b", changed=["code changed (1… -> 2…)"]
        ),
    ]
    assert explanation_lines(found) == [
        "a: reused from old/p/a",
        "b: 1 part changed since old/p/b",
        "  code changed (1… -> 2…)",
    ]
