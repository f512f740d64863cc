"""What a row means: the formats that users bring, each made a ``Conversation``.

    openai              {"messages": [{"role", "content", "weight" | "train", "tool_calls", …}], "tools": […]}
    (ultrachat has these as well) sharegpt            {"conversations": [{"from", "value"}], "system": …, "tools":
    "…"} alpaca              {"instruction", "input", "output", "system", "history": [[question, answer], …]}
    prompt_completion   {"prompt": text or messages, "completion": text or messages}

A row is told by its fields, so a file may mix them. Columns of CSV, TSV and Parquet files may hold lists as JSON
text. Every fault of a row is found in one pass and has its path (``#messages[1].role``). What is set right on the way
(nulls that Arrow put into an object, OpenAI's ``developer`` role) is noted, never silent.

Whether the turns make sense (who speaks after whom) is the business of ``validation.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from tunesmith.chat.messages import Conversation, Message, ToolCall
from tunesmith.chat.readers import Row
from tunesmith.errors import Fault, InvalidData

RowFormat = Literal["openai", "sharegpt", "alpaca", "prompt_completion"]

_ROLES: Mapping[str, str] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "tool": "tool",
    "function": "tool",
    "ipython": "tool",
    "observation": "tool",
    "function_response": "tool",
    "tool_response": "tool",
}
"""Names of roles in the wild, to ours. ``function_call`` (ShareGPT) is an assistant's turn that calls a tool."""
_CALLS = frozenset({"function_call", "tool_call"})

_KNOWN_FIELDS: Mapping[RowFormat, frozenset[str]] = {
    "openai": frozenset({"messages", "tools", "functions"}),
    "sharegpt": frozenset({"conversations", "conversation", "system", "tools"}),
    "alpaca": frozenset({"instruction", "input", "output", "system", "history"}),
    "prompt_completion": frozenset({"prompt", "completion", "system", "tools"}),
}
_MESSAGE_FIELDS = frozenset(
    {
        "role",
        "content",
        "from",
        "value",
        "name",
        "train",
        "weight",
        "tool_calls",
        "tool_call_id",
        "function_call",
        "reasoning_content",
        "reasoning",
        "thinking",
        "refusal",
        "audio",
        "annotations",
    }
)


@dataclass(slots=True)
class Parsed:
    """A row read: its conversation, or the faults why there is none."""

    format: RowFormat | None = None
    conversation: Conversation | None = None
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What was set right, by code: NullsDropped, DeveloperRole, …"""
    ignored: tuple[str, ...] = ()
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

    ``take_chosen`` makes preference data (``chosen`` and ``rejected`` answers) conversations with the chosen answer;
    without it, such a row is a fault.
    """
    data = row.data
    if data is None:
        return Parsed(faults=[row.fault] if row.fault else [])
    return _Parser(row.location, take_chosen).parse(data)


def conversation_of(row: Row) -> Conversation:
    """The conversation of a row. Raises ``InvalidData`` with all its faults."""
    parsed = parse_row(row)
    if parsed.conversation is None or parsed.faults:
        first = parsed.faults[0]
        raise InvalidData(first.message, target=first.target, way_out=first.way_out, details=parsed.faults[1:])
    return parsed.conversation


