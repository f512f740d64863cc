"""OpenAI's protocol: shapes, refusals, status codes, headers, callers who go away."""

from __future__ import annotations

import json
import re
import socket
from typing import Any

import httpx
import pytest

from tests.support.backend import Backend
from tests.support.house import House, until

CHAT = "/v1/chat/completions"


def body(text: str = "say one two", **changes: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **changes}


WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def tool(parameters: dict[str, Any]) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": {"name": "f", "parameters": parameters}}]}


def schema(wanted: dict[str, Any]) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": wanted}}}


def test_a_whole_answer(client: httpx.Client, backend: Backend) -> None:
    answer = client.post(CHAT, json=body(model="blue", n=2, max_completion_tokens=9, stop="x", seed=3, top_p=0.5))
    assert answer.status_code == 200
    said = answer.json()
    assert said["object"] == "chat.completion"
    assert said["model"] == "m"
    assert re.fullmatch(r"chatcmpl-[0-9a-f]{32}", said["id"])
    assert [choice["index"] for choice in said["choices"]] == [0, 1]
    assert said["choices"][0]["message"] == {"role": "assistant", "content": "one two", "refusal": None}
    assert said["choices"][0]["finish_reason"] == "stop"
    assert said["usage"] == {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
    assert answer.headers["azureml-model-deployment"] == "blue"
    assert answer.headers["x-tunesmith-model"] == "azureml:m:1"
    assert backend.requests == [
        {
            "messages": [{"role": "user", "content": "say one two"}],
            "n": 2,
            "max_tokens": 9,
            "stop": ["x"],
            "seed": 3,
            "top_p": 0.5,
        }
    ]


def test_a_stream_ends_with_usage_and_done(client: httpx.Client, backend: Backend) -> None:
    with client.stream("POST", CHAT, json=body(stream=True, stream_options={"include_usage": True})) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["azureml-model-deployment"] == "blue"
        events = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks[:-1]]
    assert deltas == [{"role": "assistant", "content": "one"}, {"content": " two"}, {}]
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["total_tokens"] == 9


def test_an_error_in_a_stream_is_an_event_and_there_is_no_done(client: httpx.Client, backend: Backend) -> None:
    with client.stream("POST", CHAT, json=body("fail-late", stream=True)) as answer:
        assert answer.status_code == 200
        events = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert json.loads(events[0])["choices"][0]["delta"]["content"] == "fail-late"
    error = json.loads(events[-1])["error"]
    assert (error["code"], error["message"]) == ("ModelFailed", "the weights melted")


