"""The engine against transformers' own generate, and each field against what it promises."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.generate.conftest import reference
from tests.support.tiny import Family
from tunesmith.chat.messages import Message
from tunesmith.errors import InvalidData
from tunesmith.generate import GenerateRequest, GenerateResult, collect
from tunesmith.generate.engines.transformers_engine import TransformersEngine
from tunesmith.models import ModelPackage

Engines = Callable[..., TransformersEngine]
Packages = Callable[[Family], ModelPackage]

PROMPTS = [
    "Hello, how are you?",
    "What is the capital of France?",
    "Tell me a long story about a robot that learns to paint, and about the quick brown fox. " * 4,
    "x",
    "Write a function that adds.",
    "weather in Paris?",
    "0123456789 " * 20,
    "Bird.",
]


def ask(text: str, **options: object) -> GenerateRequest:
    return GenerateRequest((Message("user", text),), **{"temperature": 0, "max_tokens": 24, **options})  # type: ignore[arg-type]


async def answer(engine: TransformersEngine, request: GenerateRequest) -> GenerateResult:
    return await collect(engine.generate(request))


@pytest.mark.parametrize("family", ["phi3", "llama", "qwen2"])
async def test_greedy_is_transformers_greedy_alone_and_in_a_batch(
    family: Family, engines: Engines, packages: Packages
) -> None:
    engine = engines(family)
    wanted = [
        reference(packages(family), engine.tokenizer.encode_prompt([Message("user", text)]), 24) for text in PROMPTS
    ]
    alone = [await answer(engine, ask(text)) for text in PROMPTS]
    together = await asyncio.gather(*(answer(engine, ask(text)) for text in PROMPTS))
    assert [list(result.choices[0].token_ids) for result in alone] == wanted
    assert [list(result.choices[0].token_ids) for result in together] == wanted
    for result, ids in zip(together, wanted, strict=True):
        assert result.choices[0].text == engine.tokenizer.decode(ids)
        assert result.usage.completion_tokens == len(ids)
        assert result.choices[0].finish_reason == ("length" if len(ids) == 24 else "stop")


async def test_a_prompt_beyond_the_context_names_the_counts(engines: Engines) -> None:
    engine = engines()
    with pytest.raises(InvalidData, match=r"tokens and the model's context, with the answer, is 512") as caught:
        await answer(engine, ask("hello " * 600))
    assert caught.value.extra["context_length"] == 512
    assert caught.value.extra["prompt_tokens"] > 600
