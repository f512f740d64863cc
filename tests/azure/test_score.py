"""Azure's /score: its three shapes, their answers, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.backend import Backend
from tests.support.house import House
from tests.support.scripted import scripted_house
from tunesmith.azure.score import EXAMPLE, read_invocation, read_score
from tunesmith.errors import UserError

ONE = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "say one"}]
TWO = [{"role": "user", "content": "say two words"}]


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[House, Backend]]:
    with scripted_house(tmp_path_factory.mktemp("scripted")) as made:
        yield made


@pytest.fixture
def backend(scripted: tuple[House, Backend]) -> Backend:
    scripted[1].requests.clear()
    return scripted[1]


@pytest.fixture
def client(scripted: tuple[House, Backend]) -> Iterator[httpx.Client]:
    with scripted[0].client("chat") as opened:
        yield opened


def test_one_conversation_gives_one_text(client: httpx.Client, backend: Backend) -> None:
    parameters = {"temperature": 0.6, "top_p": 0.9, "do_sample": True, "max_new_tokens": 200, "return_full_text": False}
    answer = client.post("/score", json={"input_data": {"input_string": ONE, "parameters": parameters}})
    assert answer.status_code == 200, answer.text
    said = answer.json()
    assert said["output"] == "one"
    assert said["message"] == {"role": "assistant", "content": "one"}
    assert said["finish_reason"] == "stop"
    assert said["usage"] == {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8}
    assert said["model"] == "m"
    assert answer.headers["azureml-model-deployment"] == "blue"
    assert backend.requests == [{"messages": ONE, "temperature": 0.6, "top_p": 0.9, "max_tokens": 200}]


@pytest.mark.parametrize("conversations", [[TWO], [ONE, TWO, ONE]])
def test_conversations_give_texts_in_their_order(
    client: httpx.Client, backend: Backend, conversations: list[Any]
) -> None:
    body = {"input_data": {"input_string": conversations, "parameters": {"do_sample": False}}, "params": {}}
    said = client.post("/score", json=body).json()
    expected = ["one" if conversation is ONE else "two words" for conversation in conversations]
    assert said["output"] == expected
    assert [message["content"] for message in said["messages"]] == expected
    assert {request["temperature"] for request in backend.requests} == {0}


@pytest.mark.parametrize("wrap", [lambda items: items, lambda items: {"input_string": items}])
def test_prompts_give_texts(client: httpx.Client, backend: Backend, wrap: Any) -> None:
    said = client.post("/score", json={"input_data": wrap(["say a", "say b"]), "params": {"max_tokens": 3}}).json()
    assert said["output"] == ["a", "b"]
    assert [request["max_tokens"] for request in backend.requests] == [3, 3]


def test_the_full_text_begins_with_what_was_asked(client: httpx.Client, backend: Backend) -> None:
    body = {"input_data": {"input_string": [TWO], "parameters": {"return_full_text": True}}}
    said = client.post("/score", json=body).json()
    assert said["output"] == ["say two wordstwo words"]
    assert said["messages"][0]["content"] == "two words"


def test_outer_params_fill_gaps() -> None:
    body = {"input_data": {"input_string": ONE, "parameters": {"top_p": 0.9}}, "params": {"top_p": 0.9, "seed": 4}}
    (request,) = read_score(body).requests
    assert (request.top_p, request.seed) == (0.9, 4)


@pytest.mark.parametrize(
    ("parameters", "outer", "target"),
    [
        ({"temperature": 0.5}, {"temperature": 0.6}, "params.temperature"),
        ({"max_new_tokens": 5, "max_tokens": 6}, {}, "input_data.parameters.max_new_tokens"),
        ({"max_new_tokens": 5}, {"max_tokens": 6}, "params.max_tokens"),
        ({"do_sample": False, "temperature": 0.5}, {}, "input_data.parameters.do_sample"),
        ({"do_sample": True, "temperature": 0}, {}, "input_data.parameters.do_sample"),
        ({"stream": True}, {}, "input_data.parameters.stream"),
        ({"num_beams": 4}, {}, "num_beams"),
    ],
)
def test_contradictions_and_unknown_parameters_are_422(
    client: httpx.Client, backend: Backend, parameters: dict[str, Any], outer: dict[str, Any], target: str
) -> None:
    body = {"input_data": {"input_string": ONE, "parameters": parameters}, "params": outer}
    answer = client.post("/score", json=body)
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["target"] == target
    assert backend.requests == []


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        {"inputs": ["x"]},
        {"input_data": {}},
        {"input_data": []},
        {"input_data": {"input_string": "hello"}},
        {"input_data": {"input_string": []}},
        {"input_data": {"input_string": [[]]}},
        {"input_data": {"input_string": ["x", TWO]}},
        {"input_data": {"input_string": [{"role": "user"}]}},
        {"input_data": {"input_string": [{"role": "wizard", "content": "x"}]}},
        {"input_data": {"input_string": [["x"]]}},
        {"input_data": {"input_string": ["x"] * 65}},
        {"input_data": {"input_string": TWO, "parameters": [1]}},
        {"input_data": 4},
    ],
)
def test_other_shapes_are_400_with_a_right_one(client: httpx.Client, backend: Backend, body: Any) -> None:
    answer = client.post("/score", json=body)
    assert answer.status_code == 400, answer.text
    assert EXAMPLE in answer.json()["error"]["way_out"]
    assert backend.requests == []


def test_the_example_is_right(client: httpx.Client) -> None:
    assert client.post("/score", content=EXAMPLE).status_code == 200


def test_a_fault_in_a_conversation_names_its_place(client: httpx.Client) -> None:
    body = {"input_data": {"input_string": [TWO, [{"role": "user", "content": 5}]]}}
    error = client.post("/score", json=body).json()["error"]
    assert error["details"][0]["target"] == "input_data.input_string[1][0].content.str"
    unknown = {"input_data": {"input_string": [{"role": "user", "content": "x", "contnet": "y"}]}}
    answer = client.post("/score", json=unknown)
    assert answer.status_code == 422
    assert answer.json()["error"]["target"] == "input_data.input_string[0].contnet"


def test_the_key_and_the_status_of_a_model_that_fails(client: httpx.Client) -> None:
    body = {"input_data": {"input_string": [{"role": "user", "content": "fail"}]}}
    assert client.post("/score", json=body, headers={"authorization": "Bearer x"}).status_code == 401
    failed = client.post("/score", json=body)
    assert failed.status_code == 424
    assert failed.headers["ms-azureml-model-error-reason"] == "Failure"


@pytest.mark.parametrize(
    "body",
    [
        {"messages": TWO, "max_tokens": 4},
        {"inputs": {"messages": TWO}, "params": {"max_tokens": 4}},
        {"inputs": [{"messages": TWO, "max_tokens": 4}]},
        {"dataframe_split": {"columns": ["messages", "max_tokens"], "data": [[TWO, 4]]}},
        {"dataframe_records": [{"messages": TWO, "max_tokens": 4, "temperature": None}]},
    ],
)
def test_mlflows_call(client: httpx.Client, backend: Backend, body: dict[str, Any]) -> None:
    answer = client.post("/invocations", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"] == "two words"
    assert backend.requests == [{"messages": TWO, "max_tokens": 4}]


def test_mlflows_call_in_another_shape(client: httpx.Client) -> None:
    bodies: list[Any] = [{"inputs": ["x"]}, {"inputs": []}, {"dataframe_split": {"columns": [1], "data": [[2]]}}, []]
    for body in [*bodies, {"a": 1}]:
        assert client.post("/invocations", json=body).status_code in (400, 422), body


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["input_data", "input_string", "parameters", "params", "role", "content", "top_p", "messages", "x"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@settings(max_examples=400)
@given(values)
def test_any_json_is_understood_or_refused(body: Any) -> None:
    for read in (read_score, read_invocation):
        try:
            read(json.loads(json.dumps(body)))
        except UserError as error:
            assert error.status in (400, 422)
