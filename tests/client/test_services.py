"""The SDK's services against a real server: what the examples in the docstrings do not show."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.events import told
from tests.support.server import RunningServer, start_server
from tests.support.tiny import tiny_conversations
from tunesmith.client import Workspace
from tunesmith.errors import (
    AlreadyExists,
    JobCanceled,
    JobFailed,
    NotFound,
    UserError,
    ValidationFailed,
)
from tunesmith.records.jobs import SubmitJob
from tunesmith.records.workspace import JobEvent

JOB = {"type": "command", "command": "echo hello > ${{outputs.out}}/x", "outputs": {"out": {"type": "uri_folder"}}}


@pytest.fixture
def elsewhere(server: RunningServer) -> Iterator[Workspace]:
    """A client that cannot see the server's files: its workspace.json is out of sight."""
    hidden = server.home / "workspace.json.hidden"
    (server.home / "workspace.json").rename(hidden)
    try:
        with Workspace(url=server.url, token=server.token) as ws:
            yield ws
    finally:
        hidden.rename(server.home / "workspace.json")


def test_files_are_read_in_place_or_sent(ws: Workspace, elsewhere: Workspace, tmp_path: Path) -> None:
    file = tiny_conversations(tmp_path / "rows.jsonl", 3)
    here, there = ws.data.register("seen", file), elsewhere.data.register("sent", file)
    assert here.sha256 == there.sha256 and there.rows == 3
    folder = tmp_path / "folder"
    (folder / "inner").mkdir(parents=True)
    (folder / "a.jsonl").write_bytes(file.read_bytes())
    (folder / "inner" / "b.jsonl").write_bytes(file.read_bytes())
    assert elsewhere.data.register("sent-folder", folder).type == "uri_folder"
    assert elsewhere.data.get("sent-folder").size_bytes == 2 * file.stat().st_size


def test_a_job_sent_to_a_server_elsewhere_takes_its_files_along(elsewhere: Workspace, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("from here\n")
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "say.sh").write_text('cat "$1"\n')
    (tmp_path / "job.yaml").write_text(
        "$schema: https://example.com/x.json\ntype: command\ncode: ./code\n"
        "command: sh say.sh ${{inputs.words}}\ninputs:\n  words: {type: uri_file, path: ./words.txt}\n"
    )
    job = elsewhere.jobs.wait(elsewhere.jobs.submit(tmp_path / "job.yaml").name)
    assert "from here" in elsewhere.jobs.logs(job.name, "command")


def test_a_failed_job_raises_its_cause(ws: Workspace) -> None:
    job = ws.jobs.submit({"type": "command", "command": "echo the cause >&2; exit 3"})
    with pytest.raises(JobFailed) as caught:
        ws.jobs.wait(job.name)
    assert caught.value.extra["job"] == job.name and caught.value.way_out
    assert "the cause" in ws.jobs.logs(job.name)
    assert ws.jobs.stream(job.name).status == "Failed", "stream leaves the judgement to the caller"


def test_a_canceled_job_raises(ws: Workspace) -> None:
    job = ws.jobs.submit({"type": "command", "command": "sleep 60"})
    ws.jobs.cancel(job.name)
    with pytest.raises(JobCanceled):
        ws.jobs.wait(job.name)


def test_outputs_are_downloaded(ws: Workspace, elsewhere: Workspace, tmp_path: Path) -> None:
    job = ws.jobs.wait(ws.jobs.submit(SubmitJob.model_validate(JOB)).name)
    for client, folder in ((ws, tmp_path / "a"), (elsewhere, tmp_path / "b")):
        assert client.jobs.download(job.name, folder) == folder
        assert (folder / "out" / "x").read_text() == "hello\n"
    with pytest.raises(NotFound):
        ws.jobs.download(job.name, tmp_path, output="nothing")