class _Parser:
    """Parses one row; collects its faults."""

    __slots__ = ("_chosen", "_ignored", "_place", "faults", "notes")

    def __init__(self, place: str, take_chosen: bool) -> None:
        self._place = place
        self._chosen = take_chosen
        self._ignored: list[str] = []
        self.faults: list[Fault] = []
        self.notes: list[str] = []

    def parse(self, row: dict[str, Any]) -> Parsed:
        kind = detect_format(row)
        if "chosen" in row and "rejected" in row:
            kind, row = self._preference(row, kind)
        if kind is None:
            if not self.faults:
                self._fault("", f"fields {_names(row)} fit no format", "UnknownFormat", _hint(row))
            return Parsed(faults=self.faults, notes=self.notes)
        build: Callable[[dict[str, Any]], tuple[list[Message], list[Any]]] = {
            "openai": self._openai,
            "sharegpt": self._sharegpt,
            "alpaca": self._alpaca,
            "prompt_completion": self._prompt_completion,
        }[kind]
        messages, tools = build(row)
        known = _KNOWN_FIELDS[kind]
        ignored = [name for name in row if name not in known]
        conversation = None
        if not self.faults:
            conversation = Conversation(tuple(messages), tuple(tools), self._place)
        return Parsed(kind, conversation, self.faults, self.notes, (*ignored, *self._ignored))

    def _fault(self, path: str, message: str, code: str, way_out: str | None = None) -> None:
        target = f"{self._place}#{path}" if path else self._place
        self.faults.append(Fault(message, target, code, way_out))

    # ── formats

    def _openai(self, row: dict[str, Any]) -> tuple[list[Message], list[Any]]:
        tools = self._tools(row.get("tools"), "tools") + self._tools(row.get("functions"), "functions")
        return self._messages(row["messages"], "messages"), tools

    def _sharegpt(self, row: dict[str, Any]) -> tuple[list[Message], list[Any]]:
        name = "conversations" if row.get("conversations") is not None else "conversation"
        messages = self._messages(row[name], name)
        return self._with_system(row, messages), self._tools(row.get("tools"), "tools")

    def _alpaca(self, row: dict[str, Any]) -> tuple[list[Message], list[Any]]:
        messages: list[Message] = []
        history = self._list(row.get("history") or [], "history")
        for index, pair in enumerate(history):
            if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
                self._fault(
                    f"history[{index}]", "must be a pair of texts", "InvalidField", 'write ["question", "answer"]'
                )
                continue
            messages += [Message("user", pair[0]), Message("assistant", pair[1])]
        instruction = self._text(row.get("instruction"), "instruction")
        extra = self._text(row.get("input") or "", "input")
        output = self._text(row.get("output"), "output")
        messages += [Message("user", f"{instruction}\n{extra}" if extra else instruction), Message("assistant", output)]
        return self._with_system(row, messages), []

    def _prompt_completion(self, row: dict[str, Any]) -> tuple[list[Message], list[Any]]:
        prompt, completion = _maybe_json(row["prompt"]), _maybe_json(row["completion"])
        messages: list[Message] = []
        if isinstance(prompt, list):
            asked = self._messages(prompt, "prompt")
            messages += [_untrained(message) if message.role == "assistant" else message for message in asked]
        else:
            messages.append(Message("user", self._text(prompt, "prompt")))
        if isinstance(completion, list):
            messages += self._messages(completion, "completion")
        else:
            messages.append(Message("assistant", self._text(completion, "completion")))
        return self._with_system(row, messages), self._tools(row.get("tools"), "tools")

    def _with_system(self, row: dict[str, Any], messages: list[Message]) -> list[Message]:
        system = row.get("system")
        if not system:
            return messages
        text = self._text(system, "system")
        if messages and messages[0].role == "system":
            self._fault("system", "a system text beside a system message", "TwoSystems", "keep one of them")
        return [Message("system", text), *messages]

    def _preference(self, row: dict[str, Any], kind: RowFormat | None) -> tuple[RowFormat | None, dict[str, Any]]:
        if not self._chosen:
            self._fault(
                "chosen",
                "preference data (a chosen and a rejected answer); fine-tuning on conversations needs one answer",
                "PreferenceData",
                "make conversations of the chosen answers: tunesmith data convert FILE OUT.jsonl --take-chosen",
            )
            return None, row
        self.notes.append("ChosenTaken")
        rest = {name: value for name, value in row.items() if name not in ("chosen", "rejected")}
        chosen = _maybe_json(row["chosen"])
        if isinstance(chosen, list):
            asked = _maybe_json(rest.pop("prompt", None))
            begin = asked if isinstance(asked, list) else []
            whole = chosen if chosen[: len(begin)] == begin else [*begin, *chosen]
            rest.pop("messages", None)
            return "openai", {**rest, "messages": whole}
        if kind in ("sharegpt", "openai"):
            name = next(name for name in ("messages", "conversations", "conversation") if rest.get(name) is not None)
            turns = _maybe_json(rest[name])
            answer = chosen if isinstance(chosen, dict) else {"role": "assistant", "content": chosen}
            return kind, {**rest, name: [*turns, answer] if isinstance(turns, list) else turns}
        if "instruction" in rest:
            return "alpaca", {**rest, "output": chosen}
        return "prompt_completion", {"prompt": None, **rest, "completion": chosen}

    # ── parts

    def _list(self, value: Any, path: str) -> list[Any]:
        value = _maybe_json(value)
        if not isinstance(value, list):
            self._fault(
                path, f"must be a list, not {_kind(value)}", "InvalidField", "in a table, write the list as JSON text"
            )
            return []
        return value

    def _text(self, value: Any, path: str) -> str:
        if isinstance(value, str):
            return value
        self._fault(path, f"must be text, not {_kind(value)}", "InvalidContent", "write the text as a JSON string")
        return ""

    def _messages(self, value: Any, path: str) -> list[Message]:
        if type(value) is not list:
            value = self._list(value, path)
        messages: list[Message] = []
        for index, body in enumerate(value):
            if type(body) is dict:
                # The common case in one step: a role and a text, nothing else.
                if len(body) == 2:
                    role, content = body.get("role"), body.get("content")
                    if role in _PLAIN_ROLES and type(content) is str:
                        messages.append(Message(role, content))
                        continue
                if (message := self._message(body, f"{path}[{index}]")) is not None:
                    messages.append(message)
            else:
                self._fault(
                    f"{path}[{index}]",
                    f"a message must be an object, not {_kind(body)}",
                    "InvalidMessage",
                    'write {"role": "user", "content": "…"}',
                )
        if not value and not self.faults:
            self._fault(path, "a conversation without messages", "NoMessages", "leave the row out")
        return messages

    def _message(self, body: dict[str, Any], path: str) -> Message | None:
        if None in body.values():
            body = {name: value for name, value in body.items() if value is not None}
        role_field, content_field = ("role", "content") if "role" in body else ("from", "value")
        if role_field == "from" and "content" in body:
            content_field = "content"
        given = body.get(role_field)
        if not isinstance(given, str):
            what = "has no role" if given is None else f"has {_kind(given)} as its role"
            self._fault(
                f"{path}.role", f"the message {what}", "UnknownRole", "add the role: system, user, assistant or tool"
            )
            return None
        role = _ROLES.get(given) or _ROLES.get(given.lower())
        calls: list[ToolCall] = []
        if role is None:
            if given.lower() not in _CALLS:
                self._fault(
                    f"{path}.{role_field}",
                    f"unknown role {given!r}",
                    "UnknownRole",
                    "one of system, user, assistant, tool (ShareGPT: human, gpt, function_call, observation)",
                )
                return None
            role = "assistant"
            calls = self._calls(body.get(content_field), f"{path}.{content_field}")
            content = ""
        else:
            if given == "developer":
                self.notes.append("DeveloperRole")
            content = self._content(body, content_field, path)
        if (listed := body.get("tool_calls")) is not None:
            calls += self._calls(listed, f"{path}.tool_calls")
        if (legacy := body.get("function_call")) is not None:
            calls += self._calls(legacy, f"{path}.function_call")
        if calls and role != "assistant":
            self._fault(
                f"{path}.tool_calls",
                f"tool calls in a {role} message",
                "MisplacedToolCalls",
                "only the assistant calls tools",
            )
        reasoning = next(
            (body[name] for name in ("reasoning_content", "thinking", "reasoning") if body.get(name)), None
        )
        if reasoning is not None and not isinstance(reasoning, str):
            self._fault(f"{path}.reasoning_content", f"must be text, not {_kind(reasoning)}", "InvalidContent")
            reasoning = None
        for name in body.keys() - _MESSAGE_FIELDS:
            self._ignored.append(f"messages[].{name}")
        return Message(
            role=role,
            content=content,
            tool_calls=tuple(calls),
            tool_call_id=self._optional_text(body, "tool_call_id", path),
            name=self._optional_text(body, "name", path),
            train=self._train(body, path),
            reasoning_content=reasoning,
        )

    def _optional_text(self, body: dict[str, Any], name: str, path: str) -> str | None:
        value = body.get(name)
        if value is None or isinstance(value, str):
            return value
        self._fault(f"{path}.{name}", f"must be text, not {_kind(value)}", "InvalidField")
        return None

    def _content(self, body: dict[str, Any], name: str, path: str) -> str:
        value = body.get(name)
        if isinstance(value, str):
            return value
        if value is None:
            if not (body.get("tool_calls") or body.get("function_call")):
                self._fault(
                    f"{path}.{name}",
                    "the message has no content",
                    "NoContent",
                    "write its text, or leave the message out",
                )
            return ""
        if isinstance(value, list):
            return self._parts(value, f"{path}.{name}")
        self._fault(
            f"{path}.{name}", f"must be text, not {_kind(value)}", "InvalidContent", "write the text as a JSON string"
        )
        return ""

    def _parts(self, parts: list[Any], path: str) -> str:
        """OpenAI's content parts: texts are joined; anything else is refused by its name."""
        texts: list[str] = []
        for index, part in enumerate(parts):
            if isinstance(part, str):
                texts.append(part)
            elif (
                isinstance(part, dict)
                and isinstance(part.get("text"), str)
                and part.get("type", "text") in ("text", "input_text", "output_text")
            ):
                texts.append(part["text"])
            else:
                kind = part.get("type", "without a type") if isinstance(part, dict) else _kind(part)
                self._fault(
                    f"{path}[{index}]",
                    f"a content part {kind!r}; only text can be trained on here",
                    "UnsupportedContent",
                    "leave the row out, or put the text of the image or sound in its place",
                )
        return "".join(texts)

    def _train(self, body: dict[str, Any], path: str) -> bool | None:
        flags: list[bool] = []
        for name in ("train", "weight"):
            value = body.get(name)
            if value is None:
                continue
            if value in (0, 1):  # true and false as well
                flags.append(bool(value))
            else:
                self._fault(
                    f"{path}.{name}",
                    f"must be 0 or 1, not {value!r}",
                    "InvalidWeight",
                    "1 trains on the message, 0 does not",
                )
        if len(set(flags)) > 1:
            self._fault(f"{path}.train", "train and weight say different things", "InvalidWeight", "keep one of them")
        return flags[0] if flags else None

    def _calls(self, value: Any, path: str) -> list[ToolCall]:
        value = _maybe_json(value)
        if isinstance(value, dict):
            value = [value]
        if not isinstance(value, list):
            self._fault(
                path,
                f"must be a tool call, not {_kind(value)}",
                "InvalidToolCall",
                'write {"name": "…", "arguments": {…}} as an object or as JSON text',
            )
            return []
        calls: list[ToolCall] = []
        for index, body in enumerate(value):
            place = f"{path}[{index}]"
            function = body.get("function", body) if isinstance(body, dict) else None
            if not isinstance(function, dict) or not isinstance(function.get("name"), str):
                self._fault(
                    place,
                    "a tool call without the name of a function",
                    "InvalidToolCall",
                    'write {"name": "…", "arguments": {…}}',
                )
                continue
            arguments = function.get("arguments", function.get("parameters"))
            if isinstance(arguments, str):
                try:
                    arguments = orjson.loads(arguments) if arguments.strip() else {}
                except orjson.JSONDecodeError as error:
                    self._fault(
                        f"{place}.arguments",
                        f"the arguments are not valid JSON: {error}",
                        "InvalidToolCall",
                        "write them as a JSON object",
                    )
                    continue
            elif arguments is not None:
                arguments = self._without_nulls(arguments)
            if arguments is None:
                arguments = {}
            if not isinstance(arguments, dict):
                self._fault(
                    f"{place}.arguments",
                    f"the arguments must be an object, not {_kind(arguments)}",
                    "InvalidToolCall",
                    "write {} for none",
                )
                continue
            id = body.get("id")
            calls.append(ToolCall(function["name"], arguments, id if isinstance(id, str) else None))
        return calls

    def _tools(self, value: Any, path: str) -> list[Any]:
        value = _maybe_json(value)
        if value is None or value == "" or value == []:
            return []
        if isinstance(value, dict):
            value = [value]
        if not isinstance(value, list):
            self._fault(
                path,
                f"must be a list of tools, not {_kind(value)}",
                "InvalidTools",
                "write a list of function descriptions",
            )
            return []
        tools: list[Any] = []
        for index, body in enumerate(value):
            body = _maybe_json(body)
            function = body.get("function", body) if isinstance(body, dict) else None
            if not isinstance(function, dict) or not isinstance(function.get("name"), str):
                self._fault(
                    f"{path}[{index}]",
                    "a tool without a name",
                    "InvalidTools",
                    'write {"name", "description", "parameters"}',
                )
                continue
            tools.append({"type": "function", "function": self._without_nulls(function)})
        return tools

    def _without_nulls(self, value: Any) -> Any:
        """An object without the nulls that Arrow puts where other rows of the column have a field."""
        cleaned = _clean(value)
        if cleaned != value and "NullsDropped" not in self.notes:
            self.notes.append("NullsDropped")
        return cleaned