@pytest.mark.parametrize(
    ("changes", "status", "target", "said"),
    [
        ({"max_new_tokens": 5}, 422, "max_new_tokens", "did you mean 'max_tokens'?"),
        ({"temprature": 0.1}, 422, "temprature", "did you mean 'temperature'?"),
        ({"logit_bias": {"50256": -100}}, 422, "logit_bias", "leave it out"),
        ({"tool_choice": "required"}, 400, "tool_choice", "needs tools"),
        ({"parallel_tool_calls": False}, 400, "parallel_tool_calls", "needs tools"),
        ({"tools": [WEATHER], "tool_choice": "always"}, 400, "tool_choice", "'required'"),
        ({"tools": [WEATHER], "tool_choice": named("rm")}, 400, "tool_choice", "not among tools (get_weather)"),
        ({"tools": [WEATHER, WEATHER]}, 400, "tools", "two functions 'get_weather'"),
        (tool({"type": "objekt"}), 400, "tools[0].function.parameters.type", "'objekt'"),
        (tool({"type": "array"}), 400, "tools[0].function.parameters.type", "by their names"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, 400, "tools[0].function.name", "pattern"),
        ({"response_format": {"type": "json_schema"}}, 400, "response_format.json_schema", "is required"),
        (schema({"properties": {"a": {"type": 3}}}), 400, "response_format.json_schema.schema.properties.a.type", "3"),
        ({"verbosity": "low"}, 422, "verbosity", "leave it out"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, 422, "max_completion_tokens", "give one of them"),
        ({"messages": [{"role": "user", "content": "x", "wheight": 1}]}, 422, "messages[0].wheight", "unknown field"),
        ({"temperature": "hot"}, 400, "temperature", "valid number"),
        ({"temperature": 3}, 400, "temperature", "between 0 and 2"),
        ({"temperature": True}, 400, "temperature", ""),
        ({"max_tokens": 0}, 400, "max_tokens", "between 1"),
        ({"max_tokens": 1.5}, 400, "max_tokens", "integer"),
        ({"n": 10**30}, 400, "n", "between 1"),
        ({"messages": []}, 400, "messages", "at least 1 item"),
        ({"messages": "hi"}, 400, "messages", "valid array"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, 400, "messages[0].role", "'user'"),
        ({"messages": [{"role": "user"}]}, 400, "messages[0].content", "must be text"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "type", "'text'"),
        ({"stream_options": {"include_usage": True}}, 400, "stream_options", "for streams only"),
        ({"response_format": {"type": "xml"}}, 400, "response_format.type", "json_object"),
        ({"top_logprobs": 3}, 400, "top_logprobs", "needs logprobs"),
    ],
)
def test_faults_are_named(
    client: httpx.Client, backend: Backend, changes: dict[str, Any], status: int, target: str, said: str
) -> None:
    answer = client.post(CHAT, json=body(**changes))
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert target in json.dumps(error)
    assert said in json.dumps(error).replace('\\"', '"')
    assert backend.requests == []


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b'{"messages": NaN}', b"[" * 100_000])
def test_bodies_that_are_no_request_are_400(client: httpx.Client, raw: bytes) -> None:
    answer = client.post(CHAT, content=raw, headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["code"] == "ValidationFailed"


def test_neutral_values_and_labels_pass(client: httpx.Client, backend: Backend) -> None:
    neutral: dict[str, Any] = {
        "user": "someone",
        "metadata": {"a": "b"},
        "logit_bias": {},
        "store": False,
        "service_tier": "auto",
        "modalities": ["text"],
        "tool_choice": "none",
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
        "safety_identifier": "someone",
        "prompt_cache_key": "k",
        "parallel_tool_calls": True,
        "verbosity": None,
    }
    assert client.post(CHAT, json=body(**neutral)).status_code == 200
    assert set(backend.requests[0]) == {"messages"}


def test_content_parts_and_developer_are_understood(client: httpx.Client, backend: Backend) -> None:
    messages = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "say a"}, {"type": "text", "text": " b"}]},
    ]
    answer = client.post(CHAT, json={"messages": messages})
    assert answer.json()["choices"][0]["message"]["content"] == "a b"
    assert backend.requests[0]["messages"][0] == {"role": "system", "content": "Be kind."}


def test_status_codes_and_headers_are_azures(house: House, client: httpx.Client) -> None:
    wrong = client.post(CHAT, json=body(), headers={"authorization": "Bearer nonsense"})
    assert wrong.status_code == 401
    assert wrong.headers["www-authenticate"] == "Bearer"
    assert wrong.json()["error"]["type"] == "authentication_error"
    nowhere = client.post(CHAT, json=body(), headers={"azureml-model-deployment": "green"})
    assert nowhere.status_code == 404
    assert client.post(CHAT, json=body(model="gpt-4o")).status_code == 404
    failed = client.post(CHAT, json=body("fail"))
    assert failed.status_code == 424
    assert failed.headers["ms-azureml-model-error-statuscode"] == "500"
    assert failed.headers["ms-azureml-model-error-reason"] == "Failure"
    assert failed.headers["azureml-model-deployment"] == "blue"
    refused = client.post(CHAT, json=body("refuse"))
    assert refused.status_code == 422
    assert refused.json()["error"]["param"] == "seed"
    identified = client.post(CHAT, json=body(), headers={"x-request-id": "mine-1", "x-ms-client-request-id": "theirs"})
    assert identified.headers["x-request-id"] == "mine-1"
    assert identified.headers["x-ms-client-request-id"] == "theirs"
    assert re.fullmatch(r"[0-9a-f-]{36}", failed.headers["x-request-id"])
    insane = client.post(CHAT, json=body(), headers={"x-request-id": "x" * 500})
    assert len(insane.headers["x-request-id"]) == 36


