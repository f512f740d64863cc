"""Parts of a row (messages, their contents, tool calls, tools) made values, with every fault and its path.

The formats of ``formats.py`` share it. What is set right on the way is noted, never silent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from tunesmith.chat.messages import Message, ToolCall
from tunesmith.errors import Fault

ROLE_NAMES: Mapping[str, str] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "tool": "tool",
    "function": "tool",
    "ipython": "tool",
    "observation": "tool",
    "function_response": "tool",
    "tool_response": "tool",
}
"""Names of roles in the wild, to ours."""
_CALLS = frozenset({"function_call", "tool_call"})
"""ShareGPT's roles of an assistant's turn that calls a tool."""
_PLAIN_ROLES = frozenset({"system", "user", "assistant"})
_TEXT_PARTS = frozenset({"text", "input_text", "output_text"})
_REASONING = ("reasoning_content", "thinking", "reasoning")
_MESSAGE_FIELDS = frozenset(
    {
        *("role", "content", "from", "value", "name", "train", "weight", "tool_calls", "tool_call_id", "function_call"),
        *_REASONING,
    }
)
_CALL_SHAPE = 'write {"name": "…", "arguments": {…}}'

NOTES: Mapping[str, str] = {
    "NullsDropped": "nulls in tools or their arguments were left out, as tables add them",
    "DeveloperRole": "the role developer was read as system",
    "ChosenTaken": "the chosen answer of preference data was taken",
    "PartsJoined": "contents given as lists of text parts were joined",
}
"""What can be set right, by code, and how it is said."""


class RowParser:
    """Parses the parts of one row at ``place``; collects ``faults``, ``notes`` (codes of ``NOTES``) and ``ignored``
    fields.
    """

    __slots__ = ("faults", "ignored", "notes", "place")

    def __init__(self, place: str) -> None:
        self.place = place
        self.faults: list[Fault] = []
        self.notes: list[str] = []
        self.ignored: list[str] = []

    def fault(self, path: str, message: str, code: str, way_out: str | None = None) -> None:
        """Record a fault at a path inside the row."""
        self.faults.append(Fault(message, f"{self.place}#{path}" if path else self.place, code, way_out))

    def note(self, code: str) -> None:
        """Record, once a row, that something was set right."""
        if code not in self.notes:
            self.notes.append(code)

    # ── plain parts

    def items(self, value: Any, path: str) -> list[Any]:
        """A list, or JSON text of one."""
        value = maybe_json(value)
        if isinstance(value, list):
            return value
        self.fault(
            path, f"must be a list, not {kind_of(value)}", "InvalidField", "in a table, write the list as JSON text"
        )
        return []

    def text(self, value: Any, path: str) -> str:
        """A text."""
        if isinstance(value, str):
            return value
        self.fault(path, f"must be text, not {kind_of(value)}", "InvalidContent", "write the text as a JSON string")
        return ""

    # ── messages

    def messages(self, value: Any, path: str) -> list[Message]:
        """A list of messages in OpenAI's or ShareGPT's fields."""
        if type(value) is not list:
            before = len(self.faults)
            value = self.items(value, path)
            if len(self.faults) > before:
                return []
        messages: list[Message] = []
        append = messages.append
        for index, body in enumerate(value):
            if type(body) is not dict:
                self.fault(
                    f"{path}[{index}]",
                    f"a message must be an object, not {kind_of(body)}",
                    "InvalidMessage",
                    'write {"role": "user", "content": "…"}',
                )
                continue
            # Nearly every message: a role and a text, nothing else.
            if len(body) == 2:
                role, content = body.get("role"), body.get("content")
                if type(content) is str and role in _PLAIN_ROLES:
                    append(Message(role, content))
                    continue
            if (message := self._message(body, f"{path}[{index}]")) is not None:
                append(message)
        if not value:
            self.fault(path, "a conversation without messages", "NoMessages", "leave the row out")
        return messages

    def _message(self, body: dict[str, Any], path: str) -> Message | None:
        role_field = "role" if body.get("role") is not None or "from" not in body else "from"
        content_field = "value" if body.get("content") is None and "value" in body else "content"
        given = body.get(role_field)
        if not isinstance(given, str):
            what = "has no role" if given is None else f"has {kind_of(given)} for a role"
            self.fault(f"{path}.{role_field}", f"the message {what}", "UnknownRole", "system, user, assistant or tool")
            return None
        role = ROLE_NAMES.get(given) or ROLE_NAMES.get(given.lower())
        calls: list[ToolCall] = []
        content = ""
        if role is not None:
            content = self._content(body, content_field, path)
            if given == "developer":
                self.note("DeveloperRole")
        elif given.lower() in _CALLS:
            role = "assistant"
            calls = self._calls(body.get(content_field), f"{path}.{content_field}")
        else:
            self.fault(
                f"{path}.{role_field}",
                f"unknown role {given!r}",
                "UnknownRole",
                "one of system, user, assistant, tool (ShareGPT: human, gpt, function_call, observation)",
            )
            return None
        for name in ("tool_calls", "function_call"):
            if body.get(name) is not None:
                calls += self._calls(body[name], f"{path}.{name}")
        if calls and role != "assistant":
            self.fault(
                f"{path}.tool_calls",
                f"tool calls in a {role} message",
                "InvalidToolCall",
                "only the assistant calls tools",
            )
        for name in body.keys() - _MESSAGE_FIELDS:
            self.ignored.append(f"messages[].{name}")
        return Message(
            role=role,
            content=content,
            tool_calls=tuple(calls),
            tool_call_id=self._optional_text(body, ("tool_call_id",), path),
            name=self._optional_text(body, ("name",), path),
            train=self._train(body, path),
            reasoning_content=self._optional_text(body, _REASONING, path),
        )

    def _optional_text(self, body: dict[str, Any], names: tuple[str, ...], path: str) -> str | None:
        for name in names:
            value = body.get(name)
            if isinstance(value, str):
                return value
            if value is not None:
                self.fault(
                    f"{path}.{name}", f"must be text, not {kind_of(value)}", "InvalidField", "write a JSON string"
                )
        return None

    def _content(self, body: dict[str, Any], name: str, path: str) -> str:
        value = body.get(name)
        if isinstance(value, str):
            return value
        if isinstance(value, list):
            return self._parts(value, f"{path}.{name}")
        if value is None:
            if not (body.get("tool_calls") or body.get("function_call")):
                self.fault(
                    f"{path}.{name}", "the message has no content", "NoContent", "write its text, or leave it out"
                )
            return ""
        self.fault(
            f"{path}.{name}", f"must be text, not {kind_of(value)}", "InvalidContent", "write the text as a JSON string"
        )
        return ""

    def _parts(self, parts: list[Any], path: str) -> str:
        """OpenAI's content parts: texts are joined; anything else is refused by its name."""
        texts: list[str] = []
        for index, part in enumerate(parts):
            if isinstance(part, dict):
                kind, text = part.get("type") or "text", part.get("text")
                if kind in _TEXT_PARTS and isinstance(text, str):
                    texts.append(text)
                    continue
                what = f"a content part of type {kind!r}" if kind not in _TEXT_PARTS else "a text part without its text"
            else:
                what = f"a content part that is {kind_of(part)}"
            self.fault(
                f"{path}[{index}]",
                f"{what}; only text can be trained on here",
                "UnsupportedContent",
                "leave the row out, or put text in its place",
            )
        self.note("PartsJoined")
        return "".join(texts)

    def _train(self, body: dict[str, Any], path: str) -> bool | None:
        flags: list[bool] = []
        for name in ("train", "weight"):
            value = body.get(name)
            if value is None:
                continue
            if isinstance(value, bool | int | float) and value in (0, 1):
                flags.append(bool(value))
            else:
                self.fault(
                    f"{path}.{name}",
                    f"must be 0 or 1, not {value!r}",
                    "InvalidWeight",
                    "1 trains on the message, 0 does not",
                )
        if len(flags) == 2 and flags[0] != flags[1]:
            self.fault(f"{path}.train", "train and weight say different things", "InvalidWeight", "keep one of them")
        return flags[0] if flags else None

    # ── tools

    def _calls(self, value: Any, path: str) -> list[ToolCall]:
        value = maybe_json(value)
        listed = value if isinstance(value, list) else [value]
        calls: list[ToolCall] = []
        for index, body in enumerate(listed):
            place = f"{path}[{index}]" if listed is value else path
            function = body.get("function", body) if isinstance(body, dict) else None
            if not isinstance(function, dict) or not isinstance(function.get("name"), str):
                self.fault(place, "no tool call: the name of a function is missing", "InvalidToolCall", _CALL_SHAPE)
                continue
            arguments = function.get("arguments", function.get("parameters"))
            if isinstance(arguments, str):
                try:
                    arguments = orjson.loads(arguments) if arguments.strip() else {}
                except orjson.JSONDecodeError as error:
                    message = f"the arguments are not valid JSON: {error}"
                    self.fault(f"{place}.arguments", message, "InvalidToolCall", _CALL_SHAPE)
                    continue
            else:
                arguments = self._without_nulls({} if arguments is None else arguments)
            if not isinstance(arguments, dict):
                message = f"the arguments must be an object, not {kind_of(arguments)}"
                self.fault(f"{place}.arguments", message, "InvalidToolCall", _CALL_SHAPE)
                continue
            id = body.get("id")
            calls.append(ToolCall(function["name"], arguments, id if isinstance(id, str) else None))
        return calls

    def tools(self, value: Any, path: str) -> list[dict[str, Any]]:
        """Descriptions of functions, as OpenAI writes them."""
        value = maybe_json(value)
        if not value:
            return []
        listed = value if isinstance(value, list) else [value]
        tools: list[dict[str, Any]] = []
        for index, body in enumerate(listed):
            body = maybe_json(body)
            function = body.get("function", body) if isinstance(body, dict) else None
            if not isinstance(function, dict) or not isinstance(function.get("name"), str):
                self.fault(
                    f"{path}[{index}]" if listed is value else path,
                    "a tool without a name",
                    "InvalidTools",
                    'write {"name": "…", "description": "…", "parameters": {…}}',
                )
                continue
            tools.append({"type": "function", "function": self._without_nulls(function)})
        return tools

    def _without_nulls(self, value: Any) -> Any:
        """An object without the nulls that a table puts where other rows of the column have a field."""
        cleaned = _clean(value)
        if cleaned != value:
            self.note("NullsDropped")
        return cleaned


def _clean(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _clean(item) for name, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_clean(item) for item in value]
    return value


def maybe_json(value: Any) -> Any:
    """The list or object of a JSON text, as columns of tables hold them; anything else as it is."""
    if isinstance(value, str):
        text = value.strip()
        if text[:1] + text[-1:] in ("[]", "{}"):
            try:
                return orjson.loads(text)
            except orjson.JSONDecodeError:
                return value
    return value


def kind_of(value: Any) -> str:
    """What a value is, in words for a message."""
    kinds = {
        str: "text",
        bool: "true or false",
        int: "a number",
        float: "a number",
        list: "a list",
        dict: "an object",
        type(None): "null",
    }
    return kinds.get(type(value), type(value).__name__)
