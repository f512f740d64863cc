"""What a row means: the formats that users bring, each made a ``Conversation``.

    openai              {"messages": [{"role", "content", "weight" | "train", "tool_calls", …}], "tools": […]}
    sharegpt            {"conversations": [{"from", "value"}], "system": …, "tools": …}
    alpaca              {"instruction", "input", "output", "system", "history": [[question, answer], …]}
    prompt_completion   {"prompt": text or messages, "completion": text or messages}

A row is told by its fields, so a file may mix them (ultrachat's rows have ``messages`` and are of the first kind).
Columns of tables may hold lists as JSON text. Every fault of a row is found in one pass.

Whether the turns make sense (who speaks after whom) is the business of ``validation.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from tunesmith.chat.messages import Conversation, Message
from tunesmith.chat.parsing import RowParser, maybe_json
from tunesmith.chat.readers import Row
from tunesmith.errors import Fault, InvalidData

RowFormat = Literal["openai", "sharegpt", "alpaca", "prompt_completion"]

_FIELDS: Mapping[RowFormat, frozenset[str]] = {
    "openai": frozenset({"messages", "tools", "functions"}),
    "sharegpt": frozenset({"conversations", "conversation", "system", "tools"}),
    "alpaca": frozenset({"instruction", "input", "output", "system", "history"}),
    "prompt_completion": frozenset({"prompt", "completion", "system", "tools"}),
}
_QUESTION_AND_ANSWER = (("question", "answer"), ("query", "response"), ("input", "output"), ("prompt", "response"))


@dataclass(slots=True)
class Parsed:
    """A row read: its conversation, or the faults why there is none."""

    format: RowFormat | None = None
    conversation: Conversation | None = None
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What was set right, by code; see ``parsing.NOTES``."""
    ignored: list[str] = field(default_factory=list)
    """Fields of the row, and of its messages (``messages[].id``), that have no meaning here."""


def detect_format(row: Mapping[str, Any]) -> RowFormat | None:
    """The format of a row by its fields; ``None`` if they fit none."""
    if row.get("messages") is not None:
        return "openai"
    if row.get("conversations") is not None or row.get("conversation") is not None:
        return "sharegpt"
    if "instruction" in row and "output" in row:
        return "alpaca"
    if "prompt" in row and "completion" in row:
        return "prompt_completion"
    return None


def parse_row(row: Row, *, take_chosen: bool = False) -> Parsed:
    """Make a conversation of a row that was read.

    ``take_chosen`` makes conversations with the chosen answer of preference data (``chosen`` and ``rejected``); without
    it, such a row is a fault.
    """
    data = row.data
    if data is None:
        return Parsed(faults=[row.fault] if row.fault else [])
    parser = RowParser(row.location)
    kind = detect_format(data)
    if "chosen" in data and "rejected" in data:
        if not take_chosen:
            parser.fault(
                "chosen",
                "preference data (a chosen and a rejected answer); a conversation has one answer",
                "PreferenceData",
                "make conversations of the chosen answers: tunesmith data convert FILE OUT.jsonl --take-chosen",
            )
            return Parsed(faults=parser.faults)
        data = _with_chosen(data)
        kind = detect_format(data)
        parser.note("ChosenTaken")
    if kind is None:
        parser.fault("", f"the fields {_names(data)} fit no format", "UnknownFormat", _hint(data))
        return Parsed(faults=parser.faults)
    messages, tools = _BUILDERS[kind](parser, data)
    ignored = parser.ignored
    known = _FIELDS[kind]
    if not data.keys() <= known:
        ignored = [*(name for name in data if name not in known), *ignored]
    conversation = None
    if not parser.faults:
        conversation = Conversation(tuple(messages), tuple(tools), row.location)
    return Parsed(kind, conversation, parser.faults, parser.notes, ignored)


def conversation_of(row: Row) -> Conversation:
    """The conversation of a row. Raises ``InvalidData`` with all its faults."""
    parsed = parse_row(row)
    if parsed.conversation is None:
        first, *others = parsed.faults
        raise InvalidData(first.message, target=first.target, way_out=first.way_out, details=others)
    return parsed.conversation


# ── formats


def _openai(parser: RowParser, row: dict[str, Any]) -> tuple[list[Message], list[dict[str, Any]]]:
    tools: list[dict[str, Any]] = []
    for name in ("tools", "functions"):
        if name in row:
            tools += parser.tools(row[name], name)
    return parser.messages(row["messages"], "messages"), tools


