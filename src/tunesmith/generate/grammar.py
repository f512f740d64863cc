"""What an answer may be, as a grammar: JSON of a schema, calls of tools in the model's own format.

The grammar is text in llguidance's dialect of Lark. JSON is written in one way (``", "`` and ``": "`` between its
parts, as chat templates write it), for a small model that may choose its white space may never stop writing it.

Knows requests and formats; neither tokens nor logits.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.generate.request import GenerateRequest
from tunesmith.generate.tool_format import ToolFormat

Special = Mapping[str, int]
"""Special tokens by their text: they are no text to a grammar, and go in by their ids."""

_JSON = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
NO_ARGUMENTS: Mapping[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
ANY_OBJECT: Mapping[str, Any] = {"type": "object"}


def needs_grammar(request: GenerateRequest) -> bool:
    """Whether an answer to ``request`` may not be any text."""
    if (request.response_format or {"type": "text"})["type"] != "text" or request.forced_tools:
        return True
    return bool(request.tools) and (not request.parallel_tool_calls or any(is_strict(tool) for tool in request.tools))


def is_strict(tool: Mapping[str, Any]) -> bool:
    """Whether the arguments of a tool must follow its schema even where the model decides to call it."""
    return tool["function"].get("strict") is True


def schema_of_format(form: Mapping[str, Any]) -> Mapping[str, Any]:
    """The JSON schema of a ``response_format`` other than text."""
    if form["type"] == "json_object":
        return ANY_OBJECT
    inner = form.get("json_schema") or {}
    schema = inner.get("schema")
    return ANY_OBJECT if schema is None else schema


def schema_of_arguments(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """The JSON schema of a tool's arguments, which are always an object."""
    schema = tool["function"].get("parameters")
    return {"type": "object", **schema} if schema else NO_ARGUMENTS


def grammar_of(request: GenerateRequest, form: ToolFormat, special: Special) -> str:
    """The grammar of an answer to ``request``, for which ``needs_grammar`` is true."""
    rules = _Rules(form, special)
    forced = request.forced_tools
    response = request.response_format
    schema = None if response is None or response["type"] == "text" else schema_of_format(response)
    if forced:
        start = rules.calls(forced, several=request.parallel_tool_calls, strict=True)
    elif request.tools and schema is not None:
        start = f"{rules.calls(request.tools, several=request.parallel_tool_calls)} | {rules.json(schema)}"
    elif request.tools:
        start = rules.text_or_calls(request.tools, several=request.parallel_tool_calls)
    else:
        assert schema is not None
        start = rules.json(schema)
    return "%llguidance {}\n" + f"start: {start}\n" + "".join(f"{line}\n" for line in rules.lines)


class _Rules:
    """Collects the rules; each method returns what refers to them."""

    def __init__(self, form: ToolFormat, special: Special) -> None:
        self.lines: list[str] = []
        self._form = form
        self._special = special
        tokens = sorted((token for token in special if token), key=len, reverse=True)
        self._tokens = re.compile("|".join(map(re.escape, tokens)) or "(?!)")

    def json(self, schema: Mapping[str, Any]) -> str:
        """A rule for JSON of a schema. References inside the schema stay those of its own root."""
        name = f"json_{len(self.lines)}"
        # The dialect's own options are ours to set, whatever the caller wrote.
        self.lines.append(f"{name}: %json {json.dumps({**schema, 'x-guidance': _JSON}, ensure_ascii=False)}")
        return name

    def calls(self, tools: Sequence[Mapping[str, Any]], *, several: bool, strict: bool = False) -> str:
        """One call, or ``several`` where the model's format has that."""
        form, call = self._form, self._call(tools, strict)
        again = f" ({self._text(form.joiner)} {call})*" if several and form.joiner is not None else ""
        return f"{self._text(form.before)} {call}{again} {self._text(form.after)}"

    def text_or_calls(self, tools: Sequence[Mapping[str, Any]], *, several: bool) -> str:
        """Free text that may lead to calls."""
        form, opening = self._form, self._form.opening
        calls = self.calls(tools, several=several)
        if not opening:  # bare JSON: an answer that begins with a brace is a call
            self.lines.append(r"plain: /([^{\[\s](.|\n)*)?/")
            return f"{calls} | plain"
        self.lines.append(r"TEXT: /(.|\n)*/")
        self.lines.append("rest: TEXT")
        call = self._call(tools, strict=False)
        rest = f"{self._text(form.before.removeprefix(opening))} {call}"
        if several and form.joiner is not None:
            rest += f" ({self._text(form.joiner)} {call})*"
        rest += f" {self._text(form.after)}"
        if opening in self._special:
            self.lines.append(f"called: TEXT {self._text(opening)} {rest}")
        else:
            self.lines.append(f"opened[lazy]: TEXT {self._text(opening)}")
            self.lines.append(f"called: opened {rest}")
        return "called | rest"

    def _call(self, tools: Sequence[Mapping[str, Any]], strict: bool) -> str:
        name = f"call_{len(self.lines)}"
        options = []
        for tool in tools:
            schema = schema_of_arguments(tool) if strict or is_strict(tool) else ANY_OBJECT
            function = json.dumps(tool["function"]["name"], ensure_ascii=False)
            text = function[1:-1] if not self._form.named_outside else tool["function"]["name"]
            options.append(f"{self._text(text + self._form.between)} {self.json(schema)}")
        self.lines.append(f"{name}: " + " | ".join(options))
        return name

    def _text(self, text: str) -> str:
        """Text, with the special tokens in it by their ids."""
        parts = []
        position = 0
        for match in self._tokens.finditer(text):
            parts.append(text[position : match.start()])
            parts.append(f"<[{self._special[match.group()]}]>")
            position = match.end()
        parts.append(text[position:])
        return " ".join(
            part if part.startswith("<[") and part.endswith("]>") else json.dumps(part, ensure_ascii=False)
            for part in parts
            if part
        )