def test_a_large_body_is_refused_before_it_is_read(house: House, client: httpx.Client) -> None:
    key = client.headers["authorization"]
    with socket.create_connection(("127.0.0.1", house.port), timeout=20) as raw:
        head = (
            f"POST /endpoints/chat{CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: {key}\r\n"
            f"content-type: application/json\r\ncontent-length: {100 * 1024 * 1024}\r\n\r\n"
        )
        raw.sendall(head.encode() + b'{"messages": [')
        assert raw.recv(4096).startswith(b"HTTP/1.1 413 ")

    def pieces() -> Any:
        for _ in range(20):
            yield b" " * 1024 * 1024

    answer = client.post(CHAT, content=pieces(), headers={"content-type": "application/json"})
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "TooLarge"


@pytest.mark.parametrize("text", ["slow", "stall"])
def test_a_caller_who_goes_away_cancels_its_generation(
    house: House, client: httpx.Client, backend: Backend, text: str
) -> None:
    before = backend.cancelled
    data = json.dumps(body(text, stream=text == "stall")).encode()
    with socket.create_connection(("127.0.0.1", house.port), timeout=20) as raw:
        head = (
            f"POST /endpoints/chat{CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: {client.headers['authorization']}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
        )
        raw.sendall(head.encode() + data)
        if text == "stall":
            assert raw.recv(4096).startswith(b"HTTP/1.1 200 ")
        until(lambda: backend.running == 1, "the generation to run")
    until(lambda: backend.cancelled == before + 1, "the generation to be cancelled")
    until(lambda: house.pool.in_flight(("chat", "blue")) == 0, "the slot to be freed")


def test_slow_senders_do_not_block_others(house: House, client: httpx.Client) -> None:
    senders = [socket.create_connection(("127.0.0.1", house.port), timeout=20) for _ in range(50)]
    try:
        for raw in senders:
            raw.sendall(f"POST /endpoints/chat{CHAT} HTTP/1.1\r\nhost: x\r\ncontent-le".encode())
        assert client.post(CHAT, json=body()).status_code == 200
    finally:
        for raw in senders:
            raw.close()


def test_completions(client: httpx.Client, backend: Backend) -> None:
    one = client.post("/v1/completions", json={"prompt": "say one", "model": "m"}).json()
    assert one["object"] == "text_completion"
    assert one["choices"] == [{"index": 0, "text": "one", "logprobs": None, "finish_reason": "stop"}]
    assert backend.requests[0]["max_tokens"] == 16
    two = client.post("/v1/completions", json={"prompt": ["say a", "say b"], "n": 2, "echo": True}).json()
    assert [choice["text"] for choice in two["choices"]] == ["say aa", "say aa", "say bb", "say bb"]
    assert [choice["index"] for choice in two["choices"]] == [0, 1, 2, 3]
    assert two["usage"]["prompt_tokens"] == 14
    with client.stream("POST", "/v1/completions", json={"prompt": "say a b", "stream": True}) as answer:
        events = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert "".join(json.loads(event)["choices"][0]["text"] for event in events[:-1]) == "a b"
    for field, value in (("suffix", "x"), ("best_of", 5)):
        refused = client.post("/v1/completions", json={"prompt": "x", field: value})
        assert (refused.status_code, refused.json()["error"]["target"]) == (422, field)
    both = client.post("/v1/completions", json={"prompt": ["a", "b"], "stream": True})
    assert both.status_code == 422


def test_the_echo_of_a_stream_comes_first(client: httpx.Client) -> None:
    asked = {"prompt": "say a b", "stream": True, "echo": True}
    with client.stream("POST", "/v1/completions", json=asked) as answer:
        events = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert [json.loads(event)["choices"][0]["text"] for event in events[:-1]] == ["say a ba", " b", ""]