_PLAIN_ROLES = frozenset({"system", "user", "assistant"})


def _clean(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _clean(item) for name, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_clean(item) for item in value]
    return value


def _untrained(message: Message) -> Message:
    from dataclasses import replace

    return message if message.train is not None else replace(message, train=False)


def _maybe_json(value: Any) -> Any:
    """A column of a table holds lists and objects as JSON text."""
    if isinstance(value, str):
        text = value.strip()
        if (text.startswith("[") and text.endswith("]")) or (text.startswith("{") and text.endswith("}")):
            try:
                return orjson.loads(text)
            except orjson.JSONDecodeError:
                return value
    return value


def _kind(value: Any) -> str:
    names = {
        str: "text",
        bool: "true or false",
        int: "a number",
        float: "a number",
        list: "a list",
        dict: "an object",
        type(None): "null",
    }
    return names.get(type(value), type(value).__name__)


def _names(row: Mapping[str, Any]) -> str:
    shown = list(row)[:8]
    return ", ".join(shown) + (", …" if len(row) > 8 else "") if shown else "(none)"


def _hint(row: Mapping[str, Any]) -> str:
    if "text" in row:
        return 'plain text has no turns to train on; bring conversations as {"messages": [{"role", "content"}]}'
    pairs: Sequence[tuple[str, str]] = (
        ("question", "answer"),
        ("query", "response"),
        ("input", "output"),
        ("prompt", "response"),
    )
    for asked, answered in pairs:
        if asked in row and answered in row:
            return f"rename {asked} to prompt and {answered} to completion"
    return "one of messages; conversations; instruction and output; prompt and completion"
