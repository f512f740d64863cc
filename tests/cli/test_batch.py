"""``tunesmith batch``: both kinds of file, resuming after a kill, errors by the line, a model without a deployment."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.cli.conftest import Served
from tests.support.house import until
from tunesmith.cli.batch_rows import look_over
from tunesmith.cli.batch_run import earlier, run_batch, state_file
from tunesmith.errors import Conflict, InvalidData, NotAuthenticated, TooManyRequests, TunesmithError, UnsupportedField

Write = Callable[[str, list[str]], Path]
TEXTS = ["Hello", "Bird.", "weather in Paris?", "x", "Write a function that adds."]


def row(text: str, **more: Any) -> str:
    return json.dumps({"messages": [{"role": "user", "content": text}], **more})


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_messages_rows_are_answered_in_order_and_faults_are_told(served: Served, write: Write, tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "reference"}]
    source = write(
        "in.jsonl",
        [
            *(row(text) for text in TEXTS),
            "",
            json.dumps({"messages": talk, "custom_id": "ends", "max_tokens": 3}),
            "{not json",
            row("Hello", temprature=1),
            json.dumps({"messages": "Hello"}),
        ],
    )
    out = tmp_path / "out.jsonl"
    arguments = ["--in", str(source), "--out", str(out), "--max-tokens", "5", "--temperature", "0"]
    done = served.run("batch", "chat", *arguments)
    assert done.returncode == 1, done.stderr
    found = lines_of(out)
    assert [line["line"] for line in found] == [1, 2, 3, 4, 5, 7, 8, 9, 10]
    for line, text in zip(found[:5], TEXTS, strict=True):
        assert line["messages"][0]["content"] == text
        assert line["messages"][1] == {"role": "assistant", "content": served.answer(text, max_tokens=5)}
        assert line["finish_reason"] in ("stop", "length")
        assert line["usage"]["completion_tokens"] <= 5
    assert (found[5]["custom_id"], found[5]["expected"]) == ("ends", talk[1])
    assert found[5]["messages"][1]["content"] == served.answer("x", max_tokens=3)
    assert [line["error"]["target"] for line in found[6:]] == [f"{source}:8", "temprature", f"{source}:10#messages"]
    said = " ".join(done.stdout.split())
    assert "6 lines answered" in said
    assert "2 failed with InvalidData" in said
    assert "1 failed with UnsupportedField, first line 9: temprature" in said
    assert "1 conversations end with the assistant" in said

    # What failed can be asked again; nothing else is.
    again = served.run("batch", "chat", *arguments, "--retry-errors", "--json")
    assert again.returncode == 1
    summary = json.loads(again.stdout)
    assert (summary["kept"], summary["answered"], summary["failed"]) == (6, 0, 3)
    assert [line["line"] for line in lines_of(out)] == [line["line"] for line in found]
    assert lines_of(out)[:6] == found[:6]
    other = served.run("batch", "chat", *arguments, "--seed", "3")
    assert other.returncode == 2
    assert "another parameters" in " ".join(other.stderr.split())


def test_openais_batch_file(served: Served, write: Write, tmp_path: Path) -> None:
    def request(custom_id: str, url: str, body: dict[str, Any], **more: Any) -> str:
        return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": body, **more})

    chat = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4, "temperature": 0}
    source = write(
        "in.jsonl",
        [
            request("a", "/v1/chat/completions", chat),
            request("b", "/v1/completions", {"prompt": ["x", "Bird."], "max_tokens": 3, "temperature": 0}),
            request("c", "/v1/chat/completions", {**chat, "max_tokens": 0}),
            request("d", "/v1/embeddings", {"input": "x"}),
            request("e", "/v1/chat/completions", {**chat, "model": "gpt-4o"}),
        ],
    )
    out = tmp_path / "out.jsonl"
    done = served.run("batch", "chat", "--in", str(source), "--out", str(out))
    assert done.returncode == 1
    a, b, c, d, e = lines_of(out)
    assert [line["custom_id"] for line in (a, b, c, d, e)] == list("abcde")
    assert (a["error"], a["response"]["status_code"], a["response"]["body"]["object"]) == (None, 200, "chat.completion")
    assert a["response"]["body"]["choices"][0]["message"]["content"] == served.answer("Hello", max_tokens=4)
    assert a["response"]["request_id"] == a["response"]["body"]["id"]
    assert [choice["index"] for choice in b["response"]["body"]["choices"]] == [0, 1]
    assert (c["response"]["status_code"], c["error"]["code"]) == (400, "ValidationFailed")
    assert c["response"]["body"]["error"]["details"][0]["target"] == "max_tokens"
    assert (d["response"], d["error"]["code"]) == (None, "UnsupportedField")
    assert (e["response"]["status_code"], e["error"]["code"]) == (404, "ResourceNotFound")


def test_after_a_kill_the_same_command_goes_on(served: Served, write: Write, tmp_path: Path) -> None:
    source = write("in.jsonl", [row(f"{text} {number}") for number in range(12) for text in TEXTS])
    out = tmp_path / "out.jsonl"
    arguments = ["batch", "chat", "--in", str(source), "--out", str(out), "--max-tokens", "6", "--temperature", "0"]
    process = subprocess.Popen(served.command(*arguments, "--concurrency", "2"), stdout=subprocess.DEVNULL)
    try:
        until(lambda: out.exists() and out.read_bytes().count(b"\n") >= 3, "the first answers")
        served.instance.suspend()
        process.kill()
        process.wait()
    finally:
        process.kill()
        served.instance.resume()
    kept = out.read_bytes().splitlines(keepends=True)
    assert 3 <= len(kept) < 60
    with out.open("ab") as file:
        file.write(b'{"line": 60, "messa')  # what a kill in the middle of a write leaves
    done = served.run(*arguments)
    assert done.returncode == 0, done.stderr
    assert f"60 lines for endpoint chat, {len(kept)} answered before" in done.stdout
    found = out.read_bytes().splitlines(keepends=True)
    assert [json.loads(line)["line"] for line in found] == list(range(1, 61))
    assert set(kept) <= set(found)
    assert not state_file(out).exists()
    over = served.run(*arguments)
    assert over.returncode == 2
    assert "--overwrite" in over.stderr


def test_a_model_answers_without_a_deployment_and_its_process_ends(
    served: Served, write: Write, tmp_path: Path
) -> None:
    source = write("in.jsonl", [*(row(text) for text in TEXTS), row("x", model="other")])
    out = tmp_path / "out.jsonl"
    done = served.run(
        *("batch", "azureml:tiny:1", "--in", str(source), "--out", str(out), "--precision", "32"),
        *("--max-tokens", "5", "--temperature", "0", "--engine", "transformers"),
    )
    assert done.returncode == 1, done.stderr
    assert "tiny (transformers, precision 32)" in done.stdout
    found = lines_of(out)
    assert [line["messages"][1]["content"] for line in found[:5]] == [
        served.answer(text, max_tokens=5) for text in TEXTS
    ]
    assert (found[5]["error"]["code"], found[5]["error"]["target"]) == ("ResourceNotFound", "model")
    assert not [
        process
        for process in psutil.process_iter(["cmdline"])
        if "tunesmith.generate.piped" in (process.info["cmdline"] or [])
        and str(served.server.home) in str(process.info)
    ]
    nothing = served.run("batch", "azureml:tiny:9", "--in", str(source), "--out", str(out), "--overwrite")
    assert nothing.returncode == 2
    assert "tiny" in nothing.stderr


def test_ids_that_come_twice_are_named(write: Write) -> None:
    source = write("in.jsonl", [row("a", custom_id="x"), row("b", custom_id="y"), row("c", custom_id="x")])
    with pytest.raises(InvalidData, match="line 1 too") as twice:
        look_over(source)
    assert twice.value.target == f"{source}:3#custom_id"


class Asker:
    """Answers each text after the errors that are given for it."""

    about = "a script"

    def __init__(self, errors: dict[str, list[TunesmithError]]) -> None:
        self.errors = errors
        self.asked: list[str] = []
        self._lock = threading.Lock()

    def ask(self, url: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        text = body["messages"][-1]["content"]
        with self._lock:
            self.asked.append(text)
            if self.errors.get(text):
                raise self.errors[text].pop(0)
        choice = {"message": {"role": "assistant", "content": text.upper()}, "finish_reason": "stop"}
        return {"id": "1", "choices": [choice], "usage": {"completion_tokens": 1}}

    def close(self) -> None:
        pass


def test_a_busy_endpoint_is_asked_again_and_a_closed_one_stops_the_run(write: Write, tmp_path: Path) -> None:
    source = write("in.jsonl", [row("a"), row("b"), row("c"), row("d")])
    overview = look_over(source)
    out = tmp_path / "out.jsonl"
    run = {"target": "t"}
    busy = TooManyRequests("full", extra={"retry_after": 0.01})
    asker = Asker({"a": [busy, busy], "b": [UnsupportedField("no")], "c": [NotAuthenticated("key")]})
    kept = earlier(out, run, retry_errors=False, overwrite=False)
    with pytest.raises(NotAuthenticated):
        run_batch(asker, source, overview, out, defaults={}, kept=kept, concurrency=1, watch=lambda _: None)
    assert asker.asked == ["a", "a", "a", "b", "c"]
    assert [line["line"] for line in lines_of(out)] == [1, 2]

    with pytest.raises(Conflict, match="another target"):
        earlier(out, {"target": "u"}, retry_errors=False, overwrite=False)
    kept = earlier(out, run, retry_errors=True, overwrite=False)
    assert kept == {"line 1"}
    again = Asker({})
    progress = run_batch(again, source, overview, out, defaults={}, kept=kept, concurrency=1, watch=lambda _: None)
    assert (again.asked, progress.kept, progress.done, progress.failed) == (["b", "c", "d"], 1, 3, 0)
    assert [line["messages"][1]["content"] for line in lines_of(out)] == ["A", "B", "C", "D"]
