"""Malformed bodies get 4xx, never 5xx, and leave nothing behind."""

from __future__ import annotations

import json
from typing import Any

import httpx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.backend import Backend
from tests.support.house import House

FIELDS = [
    "messages", "model", "max_tokens", "max_completion_tokens", "temperature", "top_p", "n", "stop", "seed", "logprobs",
    "top_logprobs", "stream", "stream_options", "tools", "tool_choice", "response_format", "prompt", "echo", "x",
]  # fmt: skip
INNER = [
    "role",
    "content",
    "name",
    "tool_calls",
    "type",
    "function",
    "arguments",
    "text",
    "include_usage",
    "json_schema",
]

leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=-(2**70), max_value=2**70)
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(["user", "assistant", "tool", "function", "text", "json_schema", "\ud800", "\x00"])
)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(INNER), inner, max_size=4),
    max_leaves=12,
)
messages = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system"]), "content": values}), max_size=2
)
bodies = st.dictionaries(st.sampled_from(FIELDS), values, max_size=5) | st.fixed_dictionaries(
    {"messages": messages}, optional=dict.fromkeys(FIELDS[1:], values)
)


@settings(max_examples=400, suppress_health_check=list(HealthCheck))
@given(body=bodies, path=st.sampled_from(["/v1/chat/completions", "/v1/completions", "/score", "/invocations"]))
def test_only_4xx(house: House, backend: Backend, client: httpx.Client, body: Any, path: str) -> None:
    answer = client.post(path, content=json.dumps(body).encode("ascii"))
    assert answer.status_code < 500, (body, answer.text)
    if answer.status_code >= 400:
        assert answer.json()["error"]["message"]
    assert house.pool.in_flight(("chat", "blue")) == 0


@settings(max_examples=200, suppress_health_check=list(HealthCheck))
@given(raw=st.binary(max_size=200), path=st.sampled_from(["/v1/chat/completions", "/v1/completions", "/score"]))
def test_bytes_are_refused(client: httpx.Client, backend: Backend, raw: bytes, path: str) -> None:
    assert 400 <= client.post(path, content=raw).status_code < 500
    assert backend.requests == []


KEYS = ["type", "properties", "required", "items", "enum", "anyOf", "$ref", "minimum", "pattern", "a", "$defs"]
schemas = st.recursive(
    leaves | st.sampled_from(["object", "string", "integer", "#/$defs/a", "#", "[0-9", "a{9999999}"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=10,
)
functions = st.fixed_dictionaries(
    {"name": st.sampled_from(["f", "g", ""]) | values}, optional={"parameters": schemas, "strict": values, "x": values}
)
choices = st.sampled_from(["auto", "none", "required", {"type": "function", "function": {"name": "f"}}]) | values
forms = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "json_object", "json_schema"])},
    optional={"json_schema": values | st.fixed_dictionaries({"name": st.just("x"), "schema": schemas})},
)


@settings(max_examples=200, suppress_health_check=list(HealthCheck))
@given(
    more=st.fixed_dictionaries(
        {},
        optional={
            "tools": st.lists(st.fixed_dictionaries({"type": st.just("function"), "function": functions}), max_size=3),
            "tool_choice": choices,
            "parallel_tool_calls": st.booleans() | values,
            "response_format": forms | values,
        },
    )
)
def test_tools_and_forms_only_4xx(client: httpx.Client, backend: Backend, more: dict[str, Any]) -> None:
    body = {"messages": [{"role": "user", "content": "say x"}], **more}
    answer = client.post("/v1/chat/completions", content=json.dumps(body).encode("ascii"))
    assert answer.status_code in (200, 400, 422), (body, answer.text)
    if answer.status_code != 200:
        assert answer.json()["error"]["message"]
