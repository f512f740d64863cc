"""The engine against transformers' own generate, and each field against what it promises."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import torch

from tests.generate.conftest import Engines, Packages, reference
from tests.support.tiny import Family
from tunesmith.chat.messages import Message
from tunesmith.errors import InvalidData, Unavailable, UnsupportedField
from tunesmith.generate import GenerateRequest, GenerateResult, collect
from tunesmith.generate.engines.transformers_engine import TransformersEngine
from tunesmith.models import load_model

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


async def test_an_end_of_turn_token_ends_an_answer(engines: Engines) -> None:
    engine = engines("qwen2")
    ends = set(engine.tokenizer.contract.eos_token_ids)
    request = ask("Hello", temperature=1.5, seed=0, n=64, max_tokens=40)
    choices = (await answer(engine, request)).choices
    assert {choice.finish_reason for choice in choices} == {"stop", "length"}
    for choice in choices:
        stopped = choice.finish_reason == "stop"
        assert [token in ends for token in choice.token_ids] == [False] * (len(choice.token_ids) - 1) + [stopped]
        assert choice.text == engine.tokenizer.decode(choice.token_ids[: len(choice.token_ids) - stopped])


async def test_long_prompts_are_read_in_pieces_beside_answers(engines: Engines, packages: Packages) -> None:
    engine = engines("phi3")
    long = "the lazy dog sings kindly " * 60
    prompt = engine.tokenizer.encode_prompt([Message("user", long)])
    assert 300 < len(prompt) < 480  # more than is read in one pass beside an answer
    wanted = reference(packages("phi3"), prompt, 24)
    stream: Any = engine.generate(ask("Hello", max_tokens=400))
    await anext(stream)
    results = await asyncio.gather(*(answer(engine, ask(long)) for _ in range(3)))
    assert [list(result.choices[0].token_ids) for result in results] == [wanted] * 3
    await stream.aclose()


async def test_answers_move_to_larger_shelves(engines: Engines, packages: Packages) -> None:
    engine = engines("phi3")
    prompts = [engine.tokenizer.encode_prompt([Message("user", text)]) for text in PROMPTS]
    results = await asyncio.gather(*(answer(engine, ask(text, max_tokens=None)) for text in PROMPTS))
    for text, prompt, result in zip(PROMPTS, prompts, results, strict=True):
        choice = result.choices[0]
        if choice.finish_reason == "length":
            assert len(prompt) + len(choice.token_ids) == 512, text
    longest = max(range(len(PROMPTS)), key=lambda number: len(results[number].choices[0].token_ids))
    ids = list(results[longest].choices[0].token_ids)
    assert len(ids) > 256
    assert ids == reference(packages("phi3"), prompts[longest], len(ids))
    assert engine.stats().cache_bytes == 0


async def test_seeded_answers_repeat_in_any_company(engines: Engines) -> None:
    engine = engines("qwen2")
    request = ask("Hello", temperature=1.0, top_p=0.9, seed=7)
    alone = await answer(engine, request)
    others = [ask(text, temperature=1.5) for text in PROMPTS]
    together = await asyncio.gather(answer(engine, request), *(answer(engine, other) for other in others))
    assert together[0] == alone
    assert await answer(engine, ask("Hello", temperature=1.0, top_p=0.9, seed=8)) != alone
    assert await answer(engine, ask("Hello", temperature=1.0)) != await answer(engine, ask("Hello", temperature=1.0))


async def test_choices_share_the_prompt_and_draw_apart(engines: Engines) -> None:
    engine = engines("qwen2")
    three = await answer(engine, ask("Hello", temperature=1.2, seed=1, n=3))
    again = await answer(engine, ask("Hello", temperature=1.2, seed=1, n=3))
    one = await answer(engine, ask("Hello", temperature=1.2, seed=1))
    assert three == again
    assert len({choice.text for choice in three.choices}) == 3
    assert three.choices[0].token_ids == one.choices[0].token_ids
    assert three.usage.prompt_tokens == one.usage.prompt_tokens
    assert three.usage.completion_tokens == sum(len(choice.token_ids) for choice in three.choices)
    greedy = await answer(engine, ask("Hello", n=2))
    assert greedy.choices[0].token_ids == greedy.choices[1].token_ids


async def test_logprobs_are_those_of_the_model(engines: Engines, packages: Packages) -> None:
    engine = engines("qwen2")
    request = ask("Hello", temperature=1.1, seed=2, logprobs=True, top_logprobs=3, max_tokens=8)
    choice = (await answer(engine, request)).choices[0]
    prompt = engine.tokenizer.encode_prompt(request.messages)
    model = load_model(packages("qwen2"), dtype="float32")
    with torch.no_grad():
        logits = model(torch.tensor([prompt + list(choice.token_ids)])).logits[0]
    wanted = logits[len(prompt) - 1 : -1].log_softmax(-1)
    assert [item.token_id for item in choice.logprobs] == list(choice.token_ids)
    for row, item in zip(wanted, choice.logprobs, strict=True):
        assert item.logprob == pytest.approx(float(row[item.token_id]), abs=1e-5)
        values, ids = row.topk(3)
        assert [top.token_id for top in item.top] == ids.tolist()
        assert [top.logprob for top in item.top] == pytest.approx(values.tolist(), abs=1e-5)
        assert item.token == engine.tokenizer.decode([item.token_id], skip_special_tokens=False)


async def test_penalties_change_what_is_said(engines: Engines) -> None:
    engine = engines("qwen2")
    plain = (await answer(engine, ask("x"))).choices[0]
    penalised = (await answer(engine, ask("x", frequency_penalty=2.0, presence_penalty=2.0))).choices[0]
    assert len(set(plain.token_ids)) < 24
    assert len(set(penalised.token_ids)) > len(set(plain.token_ids))
    assert penalised.token_ids[0] == plain.token_ids[0]


async def test_stop_strings_end_an_answer(engines: Engines) -> None:
    engine = engines("qwen2")
    plain = (await answer(engine, ask("Hello"))).choices[0]
    stop = plain.text[5:8]
    found = (await answer(engine, ask("Hello", stop=(stop, "never said")))).choices[0]
    assert found.text == plain.text[: plain.text.index(stop)]
    assert (found.finish_reason, found.stop) == ("stop", stop)
    assert len(found.token_ids) < len(plain.token_ids)


async def test_a_stream_that_is_given_up_frees_its_place(engines: Engines) -> None:
    engine = engines("qwen2", max_answers=2)
    stream: Any = engine.generate(ask("Hello", n=2, max_tokens=400))
    first = await anext(stream)
    assert first.finish_reason is None
    assert engine.stats().running == 2
    waiting = asyncio.create_task(answer(engine, ask("Hi")))
    await stream.aclose()
    assert (await waiting).choices[0].finish_reason == "length"
    stats = engine.stats()
    assert (stats.running, stats.waiting, stats.cancelled, stats.finished) == (0, 0, 1, 1)
    assert stats.cache_bytes == 0


async def test_a_cancelled_task_frees_its_place(engines: Engines) -> None:
    engine = engines("qwen2", max_answers=1)
    started = asyncio.Event()

    async def read() -> None:
        async for _ in engine.generate(ask("Hello", max_tokens=400)):
            started.set()

    task = asyncio.create_task(read())
    await started.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (await answer(engine, ask("Hi"))).choices[0].finish_reason == "length"
    assert engine.stats().cancelled == 1


async def test_more_requests_than_places_wait_their_turn(engines: Engines, packages: Packages) -> None:
    engine = engines("qwen2", max_answers=2)
    results = await asyncio.gather(*(answer(engine, ask(text)) for text in PROMPTS))
    prompts = [engine.tokenizer.encode_prompt([Message("user", text)]) for text in PROMPTS]
    assert [list(result.choices[0].token_ids) for result in results] == [
        reference(packages("qwen2"), prompt, 24) for prompt in prompts
    ]
    assert engine.stats().finished == len(PROMPTS)


async def test_a_small_cache_lets_requests_wait(engines: Engines) -> None:
    # Room for one answer of 256 tokens: layers 2, heads 2, head 16, float32, keys and values.
    engine = engines("qwen2", cache_bytes=2 * 2 * 2 * 16 * 4 * 256)
    results = await asyncio.gather(*(answer(engine, ask(text)) for text in PROMPTS[:2] + PROMPTS[3:6]))
    assert all(result.choices[0].finish_reason == "length" for result in results)
    # One at a time: as many passes as tokens.
    assert engine.stats().steps == engine.stats().completion_tokens


async def test_events_carry_deltas_and_end_with_usage(engines: Engines) -> None:
    engine = engines("phi3")
    events = [event async for event in engine.generate(ask("Hello", n=2))]
    assert [event.usage is not None for event in events] == [False] * (len(events) - 1) + [True]
    assert [event.index for event in events if event.finish_reason is not None] == [0, 1]
    assert all(len(event.token_ids) == 1 for event in events)


async def test_what_cannot_be_honoured_is_refused_by_name(engines: Engines) -> None:
    engine = engines("llama")
    with pytest.raises(UnsupportedField) as caught:
        await answer(engine, ask("x", adapter="french"))
    assert caught.value.target == "adapter"
    with pytest.raises(UnsupportedField) as caught:
        await answer(engine, ask("x", tools=({"type": "function", "function": {"name": "f"}},)))
    assert caught.value.target == "tools"


async def test_closing_ends_what_is_under_way(engines: Engines) -> None:
    engine = engines("phi3")
    stream = engine.generate(ask("Hello", max_tokens=400))
    await anext(stream)
    engine.close()
    events = [event async for event in stream]
    assert events[-1].finish_reason == "cancelled"
    assert events[-1].usage is not None
    with pytest.raises(Unavailable):
        await answer(engine, ask("Hello"))
    engine.close()
