"""The gateway against scripted instances over real connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.yard import Yard, ask, eventually
from tunesmith.errors import (
    ModelFailed,
    NotFound,
    RequestTimeout,
    TooManyRequests,
    Unavailable,
    UnsupportedField,
    ValidationFailed,
)
from tunesmith.records.endpoints import UpdateEndpoint


@pytest.fixture
async def yard(tmp_path: Path) -> AsyncIterator[Yard]:
    made = Yard(tmp_path / "home")
    yield made
    await made.close()


async def test_a_whole_answer_and_a_stream_of_it_are_the_same_text(yard: Yard) -> None:
    await yard.deployment("blue")
    yard.traffic(blue=100)
    whole = await (await yard.gateway.generate("chat", ask("say one two three"))).result()
    streamed = await yard.gateway.generate("chat", ask("say one two three", stream=True))
    assert streamed.deployment == "blue"
    assert streamed.model == "azureml:m:1"
    assert "".join([event.text async for event in streamed]) == whole.choices[0].text == "one two three"
    counters = yard.gateway.metrics.of(("chat", "blue"))
    assert counters.by_status == {200: 2}
    assert (counters.prompt_tokens, counters.completion_tokens) == (14, 6)


async def test_traffic_follows_its_shares_and_the_header_goes_past_them(yard: Yard) -> None:
    await yard.deployment("blue")
    await yard.deployment("green")
    yard.traffic(blue=90, green=10)
    for draw, expected in ((0.0, "blue"), (0.899, "blue"), (0.9, "green"), (0.999, "green")):
        yard.draws = [draw]
        assert (await yard.gateway.generate("chat", ask("hi"))).deployment == expected
    assert (await yard.gateway.generate("chat", ask("hi"), deployment="green")).deployment == "green"
    yard.traffic(blue=0, green=0)
    with pytest.raises(NotFound, match="no deployment of endpoint 'chat' has traffic"):
        await yard.gateway.generate("chat", ask("hi"))
    with pytest.raises(NotFound, match="has no deployment 'gren'") as caught:
        await yard.gateway.generate("chat", ask("hi"), deployment="gren")
    assert caught.value.way_out == "did you mean 'green'?"


async def test_the_model_field_keeps_to_the_deployments_that_serve_it(yard: Yard) -> None:
    await yard.deployment("blue")
    await yard.deployment("green", model="other")
    yard.traffic(blue=50, green=50)
    yard.draws = [0.0, 0.99, 0.0]
    names = [
        (await yard.gateway.generate("chat", ask("hi"), model=model)).deployment
        for model in ("other", "m", "azureml:other:1", "blue")
    ]
    assert names == ["green", "blue", "green", "blue"]
    with pytest.raises(NotFound, match="serves no model 'gpt-4o'"):
        await yard.gateway.generate("chat", ask("hi"), model="gpt-4o")


async def test_a_full_queue_is_refused_at_once_and_the_rest_is_answered(yard: Yard) -> None:
    (backend,) = await yard.deployment("blue", max_concurrent_requests_per_instance=2)
    yard.traffic(blue=100)
    backend.gate.clear()
    running = [asyncio.create_task(yard.gateway.generate("chat", ask("hi"))) for _ in range(4)]
    await eventually(lambda: backend.running == 2 and yard.pool.queued(("chat", "blue")) == 2)
    with pytest.raises(TooManyRequests) as caught:
        await yard.gateway.generate("chat", ask("one too many"))
    assert caught.value.extra["retry_after"] >= 1
    assert 'tunesmith_in_flight{endpoint="chat",deployment="blue"} 2' in yard.gateway.metrics.prometheus()
    backend.gate.set()
    assert {(await one).deployment for one in running} == {"blue"}
    assert backend.most_running == 2
    assert yard.gateway.metrics.of(("chat", "blue")).by_status == {429: 1}
    for one in running:
        await (await one).result()
    assert yard.gateway.metrics.of(("chat", "blue")).by_status == {429: 1, 200: 4}
    assert yard.pool.in_flight(("chat", "blue")) == 0


async def test_a_wait_that_is_too_long_is_a_429_and_leaves_no_slot_taken(yard: Yard) -> None:
    (backend,) = await yard.deployment("blue", max_concurrent_requests_per_instance=1, max_queue_wait_ms=50)
    yard.traffic(blue=100)
    backend.gate.clear()
    first = asyncio.create_task(yard.gateway.generate("chat", ask("hi")))
    await eventually(lambda: backend.running == 1)
    with pytest.raises(TooManyRequests, match="no slot came free in 50 ms"):
        await yard.gateway.generate("chat", ask("hi"))
    backend.gate.set()
    await (await first).result()
    assert yard.pool.in_flight(("chat", "blue")) == yard.pool.queued(("chat", "blue")) == 0


@pytest.mark.parametrize("text", ["slow", "stall"])
async def test_a_slow_model_is_a_408_and_its_slot_comes_free(yard: Yard, text: str) -> None:
    (backend,) = await yard.deployment("blue", request_timeout_ms=80)
    yard.traffic(blue=100)

    async def read() -> None:
        async for _ in await yard.gateway.generate("chat", ask(text, stream=True)):
            pass

    with pytest.raises(RequestTimeout, match="longer than 80 ms"):
        await read()
    await eventually(lambda: backend.cancelled == 1)
    assert yard.pool.in_flight(("chat", "blue")) == 0
    assert yard.gateway.metrics.of(("chat", "blue")).by_status == {408: 1}


async def test_a_reader_who_stops_cancels_the_generation(yard: Yard) -> None:
    (backend,) = await yard.deployment("blue")
    yard.traffic(blue=100)
    generation = await yard.gateway.generate("chat", ask("stall", stream=True))
    async for event in generation:
        assert event.text == "stall"
        break
    await generation.aclose()
    await eventually(lambda: backend.cancelled == 1)
    waiting = asyncio.create_task(yard.gateway.generate("chat", ask("slow")))
    await eventually(lambda: backend.running == 1)
    waiting.cancel()
    await eventually(lambda: backend.cancelled == 2)
    assert yard.pool.in_flight(("chat", "blue")) == 0
    assert yard.gateway.metrics.of(("chat", "blue")).by_status == {499: 2}


@pytest.mark.parametrize("text", ["cut", "drain"])
async def test_an_instance_that_goes_away_before_it_answers_costs_nothing(yard: Yard, text: str) -> None:
    first, second = await yard.deployment("blue", 2)
    yard.traffic(blue=100)
    second_generate = second._do

    async def answer(request: Any, body: dict[str, Any]) -> Any:
        body["messages"][-1]["content"] = "say fine"
        return await second_generate(request, body)

    second._do = answer  # type: ignore[method-assign]
    result = await (await yard.gateway.generate("chat", ask(text))).result()
    assert result.choices[0].text == "fine"
    assert [target.instance for target in yard.pool.targets(("chat", "blue"))] == ["blue1"]
    counters = yard.gateway.metrics.of(("chat", "blue"))
    assert (counters.retries, counters.by_status) == (1, {200: 1})
    assert len(first.requests) == 1


async def test_an_instance_that_goes_away_in_the_middle_is_an_error_not_an_end(yard: Yard) -> None:
    await yard.deployment("blue")
    yard.traffic(blue=100)
    texts: list[str] = []
    with pytest.raises(ModelFailed, match="went away while it answered"):
        async for event in await yard.gateway.generate("chat", ask("cut-late", stream=True)):
            texts.append(event.text)
    assert texts == ["cut-late"]
    assert yard.gateway.metrics.of(("chat", "blue")).by_status == {424: 1}


async def test_what_the_model_does_wrong_is_424_and_what_the_request_does_wrong_is_its_own(yard: Yard) -> None:
    await yard.deployment("blue")
    yard.traffic(blue=100)
    with pytest.raises(ModelFailed, match="the weights melted") as failed:
        await yard.gateway.generate("chat", ask("fail"))
    assert failed.value.extra == {"model_status": 500, "model_reason": "Failure", "deployment": "blue"}
    with pytest.raises(UnsupportedField, match="no seeds here") as refused:
        await yard.gateway.generate("chat", ask("refuse"))
    assert refused.value.target == "seed"
    with pytest.raises(ModelFailed, match="the weights melted"):
        async for _ in await yard.gateway.generate("chat", ask("fail-late", stream=True)):
            pass


async def test_requests_wait_for_an_instance_that_comes_back(yard: Yard) -> None:
    (backend,) = await yard.deployment("blue")
    yard.traffic(blue=100)
    (target,) = yard.pool.targets(("chat", "blue"))
    yard.pool.remove(target)
    waiting = asyncio.create_task(yard.gateway.generate("chat", ask("hi")))
    await eventually(lambda: yard.pool.queued(("chat", "blue")) == 1)
    yard.pool.add(target)
    assert (await (await waiting).result()).choices[0].text == "hi"
    yard.pool.remove(target)
    yard.service.outcomes.report(
        ("chat", "blue"), 1, "Failed", error={"code": "InvalidModel", "message": "no tokenizer"}
    )
    with pytest.raises(Unavailable, match="state Failed, 1 wanted\\): no tokenizer"):
        await yard.gateway.generate("chat", ask("hi"))
    assert len(backend.requests) == 1


async def test_equally_busy_instances_take_turns(yard: Yard) -> None:
    first, second = await yard.deployment("blue", 2)
    yard.traffic(blue=100)
    for _ in range(6):
        await (await yard.gateway.generate("chat", ask("hi"))).result()
    assert (len(first.requests), len(second.requests)) == (3, 3)


async def test_mirrored_traffic_is_copied_dropped_and_counted_apart(yard: Yard) -> None:
    await yard.deployment("blue")
    (green,) = await yard.deployment("green")
    yard.traffic(blue=100)
    yard.service.update("chat", UpdateEndpoint(mirror_traffic={"green": 50}))
    yard.draws = [0.0, 0.49, 0.0, 0.5]
    for _ in range(2):
        await (await yard.gateway.generate("chat", ask("fail-late and more"))).result()
    counters = yard.gateway.metrics.of(("chat", "green"))
    await eventually(lambda: counters.mirrored_by_status == {200: 1})
    assert counters.by_status == {}
    assert counters.mirrored_tokens == 3
    assert len(green.requests) == 1
    yard.draws = [0.0, 0.0]
    with pytest.raises(ModelFailed):
        await yard.gateway.generate("chat", ask("fail"))
    await eventually(lambda: counters.mirrored_by_status == {200: 1, 500: 1})
    with pytest.raises(ModelFailed):
        async for _ in await yard.gateway.generate("chat", ask("fail-late", stream=True)):
            pass
    await eventually(lambda: counters.mirrored_by_status == {200: 1, 500: 1, 424: 1})
    yard.journal.flush()
    assert [line.status for line in yard.journal.requests("chat", "green")] == [200, 500, 424]
    text = yard.gateway.metrics.prometheus()
    assert 'tunesmith_mirrored_requests_total{endpoint="chat",deployment="green",code="500"} 1' in text
    assert 'tunesmith_requests_total{endpoint="chat",deployment="blue",code="200"} 2' in text


async def test_what_cannot_be_written_as_json_is_the_callers_fault(yard: Yard) -> None:
    await yard.deployment("blue")
    yard.traffic(blue=100)
    with pytest.raises(ValidationFailed, match="cannot be written as JSON"):
        await yard.gateway.generate("chat", ask("half a pair: \ud800"))
    assert await yard.gateway.tokenize("chat", ask("hi")) == [1, 2, 3]
