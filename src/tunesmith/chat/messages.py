"""A conversation: messages with roles, as every part of the project passes them around.

Values only. Reading the many shapes that users bring is the business of ``formats.py``; turning a conversation into
text and ids that of ``tokens.py``. A tool call's arguments are a JSON object here, always: the two shapes that files
bring (an object, a string that holds an object) are made one when a row is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ROLES = ("system", "user", "assistant", "tool")
"""The roles a message may have."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a function by the assistant."""

    name: str
    arguments: Mapping[str, Any]
    """A JSON object; never changed after it is made."""
    id: str | None = None

    def for_template(self, *, arguments_as_text: bool = False) -> dict[str, Any]:
        """The shape chat templates read: arguments as an object, or as JSON text for the few that want that."""
        arguments = json.dumps(self.arguments, ensure_ascii=False) if arguments_as_text else self.arguments
        call: dict[str, Any] = {"type": "function", "function": {"name": self.name, "arguments": arguments}}
        return call if self.id is None else {"id": self.id, **call}

    def to_openai(self) -> dict[str, Any]:
        """OpenAI's shape: arguments as JSON text."""
        return self.for_template(arguments_as_text=True)

    @classmethod
    def from_openai(cls, call: Mapping[str, Any]) -> ToolCall:
        """Read ``to_openai`` (or a call whose arguments are an object) back.

        Raises ``ValueError`` where the arguments are not a JSON object.
        """
        function = call.get("function", call)
        arguments = function.get("arguments") or {}
        if isinstance(arguments, str):
            arguments = json.loads(arguments)
        if not isinstance(arguments, Mapping):
            raise ValueError("arguments of a tool call must be a JSON object")
        return cls(name=str(function["name"]), arguments=arguments, id=call.get("id"))


@dataclass(frozen=True, slots=True)
class Message:
    """One turn."""

    role: str
    """One of ``ROLES``."""
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    """Which call a ``tool`` message answers."""
    name: str | None = None
    train: bool | None = None
    """Whether this message carries loss; ``None`` leaves it to ``loss_on``."""
    reasoning_content: str | None = None
    """What the assistant thought before it answered; templates of reasoning models write it."""

    def for_template(self, *, arguments_as_text: bool = False) -> dict[str, Any]:
        """The mapping that chat templates read; absent parts are left out."""
        body: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.tool_calls:
            calls = self.tool_calls
            body["tool_calls"] = [call.for_template(arguments_as_text=arguments_as_text) for call in calls]
        if self.tool_call_id is not None:
            body["tool_call_id"] = self.tool_call_id
        if self.name is not None:
            body["name"] = self.name
        if self.reasoning_content is not None:
            body["reasoning_content"] = self.reasoning_content
            body["thinking"] = self.reasoning_content
        return body

    def to_openai(self) -> dict[str, Any]:
        """OpenAI's shape, with ``weight`` 0 or 1 where ``train`` is set."""
        body: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.tool_calls:
            body["tool_calls"] = [call.to_openai() for call in self.tool_calls]
        if self.tool_call_id is not None:
            body["tool_call_id"] = self.tool_call_id
        if self.name is not None:
            body["name"] = self.name
        if self.reasoning_content is not None:
            body["reasoning_content"] = self.reasoning_content
        if self.train is not None:
            body["weight"] = int(self.train)
        return body

    @classmethod
    def from_openai(cls, body: Mapping[str, Any]) -> Message:
        """Read ``to_openai`` back. For rows of a user's file use ``formats.parse_row``, which checks."""
        weight = body.get("weight")
        return cls(
            role=str(body["role"]),
            content=body.get("content") or "",
            tool_calls=tuple(ToolCall.from_openai(call) for call in body.get("tool_calls") or ()),
            tool_call_id=body.get("tool_call_id"),
            name=body.get("name"),
            train=None if weight is None else bool(weight),
            reasoning_content=body.get("reasoning_content"),
        )


@dataclass(frozen=True, slots=True)
class Conversation:
    """One training row."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    """Functions the assistant may call, as ``{"type": "function", "function": {name, description, parameters}}``."""
    source: str = ""
    """Where it came from, ``file:line``."""

    def to_openai(self) -> dict[str, Any]:
        """OpenAI's shape of a training row."""
        row: dict[str, Any] = {"messages": [message.to_openai() for message in self.messages]}
        if self.tools:
            row["tools"] = list(self.tools)
        return row

    def to_json(self) -> str:
        """One line of JSON in OpenAI's shape."""
        return json.dumps(self.to_openai(), ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes, *, source: str = "") -> Conversation:
        """Read ``to_json`` back."""
        row = json.loads(text)
        return cls(
            messages=tuple(Message.from_openai(body) for body in row["messages"]),
            tools=tuple(row.get("tools") or ()),
            source=source,
        )
