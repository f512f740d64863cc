"""Requests are strict, events survive JSON, capabilities name what they refuse."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tunesmith.chat.messages import Message, ToolCall
from tunesmith.errors import UnsupportedField, ValidationFailed
from tunesmith.generate import (
    Capabilities,
    GenerateEvent,
    GenerateRequest,
    GenerateResult,
    TokenLogprob,
    TopLogprob,
    Usage,
    collect,
)

HELLO = (Message("user", "Hello"),)
EVERYTHING = GenerateRequest(
    messages=(
        Message("system", "Be kind."),
        Message("user", "Weather?"),
        Message("assistant", "", tool_calls=(ToolCall("weather", {"city": "Paris"}, "call_1"),)),
        Message("tool", "sunny", tool_call_id="call_1"),
    ),
    tools=({"type": "function", "function": {"name": "weather"}},),
    max_tokens=7,
    temperature=0.5,
    top_p=0.9,
    top_k=40,
    n=3,
    stop=("\n\n", "END"),
    seed=-5,
    logprobs=True,
    top_logprobs=4,
    frequency_penalty=0.25,
    presence_penalty=-1,
    response_format={"type": "json_object"},
    stream=True,
)


@pytest.mark.parametrize("request_", [EVERYTHING, GenerateRequest(HELLO)])
def test_requests_survive_json(request_: GenerateRequest) -> None:
    assert GenerateRequest.from_dict(json.loads(json.dumps(request_.to_dict()))) == request_


def test_only_what_was_asked_is_sent() -> None:
    assert GenerateRequest(HELLO).to_dict() == {"messages": [{"role": "user", "content": "Hello"}]}


def test_one_stop_string_may_stand_alone() -> None:
    body = {"messages": [{"role": "user", "content": "Hello"}], "stop": "x"}
    assert GenerateRequest.from_dict(body).stop == ("x",)


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [("max_token", "max_tokens"), ("max_new_tokens", "max_tokens"), ("logit_bias", "known fields")],
)
def test_an_unknown_field_is_refused_by_name(name: str, suggestion: str) -> None:
    with pytest.raises(UnsupportedField) as caught:
        GenerateRequest.from_dict({"messages": [{"role": "user", "content": "Hello"}], name: 1})
    assert caught.value.target == name
    assert suggestion in (caught.value.way_out or "")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", 0),
        ("max_tokens", 1.5),
        ("max_tokens", True),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", "hot"),
        ("temperature", None),
        ("top_p", 0),
        ("top_p", 1.1),
        ("top_k", 0),
        ("n", 0),
        ("n", 129),
        ("seed", 2**63),
        ("seed", 0.5),
        ("stop", ("",)),
        ("stop", ("a",) * 17),
        ("stop", (3,)),
        ("logprobs", 1),
        ("top_logprobs", 2),
        ("frequency_penalty", 2.1),
        ("presence_penalty", float("inf")),
        ("response_format", {"type": "xml"}),
        ("response_format", "json"),
        ("tools", ("weather",)),
        ("stream", "yes"),
        ("messages", ()),
    ],
)
def test_a_value_out_of_range_names_its_field(field: str, value: Any) -> None:
    with pytest.raises(ValidationFailed) as caught:
        GenerateRequest(**{"messages": HELLO, field: value})
    assert [(fault.target or "").split("[")[0] for fault in caught.value.details] == [field]


def test_every_fault_comes_in_one_answer() -> None:
    with pytest.raises(ValidationFailed) as caught:
        GenerateRequest(HELLO, temperature=9, n=0, stop=("",))
    assert [fault.target for fault in caught.value.details] == ["temperature", "n", "stop[0]"]


@pytest.mark.parametrize(
    ("messages", "target"),
    [
        ("hello", "messages"),
        (None, "messages"),
        ({"role": "user"}, "messages"),
        (["hello"], "messages[0]"),
        ([{"content": "x"}], "messages[0].role"),
        ([{"role": "robot", "content": "x"}], "messages[0].role"),
        ([{"role": "user", "content": "x"}, {"role": "user", "content": 3}], "messages[1].content"),
        ([{"role": "assistant", "content": None, "tool_calls": [{"function": {}}]}], "messages[0].tool_calls"),
        ([{"role": "assistant", "tool_calls": 3}], "messages[0].tool_calls"),
    ],
)
def test_faulty_messages_are_named(messages: Any, target: str) -> None:
    with pytest.raises(ValidationFailed) as caught:
        GenerateRequest.from_dict({"messages": messages})
    found = [fault.target for fault in caught.value.details] or [caught.value.target]
    assert found == [target]


def test_events_and_results_survive_json() -> None:
    logprob = TokenLogprob("a", 5, -0.5, (TopLogprob("a", 5, -0.5), TopLogprob("b", 6, -1.5)), 7)
    event = GenerateEvent(1, "a", (5,), (logprob,), "stop", "END", Usage(3, 4))
    assert GenerateEvent.from_dict(json.loads(json.dumps(event.to_dict()))) == event
    assert GenerateEvent(0, "x").to_dict() == {"index": 0, "text": "x"}


async def test_collect_gathers_choices() -> None:
    async def events() -> AsyncIterator[GenerateEvent]:
        yield GenerateEvent(1, "b", (2,))
        yield GenerateEvent(0, "a", (1,))
        yield GenerateEvent(0, "c", (3,), finish_reason="length")
        yield GenerateEvent(1, "", (9,), finish_reason="stop", stop="x", usage=Usage(5, 4))

    result = await collect(events())
    assert [(choice.index, choice.text, choice.token_ids, choice.finish_reason) for choice in result.choices] == [
        (0, "ac", (1, 3), "length"),
        (1, "b", (2, 9), "stop"),
    ]
    assert result.choices[1].stop == "x"
    assert result.usage.to_dict() == {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}
    assert GenerateResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_capabilities_refuse_by_name() -> None:
    few = Capabilities("small", 512, frozenset({"temperature", "logprobs", "n"}), max_top_logprobs=2, max_choices=2)
    few.require(GenerateRequest(HELLO, temperature=0.1, max_tokens=5, stream=True, n=2))
    for options, target in (
        ({"top_k": 3}, "top_k"),
        ({"stop": ("x",)}, "stop"),
        ({"tools": ({"type": "function", "function": {"name": "f"}},)}, "tools"),
        ({"logprobs": True, "top_logprobs": 1}, "top_logprobs"),
        ({"n": 3}, "n"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
    ):
        with pytest.raises(UnsupportedField) as caught:
            few.require(GenerateRequest(HELLO, **options))
        assert caught.value.target == target
    few.require(GenerateRequest(HELLO, response_format={"type": "text"}))


def test_arguments_that_must_follow_a_schema_need_an_engine_that_can() -> None:
    tool = {"type": "function", "function": {"name": "f", "strict": True}}
    request = GenerateRequest(HELLO, tools=(tool,))
    Capabilities("x", 100, frozenset({"tools", "tool_choice"})).require(request)
    with pytest.raises(UnsupportedField) as refused:
        Capabilities("x", 100, frozenset({"tools"})).require(request)
    assert refused.value.target == "tools[0].function.strict"
