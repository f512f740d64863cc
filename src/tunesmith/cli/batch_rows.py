"""The two shapes of a batch file's lines, in and out.

    messages   {"messages": […], "custom_id"?, "max_tokens"?, …}
               → {"line", "custom_id"?, "messages": […, answer], "finish_reason", "usage", "expected"?} or with "error"
    OpenAI's   {"custom_id", "method": "POST", "url": "/v1/chat/completions", "body": {…}}
               → {"id", "line", "custom_id", "response": {"status_code", "request_id", "body"} or null,
                  "error": {"code", "message"} or null}

A conversation that ends with the assistant is answered anew: its last turn is left out of the question and kept as
``expected``.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunesmith.errors import (
    InvalidData,
    NotFound,
    TunesmithError,
    UnsupportedField,
    ValidationFailed,
    error_from_dict,
)

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
_ENVELOPE = ("custom_id", "method", "url", "body")
_LIMITS = ("max_tokens", "max_completion_tokens")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the input."""

    number: int
    """Counted from 1."""
    key: str
    """What names it in the output: its custom_id, else its line."""
    custom_id: str | None = None
    openai: bool = False
    url: str = CHAT
    body: Mapping[str, Any] = field(default_factory=dict)
    expected: Mapping[str, Any] | None = None
    fault: TunesmithError | None = None
    """Why it cannot be asked."""


@dataclass(frozen=True, slots=True)
class Overview:
    """A file as a whole, from one reading."""

    rows: int
    sha256: str
    expected: int
    """Conversations that end with the assistant."""


def read_rows(path: Path, defaults: Mapping[str, Any]) -> Iterator[Row]:
    """Every line that is not blank. ``defaults`` are fields of the request that a line may override."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _row(line, number, f"{path}:{number}", defaults)


def look_over(path: Path) -> Overview:
    """Read the file once. Raises ``NotFound``, or ``InvalidData`` where a custom_id comes twice or nothing is in it."""
    if not path.is_file():
        raise NotFound(f"there is no file {path}", target="--in")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    first: dict[str, int] = {}
    count = expected = 0
    for row in read_rows(path, {}):
        count += 1
        expected += row.expected is not None
        before = first.setdefault(row.key, row.number)
        if before != row.number:
            raise InvalidData(
                f"the custom_id {row.key!r} is that of line {before} too",
                target=f"{path}:{row.number}#custom_id",
                way_out="give every line a custom_id of its own: answers are told apart by it",
            )
    if not count:
        raise InvalidData("there are no lines in it", target=str(path))
    return Overview(count, digest, expected)


def _row(line: bytes, number: int, place: str, defaults: Mapping[str, Any]) -> Row:
    key = f"line {number}"
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Row(number, key, fault=InvalidData(f"not JSON: {error}", target=place))
    if not isinstance(value, dict):
        return Row(number, key, fault=InvalidData("must be an object", target=place))
    custom_id = value.get("custom_id")
    if custom_id is not None and not isinstance(custom_id, str):
        return Row(number, key, fault=InvalidData("must be text", target=f"{place}#custom_id"))
    key = key if custom_id is None else custom_id
    if "body" in value or "url" in value or "method" in value:
        return _openai_row(value, Row(number, key, custom_id, openai=True), place, defaults)
    messages = value.get("messages")
    if not isinstance(messages, list) or not all(isinstance(item, dict) for item in messages):
        lacking = InvalidData("needs messages, a list of objects", target=f"{place}#messages")
        return Row(number, key, custom_id, fault=lacking)
    given = {name: item for name, item in value.items() if name != "custom_id"}
    fault = _stream_fault(given, f"{place}#stream")
    if fault is not None:
        return Row(number, key, custom_id, fault=fault)
    body = _with_defaults(given, defaults)
    expected = None
    if len(messages) > 1 and messages[-1].get("role") == "assistant":
        *body["messages"], expected = messages
    return Row(number, key, custom_id, body=body, expected=expected)


def _openai_row(value: dict[str, Any], row: Row, place: str, defaults: Mapping[str, Any]) -> Row:
    fault: TunesmithError | None = None
    unknown = [name for name in value if name not in _ENVELOPE]
    url, body = value.get("url"), value.get("body")
    if unknown:
        fault = UnsupportedField(f"unknown field {unknown[0]!r}", target=f"{place}#{unknown[0]}")
    elif row.custom_id is None:
        fault = InvalidData("is required", target=f"{place}#custom_id")
    elif value.get("method", "POST") != "POST":
        fault = UnsupportedField("must be POST", target=f"{place}#method")
    elif url not in (CHAT, COMPLETIONS):
        fault = UnsupportedField(f"must be {CHAT} or {COMPLETIONS}, not {url!r}", target=f"{place}#url")
    elif not isinstance(body, dict):
        fault = InvalidData("must be an object", target=f"{place}#body")
    else:
        fault = _stream_fault(body, f"{place}#body.stream")
    if fault is not None:
        return Row(row.number, row.key, row.custom_id, openai=True, fault=fault)
    assert isinstance(body, dict)
    assert isinstance(url, str)
    return Row(row.number, row.key, row.custom_id, openai=True, url=url, body=_with_defaults(body, defaults))


def _stream_fault(body: Mapping[str, Any], target: str) -> TunesmithError | None:
    if not body.get("stream"):
        return None
    return UnsupportedField("a batch does not stream", target=target, way_out="leave it out")


def _with_defaults(body: dict[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """``body`` over ``defaults``. A body with a limit of its own, by either name, gets no second one."""
    limited = any(name in body for name in _LIMITS)
    return {**{name: item for name, item in defaults.items() if not (limited and name in _LIMITS)}, **body}


def answered(row: Row, answer: Mapping[str, Any]) -> dict[str, Any]:
    """The line of a row that was answered; ``answer`` is the body of OpenAI's answer."""
    if row.openai:
        return {
            "id": f"batch_req_{uuid.uuid4().hex}",
            "line": row.number,
            "custom_id": row.custom_id,
            "response": {"status_code": 200, "request_id": answer.get("id"), "body": answer},
            "error": None,
        }
    choices = answer["choices"]
    line = {**_head(row), "messages": [*row.body["messages"], _said(choices[0])]}
    if len(choices) > 1:
        line["choices"] = [_said(choice) for choice in choices]
    line |= {"finish_reason": choices[0]["finish_reason"], "usage": answer["usage"]}
    return line if row.expected is None else {**line, "expected": row.expected}


