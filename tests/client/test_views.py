"""Every object prints well: as text, for rich, and in a notebook."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console

from tunesmith.client import views
from tunesmith.client.printing import Listing
from tunesmith.records import assets, compute, endpoints, jobs
from tunesmith.records.compute import Machine
from tunesmith.records.workspace import DoctorItem

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LATER = datetime(2026, 1, 2, 3, 6, 10, tzinfo=UTC)

MODEL: dict[str, Any] = {
    "registry": "workspace",
    "name": "tuned",
    "version": "3",
    "id": "azureml:tuned:3",
    "created_at": NOW,
    "parameter_count": 134_515_008,
    "size_bytes": 269_060_000,
    "state": "imported",
    "tags": {"a": "b"},
    "lineage": {
        "job": "tune-1",
        "items": [{"role": "train", "reference": "azureml:chat:1", "sha256": "ab" * 32, "detail": {"rows": 12}}],
    },
}
JOB: dict[str, Any] = {
    "name": "brave_moon_1",
    "display_name": "first tune",
    "experiment_name": "Default",
    "type": "pipeline",
    "status": "Failed",
    "created_at": NOW,
    "started_at": NOW,
    "ended_at": LATER,
    "steps": [
        {"name": "tune", "status": "Failed"},
        {"name": "tune/import", "status": "Completed", "reused_from": "calm_sea/tune/import"},
        {
            "name": "tune/train",
            "status": "Failed",
            "error": {"code": "NonFiniteLoss", "message": "the loss became NaN at step 3"},
        },
    ],
    "outputs": {"model": {"type": "mlflow_model", "uri": "azureml://jobs/brave_moon_1/outputs/model"}},
    "notices": [{"code": "RowsDropped", "message": "2 of 9 rows were dropped [/odd]", "count": 2}],
    "error": {"code": "StepFailed", "message": "the step tune/train failed"},
}
ENDPOINT: dict[str, Any] = {
    "name": "chat",
    "auth_mode": "key",
    "traffic": {"blue": 90, "green": 10},
    "provisioning_state": "Succeeded",
    "deployments": ["blue", "green"],
    "scoring_uri": "http://127.0.0.1:8787/endpoints/chat/score",
    "created_at": NOW,
}
DEPLOYMENT: dict[str, Any] = {
    "name": "blue",
    "endpoint": "chat",
    "model": "azureml:tuned:3",
    "instance_count": 1,
    "instance_type": "local",
    "engine": "auto",
    "precision": "auto",
    "request_settings": {},
    "liveness_probe": {},
    "readiness_probe": {},
    "provisioning_state": "Failed",
    "instances": [
        {"id": "i1", "state": "Failed", "phases": [{"name": "copy", "seconds": 0.1}, {"name": "load"}]},
    ],
    "error": {"message": "the tokenizer is missing"},
    "log_tail": ["Traceback", "  boom"],
    "notices": ["asked for Standard_NC24, here are 2 cores"],
    "created_at": NOW,
}


def test_a_model_shows_its_lineage_as_a_tree() -> None:
    text = str(views.Model.model_validate(MODEL))
    assert text.startswith("tuned:3  imported")
    assert "134,515,008" in text and "269.1 MB" in text
    assert "made by job tune-1" in text and "train: azureml:chat:1  abababababab" in text and "rows=12" in text


def test_a_job_is_a_tree_of_steps_with_states_times_and_causes() -> None:
    text = str(views.Job.model_validate(JOB))
    assert text.splitlines()[0] == "first tune  Failed  2 min 05 s  brave_moon_1"
    assert "reused from calm_sea/tune/import" in text
    assert "the loss became NaN at step 3" in text
    assert "2 of 9 rows were dropped [/odd]" in text, "what looks like markup is text"
    assert text.index("import") > text.index("tune  Failed")


def test_an_endpoint_and_a_deployment_show_what_matters() -> None:
    assert "blue=90 %, green=10 %" in str(views.Endpoint.model_validate(ENDPOINT))
    text = str(views.Deployment.model_validate(DEPLOYMENT))
    assert "Failed: copy 0.1 s → load …" in text
    assert "the tokenizer is missing" in text and "  boom" in text and "asked for Standard_NC24" in text


def test_keys_are_not_shown_in_full() -> None:
    keys = views.EndpointKeys(primary_key="abcdefghijkl", secondary_key="mnopqrstuvwx")
    shown = str(keys) + repr(keys) + keys._repr_html_()
    assert "abcdefghijkl" not in shown and "mnopqrstuvwx" not in shown
    assert keys.primary_key == "abcdefghijkl"


ASSET: dict[str, Any] = {"registry": "workspace", "name": "a", "version": "1", "id": "azureml:a:1", "created_at": NOW}
ANSWER = {"choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}], "usage": {"total_tokens": 3}}
CHUNK = {"choices": [{"index": 0, "delta": {"content": "He"}}, {"index": 1, "delta": {"content": "x"}}]}

ALL = [
    views.Model.model_validate(MODEL),
    views.Job.model_validate(JOB),
    views.Endpoint.model_validate(ENDPOINT),
    views.Deployment.model_validate(DEPLOYMENT),
    views.Data(
        registry="workspace",
        name="d",
        version="1",
        id="azureml:d:1",
        created_at=NOW,
        path="/x",
        sha256="f",
        size_bytes=9,
    ),
    views.Component(
        registry="azureml",
        name="c",
        version="1",
        id="c",
        created_at=NOW,
        type="command",
        spec={"inputs": {"a": {}}},
        sha256="f",
    ),
    views.Environment(registry="azureml", name="e", version="1", id="e", created_at=NOW),
    views.Compute(
        name="gpu",
        type="amlcompute",
        size="Standard_NC24",
        min_instances=0,
        max_instances=1,
        idle_time_before_scale_down=120,
        tier="dedicated",
        provisioning_state="Succeeded",
        created_at=NOW,
        vcpus=24,
        memory_gb=220,
        gpus=1,
        difference="here are 2 cores",
    ),
    views.Doctor(
        machine=Machine(cores=2, memory_bytes=8_000_000_000),
        items=[
            DoctorItem(name="torch", state="ok", detail="2.13"),
            DoctorItem(name="vllm", state="absent", detail="no", way_out="pip install vllm"),
            DoctorItem(name="disk", state="problem", detail="full"),
        ],
    ),
    views.ChatAnswer(
        {"choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}], "usage": {"total_tokens": 3}}
    ),
    Listing([1, 2], [("number", lambda n: n)]),
]


@pytest.mark.parametrize("shown", ALL, ids=lambda shown: type(shown).__name__)
def test_every_view_prints_as_text_for_rich_and_in_a_notebook(shown: Any) -> None:
    text = str(shown)
    console = Console(width=120, record=True, force_terminal=False)
    with console.capture() as capture:
        console.print(shown)
    assert text.strip() and capture.get().strip()
    html = shown._repr_html_()
    assert html.startswith("<pre") and "<script" not in html


@pytest.mark.parametrize(
    ("view", "record"),
    [
        (views.Model, assets.ModelVersion),
        (views.Job, jobs.Job),
        (views.Endpoint, endpoints.Endpoint),
        (views.Compute, compute.Compute),
    ],
)
def test_a_view_is_the_record(view: type, record: type) -> None:
    assert issubclass(view, record)


def test_html_of_texts_from_outside_is_escaped() -> None:
    model = views.Model.model_validate({**MODEL, "description": "<script>alert(1)</script>"})
    assert "<script>" not in model._repr_html_() and "&lt;script&gt;" in model._repr_html_()


def test_a_listing_is_a_sequence_that_prints_as_a_table() -> None:
    listing = Listing([3, 4], [("n", lambda n: n), ("twice", lambda n: 2 * n)], what="numbers")
    assert list(listing) == [3, 4] and len(listing) == 2 and listing[0] == 3 and listing == [3, 4]
    assert [line.split() for line in repr(listing).splitlines()] == [["n", "twice"], ["3", "6"], ["4", "8"]]
    assert str(Listing([], [], what="jobs")) == "no jobs"


def test_answers_give_their_text() -> None:
    answer: Any = ALL[-2]
    assert (str(answer), answer.text, answer.finish_reason, answer.usage["total_tokens"]) == (
        "Hello",
        "Hello",
        "stop",
        3,
    )
    chunk = views.ChatChunk(
        {"choices": [{"index": 0, "delta": {"content": "He"}}, {"index": 1, "delta": {"content": "x"}}]}
    )
    assert (chunk.text, str(chunk)) == ("He", "He")
    assert views.ChatChunk({"choices": [], "usage": {}}).text == ""
