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
from tunesmith.cli.batch_rows import look_over, read_rows
from tunesmith.cli.batch_run import Progress, earlier, run_batch, state_file
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
    # The same command asks nothing, and what failed has still failed.
    same = served.run("batch", "chat", *arguments, "--json")
    assert same.returncode == 1
    assert "6 answered before, 3 failed before" in same.stderr
    assert json.loads(same.stdout)["errors"] == {"InvalidData": 2, "UnsupportedField": 1}
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
    assert (kept.answered, kept.failed) == ({"line 1"}, {})
    again = Asker({})
    progress = run_batch(again, source, overview, out, defaults={}, kept=kept, concurrency=1, watch=lambda _: None)
    assert (again.asked, progress.kept, progress.answered, progress.failed) == (["b", "c", "d"], 1, 3, 0)
    assert [line["messages"][1]["content"] for line in lines_of(out)] == ["A", "B", "C", "D"]


def test_lines_that_failed_earlier_are_failures_of_the_same_command_again(write: Write, tmp_path: Path) -> None:
    body = {"messages": [{"role": "user", "content": "c"}]}
    request = json.dumps({"custom_id": "third", "method": "POST", "url": "/v1/chat/completions", "body": body})
    source = write("in.jsonl", [row("a"), row("b"), request])
    overview, out = look_over(source), tmp_path / "out.jsonl"

    def go(asker: Asker, *, retry_errors: bool = False) -> Progress:
        kept = earlier(out, {"target": "t"}, retry_errors=retry_errors, overwrite=False)
        return run_batch(asker, source, overview, out, defaults={}, kept=kept, concurrency=1, watch=lambda _: None)

    first = go(Asker({"b": [UnsupportedField("no")], "c": [InvalidData("nor this", target="x")]}))
    assert (first.kept, first.answered, first.failed) == (0, 1, 2)
    second = go(asker := Asker({}))
    assert asker.asked == []
    assert (second.kept, second.answered, second.failed, second.done) == (1, 0, 2, 3)
    assert second.errors == {"UnsupportedField": 1, "InvalidData": 1}
    assert second.examples == first.examples == {"UnsupportedField": "line 2: no", "InvalidData": "line 3: x: nor this"}
    assert state_file(out).exists()
    third = go(asker := Asker({}), retry_errors=True)
    assert asker.asked == ["b", "c"]
    assert (third.kept, third.answered, third.failed) == (1, 2, 0)
    assert not state_file(out).exists()


def test_every_row_keeps_its_line_whatever_its_custom_id(write: Write, tmp_path: Path) -> None:
    body = {"messages": [{"role": "user", "content": "x"}]}
    nameless = json.dumps({"method": "POST", "url": "/v1/chat/completions", "body": body})
    source = write("in.jsonl", [nameless, row("a", custom_id=""), nameless, row("b", custom_id=7), row("c")])
    out = tmp_path / "out.jsonl"
    kept = earlier(out, {}, retry_errors=False, overwrite=False)
    progress = run_batch(
        Asker({}), source, look_over(source), out, defaults={}, kept=kept, concurrency=3, watch=lambda _: None
    )
    assert (progress.answered, progress.failed) == (2, 3)
    assert [line["line"] for line in lines_of(out)] == [1, 2, 3, 4, 5]
    assert [line.get("custom_id") for line in lines_of(out)] == [None, "", None, None, None]
    again = earlier(out, {}, retry_errors=False, overwrite=False)
    assert (again.answered, set(again.failed)) == ({"", "line 5"}, {"line 1", "line 3", "line 4"})


def test_an_answer_to_no_row_is_told_and_not_removed(write: Write, tmp_path: Path) -> None:
    source, out = write("in.jsonl", [row("a")]), tmp_path / "out.jsonl"
    earlier(out, {}, retry_errors=False, overwrite=False)
    out.write_text(json.dumps({"line": 9, "messages": []}) + "\n", encoding="utf-8")
    kept = earlier(out, {}, retry_errors=False, overwrite=False)
    with pytest.raises(InvalidData, match=r"1 lines answer no line of .*in\.jsonl, first 'line 9'"):
        run_batch(
            Asker({}), source, look_over(source), out, defaults={}, kept=kept, concurrency=1, watch=lambda _: None
        )
    assert [line["line"] for line in lines_of(out)] == [9, 1]


def test_streams_are_refused_in_both_shapes(write: Write) -> None:
    messages = [{"role": "user", "content": "x"}]
    body = {"messages": messages, "stream": True}
    request = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    source = write("in.jsonl", [row("x", stream=True), json.dumps(request), row("x", stream=False)])
    faults = [found.fault for found in read_rows(source, {})]
    assert [fault and (fault.code, fault.target) for fault in faults] == [
        ("UnsupportedField", f"{source}:1#stream"),
        ("UnsupportedField", f"{source}:2#body.stream"),
        None,
    ]


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_line_with_a_limit_by_either_name_gets_no_other(write: Write, name: str) -> None:
    body = {"messages": [{"role": "user", "content": "x"}], name: 3}
    request = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    source = write("in.jsonl", [row("x", **{name: 3}), json.dumps(request), row("x")])
    found = [dict(each.body) for each in read_rows(source, {"max_tokens": 9, "seed": 1})]
    for each in found:
        del each["messages"]
    assert found == [{name: 3, "seed": 1}, {name: 3, "seed": 1}, {"max_tokens": 9, "seed": 1}]
