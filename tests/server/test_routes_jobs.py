"""Jobs over HTTP, with real command jobs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.server import RunningServer
from tunesmith.client import Workspace


@pytest.fixture(scope="module")
def done(server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a job that has completed, with a log, an output with two files, and events."""
    with Workspace(server.home, start=False) as ws:
        ws.jobs.submit(
            {
                "type": "command",
                "name": "done-job",
                "experiment_name": "routes",
                "command": "echo first; mkdir -p ${{outputs.made}}/inner; echo 1 > ${{outputs.made}}/a.txt; "
                "echo 22 > ${{outputs.made}}/inner/b.txt",
                "outputs": {"made": {"type": "uri_folder"}},
            }
        )
        assert ws.jobs.stream("done-job").status == "Completed"
    return "done-job"


def events_of(text: str) -> list[dict[str, Any]]:
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            found.append({**fields, "data": json.loads(fields["data"])})
    return found


def test_reads_a_job_its_logs_outputs_and_files(http: httpx.Client, done: str) -> None:
    base = f"/api/v1/jobs/{done}"
    job = http.get(base).json()
    assert (job["status"], [step["status"] for step in job["steps"]]) == ("Completed", ["Completed"])
    assert "first" in http.get(f"{base}/logs").text
    assert http.get(f"{base}/logs/command").text == "first\n"
    assert http.get(f"{base}/outputs").json()["made"]["uri"] == f"azureml://jobs/{done}/outputs/made"
    files = http.get(f"{base}/outputs/made/files").json()
    assert files == [{"path": "a.txt", "size_bytes": 2}, {"path": "inner/b.txt", "size_bytes": 3}]
    assert http.get(f"{base}/outputs/made/files/inner/b.txt").content == b"22\n"
    assert http.get(f"{base}/metrics").json() == []
    assert [step["step"] for step in http.get(f"{base}/explain").json()] == ["command"]


@pytest.mark.parametrize(
    "path", ["../secret.key", "..%2f..%2ftoken", "%2fetc%2fpasswd", "inner/../../../token", "inner"]
)
def test_files_outside_an_output_are_not_given(server: RunningServer, http: httpx.Client, done: str, path: str) -> None:
    answer = http.get(httpx.URL(f"{server.url}/api/v1/jobs/{done}/outputs/made/files/{path}"))
    assert answer.status_code in {400, 404}
    assert server.token not in answer.text


@pytest.mark.parametrize("name", ["..", "../done-job", "%2e%2e%2f%2e%2e", "no-such-job", "a" * 300])
def test_names_that_lead_elsewhere_are_not_found(server: RunningServer, http: httpx.Client, name: str) -> None:
    for tail in ("", "/events", "/logs", "/outputs/made/files/token"):
        answer = http.get(httpx.URL(f"{server.url}/api/v1/jobs/{name}{tail}"))
        assert answer.status_code in {400, 404}, (tail, answer.text)


def test_events_come_in_order_and_end(http: httpx.Client, done: str) -> None:
    answer = http.get(f"/api/v1/jobs/{done}/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = events_of(answer.text)
    assert events[-1]["event"] == "end"
    states = [(e["data"]["kind"], e["data"]["step"], e["data"]["data"]["status"]) for e in events[:-1]]
    assert states[0] == ("job", None, "Running")
    assert ("step", "command", "Completed") in states
    assert states[-1] == ("job", None, "Completed")
    assert all(event["id"] == event["data"]["id"] for event in events[:-1])


def test_events_go_on_after_a_cursor_or_the_last_id(http: httpx.Client, done: str) -> None:
    everything = events_of(http.get(f"/api/v1/jobs/{done}/events").text)
    middle = everything[1]["id"]
    after = events_of(http.get(f"/api/v1/jobs/{done}/events", params={"after": middle}).text)
    again = events_of(http.get(f"/api/v1/jobs/{done}/events", headers={"last-event-id": middle}).text)
    assert after == again == everything[2:]
    wrong = http.get(f"/api/v1/jobs/{done}/events", params={"after": "nonsense"})
    assert (wrong.status_code, wrong.json()["error"]["target"]) == (400, "after")


def test_without_following_the_stream_ends_at_once(server: RunningServer, http: httpx.Client) -> None:
    with Workspace(server.home, start=False) as ws:
        job = ws.jobs.submit({"type": "command", "command": "sleep 60"})
        try:
            events = events_of(http.get(f"/api/v1/jobs/{job.name}/events", params={"follow": False}).text)
            assert "end" not in [event["event"] for event in events]
        finally:
            ws.jobs.cancel(job.name)
            assert ws.jobs.stream(job.name).status == "Canceled"


def test_lists_filter_and_refuse_what_is_no_status(http: httpx.Client, done: str) -> None:
    found = http.get("/api/v1/jobs", params={"status": "Completed", "experiment_name": "routes", "limit": 5}).json()
    assert [job["name"] for job in found] == [done]
    wrong = http.get("/api/v1/jobs", params={"status": "completed"})
    assert wrong.status_code == 400 and wrong.json()["error"]["details"][0]["target"] == "query.status"


def test_validation_starts_nothing_and_names_every_fault(http: httpx.Client) -> None:
    job = {"type": "command", "command": "echo ${{inputs.x}}", "compute": "no-such-box", "nmae": "x"}
    answer = http.post("/api/v1/jobs", json=job)
    assert answer.status_code == 400
    assert answer.json()["error"]["details"][0]["way_out"] == "did you mean 'name'?"
    before = http.get("/api/v1/jobs").json()
    plan = http.post("/api/v1/jobs", json={"type": "command", "command": "true"}, params={"validate_only": True})
    assert plan.json()["status"] == "NotStarted"
    assert http.get("/api/v1/jobs").json() == before


def test_a_running_job_is_not_deleted_and_a_deleted_one_is_gone(server: RunningServer, http: httpx.Client) -> None:
    with Workspace(server.home, start=False) as ws:
        job = ws.jobs.submit({"type": "command", "command": "sleep 60"})
        refused = http.delete(f"/api/v1/jobs/{job.name}")
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "Conflict")
        ws.jobs.cancel(job.name)
        ws.jobs.stream(job.name)
        assert ws.jobs.delete(job.name) is not None
        assert http.get(f"/api/v1/jobs/{job.name}").status_code == 404
        assert not (Path(server.home) / "jobs" / job.name).exists()
