"""The official client, unchanged, against a real instance of a tiny model."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import openai
import pytest

from tests.support.house import House
from tests.support.tiny import tiny_model
from tunesmith.models import import_model
from tunesmith.records.endpoints import UpdateEndpoint

ASK = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("served")
    source = tiny_model("llama", folder / "source")
    package = import_model(str(source), folder / "package", downloads=folder / "downloads", name="tiny-llama")
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
        http_client=httpx.Client(trust_env=False),
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
    long = [{"role": "user", "content": "word " * 2000}]
    with pytest.raises(openai.BadRequestError, match=r"512"):
        client.chat.completions.create(model="blue", messages=long)
    # A regenerated key stops opening, the other goes on.
    served.service.regenerate_key("chat", "secondary")
    with pytest.raises(openai.AuthenticationError):
        client.models.list()
    fresh = client.with_options(api_key=served.service.keys("chat").primary_key)
    assert len(list(fresh.models.list())) == 2