def failed(row: Row, error: TunesmithError) -> dict[str, Any]:
    """The line of a row that was not."""
    if not row.openai:
        return {**_head(row), **error.to_dict()}
    response = None
    if row.fault is None:
        request_id = error.extra.get("request_id")
        response = {"status_code": error.status, "request_id": request_id, "body": error.to_dict()}
    return {
        "id": f"batch_req_{uuid.uuid4().hex}",
        "line": row.number,
        "custom_id": row.custom_id,
        "response": response,
        "error": {"code": error.code, "message": str(error)},
    }


def key_of(line: Any) -> str:
    """Of a line of the output: the key of its row. Raises ``ValidationFailed``."""
    if not isinstance(line, dict) or (line.get("custom_id") is None and "line" not in line):
        raise ValidationFailed("is no line of a batch's output")
    custom_id = line.get("custom_id")
    return f"line {line['line']}" if custom_id is None else str(custom_id)


def error_of(line: Mapping[str, Any]) -> tuple[str, str] | None:
    """Of a line of the output: the code of its error and what it says, or None where it was answered."""
    if line.get("error") is None:
        return None
    error = error_from_dict({"error": line["error"]})
    words = str(error)
    return error.code, f"line {line['line']}: {words}" if "line" in line else words


def _head(row: Row) -> dict[str, Any]:
    return {"line": row.number} | ({} if row.custom_id is None else {"custom_id": row.custom_id})


def _said(choice: Mapping[str, Any]) -> dict[str, Any]:
    message = choice["message"]
    kept = {"role": message["role"], "content": message.get("content") or ""}
    return kept | ({"tool_calls": message["tool_calls"]} if message.get("tool_calls") else {})