def test_a_job_is_run_again_and_compared(ws: Workspace, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("2.5")
    told = '{"t": 1, "kind": "metric", "step": 1, "values": {"loss": %s}}\\n'
    job = ws.jobs.submit(
        {
            "type": "command",
            "command": f"printf '{told}' $(cat ${{{{inputs.words}}}}) >> $TUNESMITH_EVENTS",
            "inputs": {"words": {"type": "uri_file", "path": str(tmp_path / "words.txt")}},
        }
    )
    ws.jobs.wait(job.name)
    again = ws.jobs.wait(ws.jobs.reproduce(job.name).name)
    found = ws.jobs.compare(job.name, again.name)
    assert (found.equal, found.values, found.steps, found.changed) == (True, 1, 1, [])
    (tmp_path / "words.txt").write_text("2.6")
    with pytest.raises(ValidationFailed, match="cannot be run again") as caught:
        ws.jobs.reproduce(job.name)
    assert [fault.target for fault in caught.value.details] == ["command.inputs.words"]


@pytest.mark.parametrize(
    ("text", "words"),
    [("a: [", "not YAML"), ("- 1", "not a mapping"), ("\tx: 1", "not YAML"), ("", "not a mapping")],
)
def test_a_file_that_is_no_job_is_named_with_its_line(ws: Workspace, tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        ws.jobs.submit(file)
    assert str(caught.value.target).startswith(str(file))


def test_faulty_calls_are_refused_before_anything_is_sent(ws: Workspace, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no file or folder"):
        ws.data.register("x", tmp_path / "nothing.jsonl")
    with pytest.raises(NotFound, match="no file"):
        ws.jobs.submit(tmp_path / "nothing.yaml")
    with pytest.raises(UserError, match="not both"):
        ws.models.get("a", "1", label="latest")
    with pytest.raises(UserError, match="reference of its own"):
        ws.models.get("a:1", "1")
    with pytest.raises(ValidationFailed):
        ws.computes.create_or_update("box-1", tier="cheap")
    (tmp_path / "latin").write_bytes(b"type: \xe9\n")
    with pytest.raises(UserError, match="not UTF-8"):
        ws.jobs.submit(tmp_path / "latin")


def test_the_same_name_twice(ws: Workspace) -> None:
    ws.jobs.submit({**JOB, "name": "once"})
    with pytest.raises(AlreadyExists):
        ws.jobs.submit({**JOB, "name": "once"})


def test_the_pipeline_says_what_was_meant(ws: Workspace, tiny_folder: Path, conversations: Path) -> None:
    with pytest.raises(ValidationFailed) as caught:
        ws.finetune(str(tiny_folder), conversations, learning_rat=1e-4, lora_r="many", num_train_epochs=0)
    text = str(caught.value)
    assert "learning_rate" in text and "lora_r" in text and "num_train_epochs" in text
    with pytest.raises(UserError, match="given twice"):
        ws.finetune(str(tiny_folder), conversations, train_file_path=str(conversations))


def test_events_go_on_across_a_restart_of_the_server(tmp_path: Path) -> None:
    """The server is killed while a job runs and is followed; nothing is lost, repeated, or started again."""
    home = tmp_path / "home"
    server = start_server(home, "--port", "0")
    port = server.url.rsplit(":", 1)[1]
    gate = tmp_path / "gate"
    with Workspace(home, start=False) as ws:
        job = ws.jobs.submit({"type": "command", "command": f"echo begun; while ! test -e {gate}; do sleep 0.05; done"})
        events: list[JobEvent] = []
        running = threading.Event()
        outcome: list[str] = []

        def follow() -> None:
            def take(event: JobEvent) -> None:
                events.append(event)
                if event.step and event.data.get("status") == "Running":
                    running.set()

            outcome.append(ws.jobs.stream(job.name, take).status)

        thread = threading.Thread(target=follow)
        thread.start()
        assert running.wait(60)
        server.kill()
        server = start_server(home, "--port", port)
        try:
            gate.touch()
            thread.join(60)
            assert outcome == ["Completed"]
            assert told(events) == told(ws.jobs.events(job.name, follow=False))
            (step,) = ws.jobs.get(job.name).steps
            assert step.attempt == 1, "the job went on, it was not started again"
        finally:
            server.kill()
