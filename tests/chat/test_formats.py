"""Every format becomes the same conversation; every fault of a row has its path."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tunesmith.chat.formats import conversation_of, parse_row
from tunesmith.chat.messages import Conversation, Message, ToolCall
from tunesmith.chat.readers import Row
from tunesmith.errors import InvalidData


def row(data: dict[str, Any]) -> Row:
    return Row(data, "f.jsonl:5", 5, 4)


def parse(data: dict[str, Any], **settings: bool) -> Conversation:
    parsed = parse_row(row(data), **settings)
    assert parsed.faults == []
    assert parsed.conversation is not None
    return parsed.conversation


def turns(conversation: Conversation) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in conversation.messages]


TALK = [("user", "q"), ("assistant", "a")]
MESSAGES = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
SHAREGPT = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]


@pytest.mark.parametrize(
    ("data", "format", "expected"),
    [
        ({"messages": MESSAGES}, "openai", TALK),
        ({"messages": json.dumps(MESSAGES)}, "openai", TALK),
        ({"prompt": "q", "prompt_id": "7", "messages": MESSAGES}, "openai", TALK),
        ({"messages": [{"role": "developer", "content": "s"}, *MESSAGES]}, "openai", [("system", "s"), *TALK]),
        ({"conversations": SHAREGPT}, "sharegpt", TALK),
        ({"conversations": MESSAGES}, "sharegpt", TALK),
        ({"conversation": SHAREGPT, "system": "s"}, "sharegpt", [("system", "s"), *TALK]),
        ({"instruction": "q", "output": "a"}, "alpaca", TALK),
        ({"instruction": "q", "input": "", "output": "a", "system": ""}, "alpaca", TALK),
        (
            {"instruction": "q", "input": "i", "output": "a", "system": "s"},
            "alpaca",
            [("system", "s"), ("user", "q\ni"), TALK[1]],
        ),
        (
            {"instruction": "q", "output": "a", "history": [["h", "g"]]},
            "alpaca",
            [("user", "h"), ("assistant", "g"), *TALK],
        ),
        (
            {"instruction": "q", "output": "a", "history": '[["h", "g"]]'},
            "alpaca",
            [("user", "h"), ("assistant", "g"), *TALK],
        ),
        ({"prompt": "q", "completion": "a"}, "prompt_completion", TALK),
        ({"prompt": MESSAGES[:1], "completion": MESSAGES[1:]}, "prompt_completion", TALK),
    ],
)
def test_formats(data: dict[str, Any], format: str, expected: list[tuple[str, str]]) -> None:
    parsed = parse_row(row(data))
    assert parsed.format == format
    assert parsed.conversation is not None
    assert turns(parsed.conversation) == expected
    assert parsed.conversation.source == "f.jsonl:5"


def test_flags_of_messages() -> None:
    flags: list[tuple[dict[str, Any], bool | None]] = [
        ({}, None),
        ({"weight": 0}, False),
        ({"weight": 1}, True),
        ({"weight": 1.0}, True),
        ({"train": False}, False),
        ({"train": True, "weight": 1}, True),
        ({"weight": None, "train": None}, None),
    ]
    messages = [{"role": "assistant", "content": "a", **flag} for flag, _ in flags]
    found = parse({"messages": [MESSAGES[0], *messages]})
    assert [message.train for message in found.messages[1:]] == [expected for _, expected in flags]


def test_the_assistant_of_a_prompt_is_not_trained_on() -> None:
    found = parse({"prompt": [*MESSAGES, MESSAGES[0]], "completion": MESSAGES[1:]})
    assert [message.train for message in found.messages] == [None, False, None, None]


ARGUMENTS = {"city": "Zürich", "days": 3}


@pytest.mark.parametrize("arguments", [ARGUMENTS, json.dumps(ARGUMENTS), {**ARGUMENTS, "unit": None}])
def test_arguments_of_tool_calls_become_one_shape(arguments: Any) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    found = parse(
        {
            "messages": [
                MESSAGES[0],
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "content": "21", "tool_call_id": "c1"},
            ]
        }
    )
    assert found.messages[1] == Message("assistant", "", (ToolCall("weather", ARGUMENTS, "c1"),))
    assert found.messages[2] == Message("tool", "21", tool_call_id="c1")


def test_nulls_that_tables_add_are_dropped_and_noted() -> None:
    tool = {
        "name": "f",
        "description": None,
        "parameters": {"type": "object", "properties": {"a": {"type": "string", "enum": None}}},
    }
    parsed = parse_row(row({"messages": MESSAGES, "tools": [{"type": "function", "function": tool}]}))
    assert parsed.conversation is not None
    assert parsed.conversation.tools == (
        {
            "type": "function",
            "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}},
        },
    )
    assert parsed.notes == ["NullsDropped"]
    assert parse_row(row({"messages": MESSAGES, "tools": None})).notes == []


def test_nulls_written_as_json_text_stay() -> None:
    call = {"function": {"name": "f", "arguments": '{"a": null}'}}
    found = parse({"messages": [MESSAGES[0], {"role": "assistant", "tool_calls": [call]}]})
    assert found.messages[1].tool_calls == (ToolCall("f", {"a": None}),)


def test_sharegpt_with_tools() -> None:
    found = parse(
        {
            "conversations": [
                {"from": "human", "value": "q"},
                {"from": "function_call", "value": '{"name": "f", "arguments": {"a": 1}}'},
                {"from": "observation", "value": "21"},
                {"from": "gpt", "value": "a"},
            ],
            "tools": '[{"name": "f", "description": "d", "parameters": {}}]',
        }
    )
    assert found.messages[1] == Message("assistant", "", (ToolCall("f", {"a": 1}),))
    assert [message.role for message in found.messages] == ["user", "assistant", "tool", "assistant"]
    assert found.tools == ({"type": "function", "function": {"name": "f", "description": "d", "parameters": {}}},)


def test_several_calls_in_one_turn_and_the_old_function_call() -> None:
    several = [{"name": "f", "arguments": "{}"}, {"name": "g", "arguments": {}}]
    found = parse({"conversations": [SHAREGPT[0], {"from": "function_call", "value": json.dumps(several)}]})
    assert [call.name for call in found.messages[1].tool_calls] == ["f", "g"]
    old = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
    assert parse({"messages": [MESSAGES[0], old]}).messages[1].tool_calls == (ToolCall("f", {}),)


def test_text_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]
    parsed = parse_row(row({"messages": [{"role": "user", "content": parts}, MESSAGES[1]]}))
    assert parsed.conversation is not None
    assert parsed.conversation.messages[0].content == "a b"
    assert parsed.notes == ["PartsJoined"]


def test_fields_without_a_meaning_are_named() -> None:
    parsed = parse_row(row({"id": 1, "messages": [{**MESSAGES[0], "mood": "x"}, MESSAGES[1]]}))
    assert parsed.ignored == ["id", "messages[].mood"]


def test_reasoning_under_its_several_names() -> None:
    for name in ("reasoning_content", "thinking", "reasoning"):
        found = parse({"messages": [MESSAGES[0], {**MESSAGES[1], name: "why"}]})
        assert found.messages[1].reasoning_content == "why"


# ── preference data


@pytest.mark.parametrize(
    "data",
    [
        {"conversations": SHAREGPT[:1], "chosen": SHAREGPT[1], "rejected": {"from": "gpt", "value": "b"}},
        {"messages": MESSAGES[:1], "chosen": "a", "rejected": "b"},
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        {"prompt": "q", "chosen": MESSAGES, "rejected": MESSAGES},
        {"prompt": "q", "chosen": MESSAGES[1:], "rejected": MESSAGES[1:]},
        {"prompt": MESSAGES[:1], "chosen": MESSAGES[1:], "rejected": MESSAGES[1:]},
        {"chosen": MESSAGES, "rejected": MESSAGES},
        {"instruction": "q", "chosen": "a", "rejected": "b"},
    ],
)
def test_preference_data_is_refused_or_its_chosen_answer_taken(data: dict[str, Any]) -> None:
    (fault,) = parse_row(row(data)).faults
    assert (fault.code, fault.target) == ("PreferenceData", "f.jsonl:5#chosen")
    assert "--take-chosen" in str(fault.way_out)
    assert turns(parse(data, take_chosen=True)) == TALK


# ── faults


def message(**fields: Any) -> dict[str, Any]:
    return {"messages": [MESSAGES[0], fields]}


@pytest.mark.parametrize(
    ("data", "path", "code", "text"),
    [
        ({"text": "x"}, "", "UnknownFormat", "the fields text fit no format"),
        ({}, "", "UnknownFormat", "there are none"),
        ({"messages": 5}, "#messages", "InvalidField", "must be a list, not a number"),
        ({"messages": "hello"}, "#messages", "InvalidField", "must be a list, not text"),
        ({"messages": []}, "#messages", "NoMessages", "without messages"),
        ({"messages": ["hi"]}, "#messages[0]", "InvalidMessage", "not text"),
        (message(role="narrator", content="x"), "#messages[1].role", "UnknownRole", "unknown role 'narrator'"),
        (message(content="x"), "#messages[1].role", "UnknownRole", "has no role"),
        (message(role=3, content="x"), "#messages[1].role", "UnknownRole", "has a number for a role"),
        ({"conversations": [{"from": "alien", "value": "x"}]}, "#conversations[0].from", "UnknownRole", "'alien'"),
        (message(role="assistant", content=5), "#messages[1].content", "InvalidContent", "not a number"),
        (message(role="assistant", content={"a": 1}), "#messages[1].content", "InvalidContent", "not an object"),
        (message(role="assistant"), "#messages[1].content", "NoContent", "no content"),
        (
            message(role="user", content=[{"type": "image_url", "image_url": {}}]),
            "#messages[1].content[0]",
            "UnsupportedContent",
            "'image_url'",
        ),
        (message(role="assistant", content="a", weight=0.5), "#messages[1].weight", "InvalidWeight", "not 0.5"),
        (message(role="assistant", content="a", train="yes"), "#messages[1].train", "InvalidWeight", "not 'yes'"),
        (
            message(role="assistant", content="a", train=True, weight=0),
            "#messages[1].train",
            "InvalidWeight",
            "different",
        ),
        (
            message(role="assistant", tool_calls=[{"function": {"name": "f", "arguments": "{oops"}}]),
            "#messages[1].tool_calls[0].arguments",
            "InvalidToolCall",
            "not valid JSON",
        ),
        (
            message(role="assistant", tool_calls=[{"function": {"name": "f", "arguments": "[1]"}}]),
            "#messages[1].tool_calls[0].arguments",
            "InvalidToolCall",
            "not a list",
        ),
        (message(role="assistant", tool_calls=[{"id": "x"}]), "#messages[1].tool_calls[0]", "InvalidToolCall", "name"),
        (
            message(role="user", content="x", tool_calls=[{"name": "f"}]),
            "#messages[1].tool_calls",
            "InvalidToolCall",
            "in a user message",
        ),
        ({"messages": MESSAGES, "tools": [{"description": "d"}]}, "#tools[0]", "InvalidTools", "without a name"),
        ({"instruction": 1, "output": "a"}, "#instruction", "InvalidContent", "not a number"),
        ({"instruction": "q", "output": None}, "#output", "InvalidContent", "not null"),
        ({"instruction": "q", "output": "a", "history": [["x"]]}, "#history[0]", "InvalidField", "pair"),
        ({"conversations": [{"from": "system", "value": "s"}], "system": "t"}, "#system", "TwoSystems", "beside"),
    ],
)
def test_faults_have_their_path(data: dict[str, Any], path: str, code: str, text: str) -> None:
    parsed = parse_row(row(data))
    assert parsed.conversation is None
    (fault,) = parsed.faults
    assert (fault.target, fault.code) == (f"f.jsonl:5{path}", code)
    assert text in fault.message
    assert fault.way_out


def test_every_fault_of_a_row_is_found_in_one_pass() -> None:
    data = {"messages": [{"role": "x", "content": "a"}, {"role": "user", "content": 1}, 7]}
    assert [fault.target for fault in parse_row(row(data)).faults] == [
        "f.jsonl:5#messages[0].role",
        "f.jsonl:5#messages[1].content",
        "f.jsonl:5#messages[2]",
    ]
    with pytest.raises(InvalidData) as caught:
        conversation_of(row(data))
    assert caught.value.target == "f.jsonl:5#messages[0].role"
    assert len(caught.value.details) == 2


@pytest.mark.parametrize(
    ("fields", "hint"),
    [
        (("question", "answer"), "rename question to prompt"),
        (("prompt", "response"), "rename prompt to prompt and response"),
    ],
)
def test_unknown_fields_get_a_hint(fields: tuple[str, str], hint: str) -> None:
    (fault,) = parse_row(row(dict.fromkeys(fields, "x"))).faults
    assert hint in str(fault.way_out)


def test_conversations_go_through_json() -> None:
    found = parse(
        {
            "messages": [
                MESSAGES[0],
                {
                    "role": "assistant",
                    "content": "x",
                    "weight": 0,
                    "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": {"é": 1}}}],
                },
                {"role": "tool", "content": "r", "tool_call_id": "1", "name": "f"},
                {"role": "assistant", "content": "a", "thinking": "t"},
            ],
            "tools": [{"name": "f"}],
        }
    )
    assert Conversation.from_json(found.to_json(), source=found.source) == found
    assert parse(json.loads(found.to_json())) == found
