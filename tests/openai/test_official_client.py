"""The official client, unchanged, against a real instance of a tiny model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

import jsonschema
import openai
import pytest
from pydantic import BaseModel

from tests.generate.conftest import stir
from tests.generate.test_tool_format import QWEN
from tests.support.exports import export_here
from tests.support.house import House
from tests.support.tiny import tiny_model
from tunesmith.models import import_model
from tunesmith.records.endpoints import UpdateEndpoint

ASK: Any = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("served")
    source = stir(tiny_model("llama", folder / "source"))
    (source / "chat_template.jinja").write_text(QWEN)
    package = import_model(str(source), folder / "package", downloads=folder / "downloads", name="tiny-llama")
    export_here(package)
    house = House(folder / "house", {"tiny-llama": package.path}).start()
    house.deploy("chat", "blue", "azureml:tiny-llama:1")
    house.service.update("chat", UpdateEndpoint(traffic={"blue": 100}))
    yield house
    house.close()


@pytest.fixture
def client(served: House) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=served.service.get("chat").openai_uri,
        api_key=served.service.keys("chat").secondary_key,
        http_client=openai.DefaultHttpxClient(trust_env=False),
        max_retries=0,
    ) as opened:
        yield opened


def test_the_official_client(served: House, client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny-llama", "blue"]
    whole = client.chat.completions.create(
        model="tiny-llama", messages=ASK, max_completion_tokens=12, temperature=0, logprobs=True, top_logprobs=2, n=2
    )
    first, second = whole.choices
    assert first.message.content == second.message.content
    assert first.finish_reason in ("stop", "length")
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 24 or first.finish_reason == "stop"
    assert first.logprobs is not None
    assert first.logprobs.content is not None
    assert len(first.logprobs.content[0].top_logprobs) == 2
    assert first.logprobs.content[0].logprob == max(top.logprob for top in first.logprobs.content[0].top_logprobs)

    chunks = list(
        client.chat.completions.create(
            model="blue",
            messages=ASK,
            max_tokens=12,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert streamed == first.message.content
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens

    same = [
        client.chat.completions.create(model="blue", messages=ASK, max_tokens=8, temperature=1.0, seed=seed)
        .choices[0]
        .message.content
        for seed in (1, 1, 2)
    ]
    assert same[0] == same[1] != same[2]
    stopped = client.completions.create(model="blue", prompt="Hello", max_tokens=6, temperature=0)
    assert stopped.choices[0].text


def test_its_errors_are_the_clients_own(served: House, client: openai.OpenAI) -> None:
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt-4o", messages=ASK)
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        client.chat.completions.create(model="blue", messages=ASK, extra_body={"max_new_tokens": 5})
    assert refused.value.param == "max_new_tokens"
    long: Any = [{"role": "user", "content": "word " * 2000}]
    with pytest.raises(openai.BadRequestError, match=r"512"):
        client.chat.completions.create(model="blue", messages=long)
    # A regenerated key stops opening, the other goes on.
    served.service.regenerate_key("chat", "secondary")
    with pytest.raises(openai.AuthenticationError):
        client.models.list()
    fresh = client.with_options(api_key=served.service.keys("chat").primary_key)
    assert len(list(fresh.models.list())) == 2


class Place(BaseModel):
    """Where somebody lives. Bounded, so that an answer of a random model comes to its end."""

    kind: Literal["house", "flat"]
    floor: Literal[0, 1, 2]
    warm: bool | None


WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"enum": ["Paris", "Bern"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 9},
            },
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
STOP: Any = {"type": "function", "function": {"name": "stop"}}


def test_answers_follow_a_schema(client: openai.OpenAI) -> None:
    for seed in range(5):
        parsed = client.chat.completions.parse(model="blue", messages=ASK, response_format=Place, seed=seed)
        assert parsed.choices[0].finish_reason == "stop"
        assert isinstance(parsed.choices[0].message.parsed, Place)
    schema: Any = {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 3}
    form: Any = {"type": "json_schema", "json_schema": {"name": "flags", "strict": True, "schema": schema}}
    chunks: Any = client.chat.completions.create(
        model="blue", messages=ASK, response_format=form, temperature=0, stream=True, n=2
    )
    texts = ["", ""]
    reasons: list[str | None] = [None, None]
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            reasons[choice.index] = choice.finish_reason or reasons[choice.index]
    assert reasons == ["stop", "stop"]
    for text in texts:
        jsonschema.validate(json.loads(text), schema)
    # Cut by the limit, it is a beginning, and says so.
    cut = client.chat.completions.create(
        model="blue", messages=ASK, response_format={"type": "json_object"}, max_tokens=1, seed=1
    ).choices[0]
    assert cut.finish_reason == "length"
    assert cut.message.content is not None and cut.message.content.startswith("{")
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        form["json_schema"]["schema"] = {"type": "array", "uniqueItems": True}
        client.chat.completions.create(model="blue", messages=ASK, response_format=form)
    assert refused.value.param == "response_format.json_schema.schema"


def test_functions_are_called(client: openai.OpenAI) -> None:
    said = client.chat.completions.create(
        model="blue", messages=ASK, tools=[WEATHER, STOP], tool_choice="required", parallel_tool_calls=False, seed=3
    ).choices[0]
    assert said.finish_reason == "tool_calls"
    assert said.message.content is None
    assert said.message.tool_calls is not None
    (call,) = said.message.tool_calls
    assert call.type == "function"
    assert call.function.name in ("get_weather", "stop")

    named: Any = {"type": "function", "function": {"name": "get_weather"}}
    asked: dict[str, Any] = {"tools": [WEATHER, STOP], "tool_choice": named, "parallel_tool_calls": False, "seed": 4}
    with client.chat.completions.stream(model="blue", messages=ASK, **asked) as stream:
        events = list(stream)
        whole = stream.get_final_completion().choices[0]
    assert whole.finish_reason == "tool_calls"
    assert whole.message.tool_calls is not None
    (streamed,) = whole.message.tool_calls
    assert streamed.function.name == "get_weather"
    assert streamed.id.startswith("call_")
    jsonschema.validate(json.loads(streamed.function.arguments), WEATHER["function"]["parameters"])
    kinds = [event.type for event in events]
    assert "tool_calls.function.arguments.done" in kinds
    assert kinds.count("tool_calls.function.arguments.delta") > 1, "the arguments come as they are written"

    # The answer is sent back with the function's result, as it came.
    answer: Any = [*ASK, whole.message, {"role": "tool", "tool_call_id": streamed.id, "content": "21 degrees"}]
    after = client.chat.completions.create(model="blue", messages=answer, tools=[WEATHER], max_tokens=4)
    assert after.usage is not None
    assert after.usage.prompt_tokens > 40


def test_text_is_text_where_the_model_calls_nothing(client: openai.OpenAI) -> None:
    plain = client.chat.completions.create(model="blue", messages=ASK, max_tokens=8, temperature=0, tools=[WEATHER])
    assert plain.choices[0].finish_reason in ("stop", "length")
    assert plain.choices[0].message.tool_calls is None
    assert plain.choices[0].message.content
    strict: Any = {"type": "function", "function": {**WEATHER["function"], "strict": True}}
    held = client.chat.completions.create(model="blue", messages=ASK, max_tokens=8, seed=1, tools=[strict])
    assert held.choices[0].message.tool_calls is None


def test_lists_of_prompts_and_stop_strings(client: openai.OpenAI) -> None:
    several = client.completions.create(model="tiny-llama", prompt=["Hello", "Bird."], max_tokens=4, temperature=0)
    alone = client.completions.create(model="tiny-llama", prompt="Bird.", max_tokens=4, temperature=0)
    assert [choice.index for choice in several.choices] == [0, 1]
    assert several.choices[1].text == alone.choices[0].text
    text = alone.choices[0].text
    cut = client.completions.create(model="tiny-llama", prompt="Bird.", max_tokens=4, temperature=0, stop=[text[2:4]])
    assert cut.choices[0].text == text[: text.index(text[2:4])]
    assert cut.choices[0].finish_reason == "stop"
    raw = client.chat.completions.with_raw_response.create(
        model="blue", messages=ASK, max_tokens=1, extra_headers={"x-request-id": "mine-1"}
    )
    assert raw.headers["x-request-id"] == "mine-1"
    assert raw.headers["x-tunesmith-model"] == "azureml:tiny-llama:1"
    assert raw.headers["azureml-model-deployment"] == "blue"


@pytest.mark.parametrize("asked", [{"temperature": 0}, {"temperature": 1.5, "seed": 5, "n": 2}])
def test_log_probabilities_of_completions(client: openai.OpenAI, asked: dict[str, Any]) -> None:
    said = client.completions.create(model="blue", prompt="Bird.", max_tokens=12, logprobs=3, **asked)
    chats = client.chat.completions.create(
        model="blue",
        messages=[{"role": "user", "content": "Bird."}],
        max_tokens=12,
        logprobs=True,
        top_logprobs=3,
        **asked,
    )
    for choice, chat in zip(said.choices, chats.choices, strict=True):
        found = choice.logprobs
        assert found is not None
        assert found.tokens and found.token_logprobs and found.top_logprobs and found.text_offset is not None
        assert chat.logprobs is not None and chat.logprobs.content is not None
        assert found.tokens == [item.token for item in chat.logprobs.content]
        assert found.token_logprobs == [item.logprob for item in chat.logprobs.content]
        assert len(found.tokens) == len(found.top_logprobs) == len(found.text_offset)
        for token, logprob, top, item in zip(
            found.tokens, found.token_logprobs, found.top_logprobs, chat.logprobs.content, strict=True
        ):
            # The three most probable ones, and the one that was taken where it is not among them.
            assert len(top) == 3 + (logprob < min(other.logprob for other in item.top_logprobs))
            assert logprob in top.values()
            assert max(top, key=lambda name: top[name]) == item.top_logprobs[0].token
            assert set(top.values()) >= {other.logprob for other in item.top_logprobs}
            assert top.get(token) is not None
        assert found.text_offset == sorted(found.text_offset)
        assert found.text_offset[0] == 0
        for begin, end, token in zip(found.text_offset, found.text_offset[1:], found.tokens, strict=False):
            if "\ufffd" not in choice.text[begin:end] + token:
                assert choice.text[begin:end] in ("", token)

    streamed: dict[int, dict[str, Any]] = {}
    chunks = client.completions.create(model="blue", prompt="Bird.", max_tokens=12, logprobs=3, stream=True, **asked)
    for chunk in chunks:
        (part,) = chunk.choices
        whole = streamed.setdefault(part.index, {"text": ""})
        whole["text"] += part.text
        for name, values in (part.logprobs.model_dump() if part.logprobs else {}).items():
            whole.setdefault(name, []).extend(values)
    for choice in said.choices:
        assert choice.logprobs is not None
        assert streamed[choice.index] == {"text": choice.text, **choice.logprobs.model_dump()}


def test_only_the_token_that_was_taken(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "blue", "prompt": "Bird.", "max_tokens": 4, "temperature": 0}
    found = client.completions.create(logprobs=0, **asked).choices[0].logprobs
    assert found is not None and found.tokens and found.top_logprobs and found.token_logprobs
    assert found.top_logprobs == [
        {token: value} for token, value in zip(found.tokens, found.token_logprobs, strict=True)
    ]
    assert client.completions.create(**asked).choices[0].logprobs is None
