"""The request log, the conversations that are kept, and the training rows made of them."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.yard import Yard, ask
from tunesmith.chat.messages import Message
from tunesmith.chat.validation import check
from tunesmith.endpoints import collected, journal
from tunesmith.endpoints.collected import CollectedConversations
from tunesmith.endpoints.journal import Journal
from tunesmith.endpoints.trace import RequestTrace, current
from tunesmith.errors import ModelFailed, Unavailable, UnsupportedField, UserError
from tunesmith.generate.types import GenerateRequest
from tunesmith.records.endpoints import DataCollector, UpdateEndpoint

KEPT = DataCollector(enabled=True)


@pytest.fixture
async def yard(tmp_path: Path) -> AsyncIterator[Yard]:
    made = Yard(tmp_path / "home")
    yield made
    await made.close()


async def whole(yard: Yard, request: GenerateRequest) -> str:
    return (await (await yard.gateway.generate("chat", request)).result()).choices[0].text


async def streamed(yard: Yard, request: GenerateRequest) -> str:
    return "".join([event.text async for event in await yard.gateway.generate("chat", request)])


async def test_every_request_is_a_line_whatever_became_of_it(yard: Yard) -> None:
    await yard.deployment("blue")
    yard.traffic(blue=100)
    current.set(RequestTrace("chat", "id-1", "v1/chat/completions"))
    before = datetime.now(UTC)
    await whole(yard, ask("say one two"))
    await streamed(yard, ask("say one two three", stream=True))
    with pytest.raises(ModelFailed):
        await whole(yard, ask("fail"))
    gone = await yard.gateway.generate("chat", ask("stall", stream=True))
    await gone.aclose()
    lines = yard.journal.requests("chat")
    assert [(line.status, line.error, line.stream, line.cancelled) for line in lines] == [
        (200, None, False, False),
        (200, None, True, False),
        (424, "ModelFailed", False, False),
        (499, None, True, True),
    ]
    assert [(line.prompt_tokens, line.completion_tokens) for line in lines] == [(7, 2), (7, 3), (0, 0), (0, 0)]
    assert [line.ttft_ms is not None for line in lines] == [False, True, False, True]
    assert all(line.latency_ms >= (line.ttft_ms or 0) > -1 for line in lines)
    assert all(abs(line.time - before) < timedelta(minutes=1) for line in lines)
    assert {(line.deployment, line.model, line.request_id, line.protocol, line.instance) for line in lines} == {
        ("blue", "azureml:m:1", "id-1", "v1/chat/completions", "blue0")
    }
    text = yard.journal.log_path.read_text("utf-8")
    assert "one two" not in text
    assert yard.service.keys("chat").primary_key not in text
    assert not yard.journal.collected_folder.exists()


async def test_mirrored_requests_are_lines_of_their_own(yard: Yard) -> None:
    await yard.deployment("blue")
    await yard.deployment("green")
    yard.traffic(blue=100)
    yard.service.update("chat", UpdateEndpoint(mirror_traffic={"green": 50}))
    await whole(yard, ask("say one"))
    while yard.gateway._mirrors:
        await next(iter(yard.gateway._mirrors))
    lines = {line.deployment: line for line in yard.journal.requests("chat")}
    assert (lines["green"].mirrored, lines["blue"].mirrored) == (True, False)
    assert lines["green"].completion_tokens == 1
    assert [line.deployment for line in yard.journal.requests("chat", "green")] == ["green"]
    assert yard.journal.requests("other") == []


async def test_what_is_kept_is_redacted_and_becomes_training_rows(yard: Yard, tmp_path: Path) -> None:
    await yard.deployment("blue", collector=DataCollector(enabled=True, redact_patterns=("secret",)))
    yard.traffic(blue=100)
    assert await whole(yard, ask("say mail a.b@example.com")) == "mail a.b@example.com"
    assert await streamed(yard, ask("say the secret is 123456789", stream=True)) == "the secret is 123456789"
    # What failed, was refused or was given up is no conversation.
    with pytest.raises(ModelFailed):
        await whole(yard, ask("fail"))
    with pytest.raises(UnsupportedField):
        await whole(yard, ask("refuse"))
    await (await yard.gateway.generate("chat", ask("stall", stream=True))).aclose()
    yard.journal.flush()
    (file,) = (yard.journal.collected_folder / "chat" / "blue").glob("*.jsonl")
    assert file.stat().st_mode & 0o077 == 0
    stored = file.read_text("utf-8")
    for text in ("a.b@example.com", "secret", "123456789"):
        assert text not in stored
    conversations = CollectedConversations(yard.journal.collected_folder, "chat")
    rows = list(conversations.rows())
    assert rows == [
        {
            "messages": [
                {"role": "user", "content": "say mail [EMAIL]"},
                {"role": "assistant", "content": "mail [EMAIL]"},
            ]
        },
        {
            "messages": [
                {"role": "user", "content": "say the [REDACTED] is [NUMBER]"},
                {"role": "assistant", "content": "the [REDACTED] is [NUMBER]"},
            ]
        },
    ]
    assert conversations.report().model_dump() == {
        "written": 2,
        "left_out": {},
        "removed_before": 0,
    }
    assert yard.gateway.metrics.of(("chat", "blue")).collected == 2
    out = tmp_path / "rows.jsonl"
    out.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    report = check(out)
    assert (report.rows, report.errors) == (2, 0)


async def test_a_sampling_rate_keeps_its_share(tmp_path: Path) -> None:
    draws = iter([0.0, 0.29, 0.3, 0.99])
    yard = Yard(tmp_path / "home", sample=lambda: next(draws))
    await yard.deployment("blue", collector=KEPT.model_copy(update={"sampling_rate": 0.3}))
    yard.traffic(blue=100)
    for number in range(4):
        await whole(yard, ask(f"say {number}"))
    await yard.close()
    rows = CollectedConversations(yard.journal.collected_folder, "chat", "blue").rows()
    assert [row["messages"][1]["content"] for row in rows] == ["0", "1"]


async def test_what_is_left_out_is_counted_with_its_reason(yard: Yard) -> None:
    await yard.deployment("blue", collector=KEPT)
    yard.traffic(blue=100)
    first, answer = Message("user", "say hello"), Message("assistant", "hello")
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    await whole(yard, GenerateRequest((first,)))
    await whole(yard, GenerateRequest((first, answer, Message("user", "say more"))))  # goes on from the first
    await whole(yard, GenerateRequest((first, answer, Message("user", "say more"))))
    await whole(yard, GenerateRequest((first,), tools=(tool,)))
    await whole(yard, GenerateRequest((Message("user", "say {}"),), response_format={"type": "json_object"}))
    await whole(yard, GenerateRequest((Message("user", "say "),)))
    await whole(yard, GenerateRequest((first, answer)))
    yard.journal.flush()
    conversations = CollectedConversations(yard.journal.collected_folder, "chat")
    (row,) = conversations.rows()
    assert [message["content"] for message in row["messages"]] == ["say hello", "hello", "say more", "more"]
    assert conversations.report().left_out == {
        collected.CONTINUED: 1,
        collected.TWICE: 1,
        collected.TOOLS: 1,
        collected.FORMAT: 1,
        collected.EMPTY: 1,
        collected.NOT_TO_LEARN: 1,
    }
    now = datetime.now(UTC)
    assert list(conversations.rows(until=now - timedelta(hours=1))) == []
    assert conversations.report().left_out == {collected.OUT_OF_TIME: 7}
    assert yard.journal.forget("chat", conversations.delete) > 0
    assert list(conversations.rows()) == []
    await whole(yard, GenerateRequest((first,)))
    yard.journal.flush()
    assert len(list(conversations.rows())) == 1


async def test_tools_are_kept_redacted_and_calls_with_them(yard: Yard) -> None:
    await yard.deployment("blue", collector=DataCollector(enabled=True, redact_patterns=("Paris",)))
    yard.traffic(blue=100)
    function = {"name": "weather", "description": "Ask a.b@example.com", "parameters": {"type": "object"}}
    request = ask("call weather")
    for stream in (False, True):
        asked = replace(request, tools=({"type": "function", "function": function},), stream=stream)
        generation = await yard.gateway.generate("chat", asked)
        _ = [event async for event in generation] if stream else await generation.result()
    yard.journal.flush()
    (file,) = (yard.journal.collected_folder / "chat" / "blue").glob("*.jsonl")
    first, second = map(json.loads, file.read_text("utf-8").splitlines())
    kept = {"type": "function", "function": {**function, "description": "Ask [EMAIL]"}}
    call = {"name": "weather", "arguments": '{"city": "[REDACTED]"}'}
    for body in (first, second):
        assert body["tools"] == [kept]
        assert body["choices"] == [{"text": "", "finish_reason": "tool_calls", "tool_calls": [call]}]


async def test_conversations_are_deleted_while_nothing_is_written(yard: Yard) -> None:
    await yard.deployment("blue", collector=KEPT)
    yard.traffic(blue=100)
    await whole(yard, ask("say hello"))
    by: list[str] = []

    def delete() -> int:
        by.append(threading.current_thread().name)
        return CollectedConversations(yard.journal.collected_folder, "chat").delete()

    assert await asyncio.to_thread(yard.journal.forget, "chat", delete) > 0
    assert by == ["request-journal"]

    def refuse() -> int:
        raise PermissionError("the folder is another's")

    with pytest.raises(PermissionError):
        await asyncio.to_thread(yard.journal.forget, "chat", refuse)
    assert yard.journal.lost == 0


def test_a_deletion_that_takes_too_long_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "FORGET_SECONDS", 0.05)
    written = Journal(tmp_path / "requests.jsonl", tmp_path / "collected")
    written.note({"time": "now"})  # from now on its thread does the work
    go = threading.Event()
    with pytest.raises(Unavailable, match=r"of endpoint 'chat' were not deleted within 0\.05 s"):
        written.forget("chat", lambda: go.wait(30))
    go.set()

    def late() -> None:
        raise TimeoutError("the disk's own")

    monkeypatch.setattr(journal, "FORGET_SECONDS", 30.0)
    with pytest.raises(TimeoutError, match="the disk's own"):
        written.forget("chat", late)
    written.close()


def test_a_deletion_that_comes_while_it_closes_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = Journal(tmp_path / "requests.jsonl", tmp_path / "collected")
    written.note({"time": "now"})
    done: list[str] = []
    flush = written._flush

    def flush_then_hand_over() -> None:
        flush()
        if written._closing:  # the thread looks at its entries no more
            written._hand_over(lambda: done.append(threading.current_thread().name))
            written._hand_over({"time": "later"})

    monkeypatch.setattr(written, "_flush", flush_then_hand_over)
    written.close()
    assert (done, written.lost) == ([threading.current_thread().name], 1)


def test_answers_that_were_cut_are_left_out_unless_they_are_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "chat" / "blue"
    folder.mkdir(parents=True)
    body: dict[str, Any] = {
        "time": "2026-01-01T00:00:00.000Z",
        "status": 200,
        "messages": [{"role": "user", "content": "Count"}],
        "parameters": {},
        "choices": [{"text": "1 2 3", "finish_reason": "length"}],
    }
    (folder / "00001.jsonl").write_text(json.dumps(body) + "\nhalf a li", "utf-8")
    conversations = CollectedConversations(tmp_path, "chat")
    assert list(conversations.rows()) == []
    assert conversations.report().left_out == {collected.CUT: 1, collected.UNREADABLE: 1}
    assert len(list(conversations.rows(include_cut=True))) == 1
    with pytest.raises(UserError):
        CollectedConversations(tmp_path, "../chat")


def test_what_a_faulty_disk_refuses_is_counted_and_nothing_stops(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file where a folder should be")
    journal = Journal(tmp_path / "logs" / "requests.jsonl", tmp_path / "collected")
    journal.note({"time": "2026-01-01T00:00:00Z", "endpoint": "chat", "status": 200, "latency_ms": 1.0})
    assert journal.flush()
    assert journal.lost == 1
    journal.close()