@pytest.mark.parametrize(
    ("changes", "status", "target", "said"),
    [
        ({"logprobs": 6}, 400, "logprobs", "less than or equal to 5"),
        ({"logprobs": -1}, 400, "logprobs", "greater than or equal to 0"),
        ({"logprobs": True}, 400, "logprobs", "integer"),
        ({"logprobs": 2, "echo": True}, 422, "echo", "leave out echo or logprobs"),
    ],
)
def test_log_probabilities_of_completions_have_their_bounds(
    client: httpx.Client, backend: Backend, changes: dict[str, Any], status: int, target: str, said: str
) -> None:
    answer = client.post("/v1/completions", json={"prompt": "x", **changes})
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["param"] == target
    assert said in answer.text
    assert backend.requests == []


def test_log_probabilities_of_completions_are_asked_for(client: httpx.Client, backend: Backend) -> None:
    for count, asked in ((0, {"logprobs": True}), (3, {"logprobs": True, "top_logprobs": 3})):
        assert client.post("/v1/completions", json={"prompt": "say a", "logprobs": count}).status_code == 200
        sent = backend.requests[-1]
        assert {name: sent[name] for name in sent if "logprobs" in name} == asked


def test_models(house: House, client: httpx.Client) -> None:
    listed = client.get("/v1/models").json()
    assert [model["id"] for model in listed["data"]] == ["m", "blue"]
    assert client.get("/v1/models", headers={"authorization": ""}).status_code == 401


def test_metrics(client: httpx.Client) -> None:
    client.post(CHAT, json=body())
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "# TYPE tunesmith_request_seconds histogram" in answer.text
    assert 'tunesmith_requests_total{endpoint="chat",deployment="blue",code="200"}' in answer.text
    for line in answer.text.splitlines():
        assert re.fullmatch(r'# (HELP|TYPE) \w+ .+|\w+\{\w+="[^"]*"(,\w+="[^"]*")*\} [0-9.e+-]+', line), line


def test_tools_and_forms_reach_the_engine(client: httpx.Client, backend: Backend) -> None:
    asked = body(
        tools=[WEATHER],
        tool_choice=named("get_weather"),
        parallel_tool_calls=False,
        response_format={"type": "json_object"},
    )
    assert client.post(CHAT, json=asked).status_code == 200
    assert {name: value for name, value in backend.requests[0].items() if name != "messages"} == {
        "tools": [WEATHER],
        "tool_choice": named("get_weather"),
        "parallel_tool_calls": False,
        "response_format": {"type": "json_object"},
    }


def test_calls_are_shaped_as_openais(client: httpx.Client, backend: Backend) -> None:
    said = client.post(CHAT, json=body("call get_weather", tools=[WEATHER])).json()
    (choice,) = said["choices"]
    assert choice["finish_reason"] == "tool_calls"
    function = {"name": "get_weather", "arguments": '{"city": "Paris"}'}
    assert choice["message"] == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
    }
    with client.stream("POST", CHAT, json=body("call get_weather", tools=[WEATHER], stream=True)) as answer:
        events = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    choices = [json.loads(event)["choices"][0] for event in events[:-1]]
    start = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": ""}}
    assert [choice["delta"] for choice in choices] == [
        {"role": "assistant", "content": "", "tool_calls": [start]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"city": "Paris"}'}}]},
        {},
    ]
    assert choices[-1]["finish_reason"] == "tool_calls"


def test_an_answer_can_be_sent_back_as_the_official_client_dumps_it(client: httpx.Client, backend: Backend) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
    dumped = {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "annotations": None,
        "audio": None,
        "function_call": None,
        "tool_calls": [call],
    }
    messages = [
        {"role": "user", "content": "Weather?"},
        dumped,
        {"role": "tool", "tool_call_id": "call_1", "content": "21"},
    ]
    assert client.post(CHAT, json={"messages": messages, "tools": [WEATHER]}).status_code == 200
    assert backend.requests[0]["messages"][1] == {"role": "assistant", "content": "", "tool_calls": [call]}
    assert backend.requests[0]["messages"][2] == {"role": "tool", "content": "21", "tool_call_id": "call_1"}
