"""Calls are read out of text however it is cut into pieces, and what is no call stays text."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.chat.messages import Message
from tunesmith.generate.events import GenerateEvent, ToolCallPiece, Usage, collect
from tunesmith.generate.forced_calls import ForcedCallReader
from tunesmith.generate.request import GenerateRequest
from tunesmith.generate.tool_calls import ToolCallReader, read_tool_calls
from tunesmith.generate.tool_format import HERMES, LLAMA, MISTRAL, PHI4, ToolFormat

OUTSIDE = ToolFormat("[TOOL_CALLS]", "[ARGS]", "", "[TOOL_CALLS]", 9)
NAMES = ("get_weather", "add")
PARIS = '{"city": "Paris"}'
Found = tuple[str, list[tuple[str | None, str]]]


def read(form: ToolFormat, pieces: list[str]) -> Found:
    reader = ToolCallReader(form, NAMES)
    parts = [*(reader.push(piece) for piece in pieces), reader.finish()]
    calls = [call for _, found in parts for call in found]
    assert [call.index for call in calls] == list(range(len(calls)))
    assert reader.count == len(calls)
    return "".join(text for text, _ in parts), [(call.name, call.arguments) for call in calls]


CASES: list[tuple[str, ToolFormat, str, Found]] = [
    ("plain text", HERMES, "Hello, how are you?\n", ("Hello, how are you?\n", [])),
    (
        "hermes",
        HERMES,
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>',
        ("", [("get_weather", PARIS)]),
    ),
    (
        "hermes, two, with text",
        HERMES,
        'Let me look. \n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>\n'
        '<tool_call>{"arguments": {}, "name": "add"}</tool_call>\nDone.',
        ("Let me look.\nDone.", [("get_weather", PARIS), ("add", "{}")]),
    ),
    (
        "braces and quotes inside",
        HERMES,
        '<tool_call>{"name": "add", "arguments": {"a": "}\\"</tool_call>{", "b": [1, {"c": "]"}]}}</tool_call>',
        ("", [("add", '{"a": "}\\"</tool_call>{", "b": [1, {"c": "]"}]}')]),
    ),
    (
        "without its closing mark",
        HERMES,
        '<tool_call>\n{"name": "add", "arguments": {}}',
        ("", [("add", "{}")]),
    ),
    (
        "arguments as text",
        HERMES,
        '<tool_call>{"name": "add", "arguments": "{\\"a\\": 1}"}</tool_call>',
        ("", [("add", '{"a": 1}')]),
    ),
    (
        "unknown function",
        HERMES,
        '<tool_call>{"name": "rm", "arguments": {}}</tool_call>',
        ('<tool_call>{"name": "rm", "arguments": {}}</tool_call>', []),
    ),
    ("a mark that leads to nothing", HERMES, "say <tool_call> twice", ("say <tool_call> twice", [])),
    ("broken JSON", HERMES, "<tool_call>{'name': 'add'}</tool_call>", ("<tool_call>{'name': 'add'}</tool_call>", [])),
    ("cut", HERMES, '<tool_call>\n{"name": "add", "argu', ('<tool_call>\n{"name": "add", "argu', [])),
    ("half a mark", HERMES, "a <tool_", ("a <tool_", [])),
    ("llama", LLAMA, '{"name": "get_weather", "parameters": {"city": "Paris"}}', ("", [("get_weather", PARIS)])),
    (
        "llama, two",
        LLAMA,
        '{"name": "add", "parameters": {}}; {"name": "get_weather", "parameters": {"city": "Paris"}}',
        ("", [("add", "{}"), ("get_weather", PARIS)]),
    ),
    ("llama, JSON that is an answer", LLAMA, '{"name": "Ann"}', ('{"name": "Ann"}', [])),
    ("llama, text", LLAMA, 'Use {"name": "add", "parameters": {}}', ('Use {"name": "add", "parameters": {}}', [])),
    (
        "mistral",
        MISTRAL,
        '[TOOL_CALLS] [{"name": "add", "arguments": {}, "id": "abcdefghi"}, {"name": "add", "arguments": {"a": 1}}]',
        ("", [("add", "{}"), ("add", '{"a": 1}')]),
    ),
    ("mistral, one unknown of two", MISTRAL, '[TOOL_CALLS] [{"name": "add", "arguments": {}}, {"name": "rm"}]', (
        '[TOOL_CALLS] [{"name": "add", "arguments": {}}, {"name": "rm"}]', [])),
    (
        "mistral, named outside",
        OUTSIDE,
        '[TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}[TOOL_CALLS]add{"a": 1}',
        ("", [("get_weather", PARIS), ("add", '{"a": 1}')]),
    ),
    ("named outside, nothing follows", OUTSIDE, "[TOOL_CALLS]get_weather", ("[TOOL_CALLS]get_weather", [])),
    (
        "phi",
        PHI4,
        '<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Paris"}}]<|/tool_call|>',
        ("", [("get_weather", PARIS)]),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("form", "text", "wanted"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_calls_and_text(form: ToolFormat, text: str, wanted: Found) -> None:
    assert read(form, [text]) == wanted
    assert read(form, list(text)) == wanted


@given(st.sampled_from(CASES), st.lists(st.integers(min_value=1, max_value=9), min_size=1, max_size=40))
def test_any_cut_gives_the_same(case: tuple[str, ToolFormat, str, Found], sizes: list[int]) -> None:
    _, form, text, _ = case
    pieces = []
    rest = text
    for size in sizes:
        pieces.append(rest[:size])
        rest = rest[size:]
    assert read(form, [*pieces, rest]) == read(form, [text])


@given(st.text(alphabet='<tool_cal>/{}[]":, \n\\abn', max_size=80), st.sampled_from([HERMES, LLAMA, MISTRAL, OUTSIDE]))
def test_nothing_is_lost_of_what_is_no_call(text: str, form: ToolFormat) -> None:
    said, calls = read(form, list(text))
    assert calls == []
    assert said == text


def test_ids_are_of_the_length_that_templates_take() -> None:
    (hermes,) = ToolCallReader(HERMES, NAMES).push('<tool_call>{"name": "add", "arguments": {}}')[1]
    assert re.fullmatch(r"call_[A-Za-z0-9]{24}", hermes.id or "")
    (mistral,) = ToolCallReader(MISTRAL, NAMES).push('[TOOL_CALLS][{"name": "add", "arguments": {}}]')[1]
    assert re.fullmatch(r"[A-Za-z0-9]{9}", mistral.id or "")


async def events(*texts: str, n: int = 1) -> AsyncIterator[GenerateEvent]:
    for text in texts:
        for index in range(n):
            yield GenerateEvent(index, text, (1,))
    for index in range(n):
        yield GenerateEvent(index, finish_reason="stop", usage=Usage(3, len(texts) * n) if index == n - 1 else None)


TOOLS = tuple({"type": "function", "function": {"name": name}} for name in NAMES)


async def test_events_carry_calls_and_end_as_tool_calls() -> None:
    request = GenerateRequest((Message("user", "x"),), tools=TOOLS, n=2)
    pieces = ("Well ", "<tool", '_call>{"name": "add", ', '"arguments": {"a": 1}}', "</tool_call>")
    found = [event async for event in read_tool_calls(events(*pieces, n=2), request, HERMES)]
    assert [event.token_ids for event in found] == [(1,)] * 10 + [(), ()]
    made = [event for event in found if event.tool_calls]
    assert [(event.index, event.tool_calls[0].name, event.tool_calls[0].arguments) for event in made] == [
        (0, "add", '{"a": 1}'),
        (1, "add", '{"a": 1}'),
    ]
    result = await collect(read_tool_calls(events(*pieces, n=2), request, HERMES))
    assert [(choice.text, choice.finish_reason, len(choice.tool_calls)) for choice in result.choices] == [
        ("Well", "tool_calls", 1),
        ("Well", "tool_calls", 1),
    ]


async def test_text_without_calls_is_as_it_was() -> None:
    request = GenerateRequest((Message("user", "x"),), tools=TOOLS)
    result = await collect(read_tool_calls(events("Hi ", "there", "\n"), request, HERMES))
    assert (result.choices[0].text, result.choices[0].finish_reason) == ("Hi there\n", "stop")


async def test_leaving_closes_what_is_behind() -> None:
    closed = []

    async def endless() -> AsyncIterator[GenerateEvent]:
        try:
            while True:
                yield GenerateEvent(0, "a ")
        finally:
            closed.append(True)

    reading = read_tool_calls(endless(), GenerateRequest((Message("user", "x"),), tools=TOOLS), HERMES)
    async for _ in reading:
        break
    await reading.aclose()  # type: ignore[attr-defined]
    assert closed == [True]


def test_pieces_travel_as_json_and_are_joined() -> None:
    event = GenerateEvent(
        0, tool_calls=(ToolCallPiece(0, '{"a"', "call_1", "add"), ToolCallPiece(0, ": 1}")), finish_reason="tool_calls"
    )
    assert GenerateEvent.from_dict(json.loads(json.dumps(event.to_dict()))) == event


DOTTED = ToolFormat("<|call|>functions.", ":0 ", "<|end|>", "<|end|><|call|>functions.")
FORCED: list[tuple[ToolFormat, str, list[tuple[str, str]]]] = [
    (form, form.before + form.joiner.join(name + form.between + arguments for name, arguments in calls), calls)
    for form in (HERMES, MISTRAL, PHI4, OUTSIDE, DOTTED)
    if form.joiner is not None
    for calls in (
        [("get_weather", PARIS)],
        [("weather", "{}"), ("get_weather", '{"a": "}\\"weather", \\"arguments\\": {", "b": [1, {"c": "]"}]}')],
    )
] + [(LLAMA, '{"name": "add", "parameters": {"a": 1}', [("add", '{"a": 1}')])]


@given(st.sampled_from(FORCED), st.lists(st.integers(min_value=1, max_value=9), min_size=1, max_size=60))
def test_forced_calls_come_name_first_then_arguments_as_they_are_written(
    case: tuple[ToolFormat, str, list[tuple[str, str]]], sizes: list[int]
) -> None:
    form, text, wanted = case
    text += form.after
    reader = ForcedCallReader(form, ["weather", "get_weather", "add"])
    made: list[ToolCallPiece] = []
    for size in [*sizes, len(text)]:
        said, pieces = reader.push(text[:size])
        text = text[size:]
        assert said == ""
        made += pieces
    assert reader.finish() == ("", [])
    begun = [piece for piece in made if piece.name is not None]
    assert [(piece.index, piece.arguments) for piece in begun] == [(index, "") for index in range(len(wanted))]
    assert all(piece.id for piece in begun)
    assert [piece.index for piece in made] == sorted(piece.index for piece in made)
    joined = ["".join(piece.arguments for piece in made if piece.index == index) for index in range(len(wanted))]
    assert list(zip([piece.name for piece in begun], joined, strict=True)) == wanted
    assert reader.count == len(wanted)


async def test_a_forced_call_is_given_out_before_it_is_whole() -> None:
    choice = {"type": "function", "function": {"name": "add"}}
    request = GenerateRequest((Message("user", "x"),), tools=TOOLS, tool_choice=choice)
    pieces = ('<tool_call>\n{"name": "a', 'dd", "arguments": ', '{"a": ', "1", "}}\n</tool_call>")
    found = [event async for event in read_tool_calls(events(*pieces), request, HERMES)]
    assert [[(piece.name, piece.arguments) for piece in event.tool_calls] for event in found] == [
        [],
        [],
        [("add", ""), (None, '{"a": ')],
        [(None, "1")],
        [(None, "}")],
        [],
    ]
    assert found[-1].finish_reason == "tool_calls"
    assert {event.text for event in found} == {""}


async def test_a_forced_call_that_is_cut_has_the_beginning_of_its_arguments() -> None:
    async def cut() -> AsyncIterator[GenerateEvent]:
        yield GenerateEvent(0, '<tool_call>\n{"name": "add", "arguments": {"a": 1', (1,))
        yield GenerateEvent(0, "2", (1,), finish_reason="length", usage=Usage(1, 2))

    request = GenerateRequest((Message("user", "x"),), tools=TOOLS, tool_choice="required")
    (choice,) = (await collect(read_tool_calls(cut(), request, HERMES))).choices
    assert (choice.text, choice.finish_reason) == ("", "length")
    assert [(call.name, call.arguments) for call in choice.tool_calls] == [("add", '{"a": 12')]