def _sharegpt(parser: RowParser, row: dict[str, Any]) -> tuple[list[Message], list[dict[str, Any]]]:
    name = "conversations" if row.get("conversations") is not None else "conversation"
    messages = _with_system(parser, row, parser.messages(row[name], name))
    return messages, parser.tools(row.get("tools"), "tools")


def _alpaca(parser: RowParser, row: dict[str, Any]) -> tuple[list[Message], list[dict[str, Any]]]:
    messages: list[Message] = []
    for index, pair in enumerate(parser.items(row.get("history") or [], "history")):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            parser.fault(f"history[{index}]", "must be a pair of texts", "InvalidField", '["question", "answer"]')
            continue
        messages += [Message("user", pair[0]), Message("assistant", pair[1])]
    asked = parser.text(row["instruction"], "instruction")
    if extra := parser.text(row.get("input") or "", "input"):
        asked = f"{asked}\n{extra}" if asked else extra
    messages += [Message("user", asked), Message("assistant", parser.text(row["output"], "output"))]
    return _with_system(parser, row, messages), []


def _prompt_completion(parser: RowParser, row: dict[str, Any]) -> tuple[list[Message], list[dict[str, Any]]]:
    prompt, completion = maybe_json(row["prompt"]), maybe_json(row["completion"])
    if isinstance(prompt, list):
        # Only the completion is to be learnt, whoever speaks in the prompt.
        messages = [
            replace(message, train=False) if message.role == "assistant" and message.train is None else message
            for message in parser.messages(prompt, "prompt")
        ]
    else:
        messages = [Message("user", parser.text(row["prompt"], "prompt"))]
    if isinstance(completion, list):
        messages += parser.messages(completion, "completion")
    else:
        messages.append(Message("assistant", parser.text(row["completion"], "completion")))
    return _with_system(parser, row, messages), parser.tools(row.get("tools"), "tools")


_BUILDERS = {
    "openai": _openai,
    "sharegpt": _sharegpt,
    "alpaca": _alpaca,
    "prompt_completion": _prompt_completion,
}


def _with_system(parser: RowParser, row: dict[str, Any], messages: list[Message]) -> list[Message]:
    system = row.get("system")
    if not system:
        return messages
    text = parser.text(system, "system")
    if messages and messages[0].role == "system":
        parser.fault("system", "a system text beside a system message", "TwoSystems", "keep one of them")
    return [Message("system", text), *messages]


def _with_chosen(row: dict[str, Any]) -> dict[str, Any]:
    """A row of preference data as one with the chosen answer.

    The answer is a message, a text, or (as in TRL) the whole conversation or its last messages.
    """
    rest = {name: value for name, value in row.items() if name not in ("chosen", "rejected")}
    chosen = maybe_json(row["chosen"])
    turns = next((name for name in ("messages", "conversations", "conversation") if rest.get(name) is not None), None)
    if turns is not None:
        asked = maybe_json(rest[turns])
        if not isinstance(asked, list):
            return rest  # told as a fault where it is read
        if isinstance(chosen, list):
            return {**rest, turns: chosen if chosen[: len(asked)] == asked else [*asked, *chosen]}
        answer = chosen if isinstance(chosen, dict) else {"role": "assistant", "content": chosen}
        return {**rest, turns: [*asked, answer]}
    if isinstance(chosen, list):
        prompt = maybe_json(rest.pop("prompt", None))
        asked = prompt if isinstance(prompt, list) else []
        if isinstance(prompt, str) and not any(
            isinstance(turn, dict) and turn.get("role") == "user" for turn in chosen
        ):
            asked = [{"role": "user", "content": prompt}]
        return {**rest, "messages": chosen if chosen[: len(asked)] == asked else [*asked, *chosen]}
    if "instruction" in rest:
        return {**rest, "output": chosen}
    return {**rest, "completion": [chosen] if isinstance(chosen, dict) else chosen}


# ── faults


def _names(row: Mapping[str, Any]) -> str:
    shown = list(row)[:8]
    return (", ".join(shown) + (", …" if len(row) > 8 else "")) if shown else "(there are none)"


def _hint(row: Mapping[str, Any]) -> str:
    for asked, answered in _QUESTION_AND_ANSWER:
        if asked in row and answered in row:
            return f"rename {asked} to prompt and {answered} to completion"
    if "text" in row:
        return 'text alone has no turns to train on: bring conversations as {"messages": [{"role", "content"}, …]}'
    return "one of: messages; conversations; instruction and output; prompt and completion"
