"""The batching loop over a function in the place of a model: it always says the next number."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest
import torch

from tunesmith.chat.messages import Message
from tunesmith.chat.stream import StreamDecoder
from tunesmith.errors import Failure, OutOfMemory
from tunesmith.generate import GenerateEvent, GenerateRequest
from tunesmith.generate.engines.batcher import Batcher
from tunesmith.generate.engines.cache import Pass, Shape
from tunesmith.generate.engines.jobs import Job, Limits
from tunesmith.generate.engines.torch_runner import TorchRunner
from tunesmith.generate.sampling import Logits, Sampler
from tunesmith.generate.text import TextAssembler

VOCABULARY = 1000
SHAPE = Shape(layers=1, kv_heads=1, head_dim=1, dtype=torch.float32, device=torch.device("cpu"))
LIMITS = Limits(max_answers=4, cache_bytes=10**9, context_length=900, prompt_tokens_alone=8, prompt_tokens_beside=3)


class Counter:
    """``forward`` that counts on; it remembers its passes and fails when told to.

    It counts a thousand times faster than a model, so a test that acts while an answer runs holds it: after ``hold``
    it makes as many passes as ``allow`` says, until ``release``.
    """

    def __init__(self) -> None:
        self.passes: list[tuple[list[int], list[int], list[int]]] = []
        self.fail: Exception | None = None
        self._held = False
        self._permits = threading.Semaphore(0)

    def hold(self) -> None:
        self._held = True

    def allow(self, passes: int) -> None:
        self._permits.release(passes)

    def release(self) -> None:
        self._held = False
        self._permits.release()

    def __call__(self, ids: torch.Tensor, positions: torch.Tensor, wanted: torch.Tensor, shelves: Pass) -> torch.Tensor:
        if self._held:
            assert self._permits.acquire(timeout=60)
        if self.fail is not None:
            error, self.fail = self.fail, None
            raise error
        self.passes.append((ids.tolist(), positions.tolist(), wanted.tolist()))
        return torch.nn.functional.one_hot((ids[wanted] + 1) % VOCABULARY, VOCABULARY).float()


@pytest.fixture
def counter() -> Counter:
    return Counter()


@pytest.fixture
def batcher(counter: Counter) -> Iterator[Batcher]:
    made = Batcher(TorchRunner(counter, SHAPE), LIMITS)
    yield made
    made.close()


def job(prompt: list[int], *, max_tokens: int, stop_ids: set[int] = frozenset(), n: int = 1) -> Job:  # type: ignore[assignment]
    request = GenerateRequest((Message("user", "x"),), temperature=0)
    return Job(
        prompt=prompt,
        samplers=[Sampler(request, index) for index in range(n)],
        texts=[TextAssembler(StreamDecoder(lambda ids: " ".join(map(str, ids)))) for _ in range(n)],
        max_tokens=max_tokens,
        stop_ids=frozenset(stop_ids),
        token_text=str,
        loop=asyncio.get_running_loop(),
    )


async def read(job: Job) -> list[GenerateEvent]:
    found: list[GenerateEvent] = []
    while not found or found[-1].usage is None:
        item = await job.outbox.get()
        if isinstance(item, BaseException):
            raise item
        found += item
    return found


async def test_prompts_are_read_in_pieces_and_answers_one_token_a_pass(batcher: Batcher, counter: Counter) -> None:
    one = job(list(range(10, 30)), max_tokens=3)
    batcher.submit(one)
    events = await read(one)
    assert [event.token_ids for event in events] == [(30,), (31,), (32,)]
    assert [len(ids) for ids, _, _ in counter.passes] == [8, 8, 4, 1, 1]
    assert [positions for _, positions, _ in counter.passes] == [
        list(range(8)),
        list(range(8, 16)),
        list(range(16, 20)),
        [20],
        [21],
    ]
    assert [wanted for _, _, wanted in counter.passes] == [[], [], [3], [0], [0]]


async def test_a_prompt_beside_an_answer_takes_small_pieces(batcher: Batcher, counter: Counter) -> None:
    counter.hold()
    first = job([1], max_tokens=50)
    batcher.submit(first)
    counter.allow(1)
    await first.outbox.get()
    second = job(list(range(100, 107)), max_tokens=2)
    batcher.submit(second)
    counter.release()
    assert [event.token_ids for event in await read(second)] == [(107,), (108,)]
    beside = [len(ids) for ids, _, _ in counter.passes if len(ids) > 1]
    assert beside[:3] == [4, 4, 2]  # one token of the answer, and 3, 3 and 1 of the prompt


async def test_stop_ids_context_and_choices(batcher: Batcher) -> None:
    stops = job([5], max_tokens=50, stop_ids={9})
    ends = job([5] * 898, max_tokens=50)
    twins = job([5], max_tokens=2, n=2)
    for each in (stops, ends, twins):
        batcher.submit(each)
    events = await read(stops)
    assert [event.token_ids[0] for event in events] == [6, 7, 8, 9]
    assert (events[-1].finish_reason, events[-1].text) == ("stop", "")
    events = await read(ends)
    assert ([event.token_ids[0] for event in events], events[-1].finish_reason) == ([6, 7], "length")
    events = await read(twins)
    assert [(event.index, event.token_ids) for event in events] == [(0, (6,)), (1, (6,)), (0, (7,)), (1, (7,))]
    assert events[-1].usage is not None and events[-1].usage.completion_tokens == 4


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RuntimeError("broken"), Failure),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), OutOfMemory),
        (MemoryError(), OutOfMemory),
    ],
)
async def test_a_pass_that_fails_fails_its_requests_and_no_others(
    error: Exception, kind: type[Exception], batcher: Batcher, counter: Counter
) -> None:
    counter.hold()
    running = [job([1], max_tokens=800) for _ in range(4)]
    for each in running:
        batcher.submit(each)
    counter.allow(8)
    for each in running:
        await each.outbox.get()
    waiting = job([7], max_tokens=2)
    batcher.submit(waiting)
    counter.fail = error
    counter.release()
    for each in running:
        with pytest.raises(kind):
            await read(each)
    assert [event.token_ids for event in await read(waiting)] == [(8,), (9,)]
    stats = batcher.stats()
    assert (stats.failed, stats.finished, stats.running, stats.cache_bytes) == (4, 1, 0, 0)


async def test_giving_up_twice_or_late_is_harmless(batcher: Batcher) -> None:
    one = job([1], max_tokens=2)
    batcher.submit(one)
    await read(one)
    batcher.give_up(one)
    batcher.give_up(one)
    two = job([3], max_tokens=1)
    batcher.submit(two)
    await read(two)
    assert batcher.stats().cancelled == 0


async def test_closing_cancels_what_waits_too(counter: Counter) -> None:
    batcher = Batcher(TorchRunner(counter, SHAPE), LIMITS)
    counter.hold()
    jobs = [job([1], max_tokens=800) for _ in range(6)]
    for each in jobs:
        batcher.submit(each)
    counter.allow(2)
    await jobs[0].outbox.get()
    counter.release()
    batcher.close()
    batcher.close()
    for each in jobs:
        assert (await read(each))[-1].finish_reason == "cancelled"


async def test_counters_may_be_read_from_other_threads_all_the_while(batcher: Batcher) -> None:
    seen: list[int] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            stats = batcher.stats()
            assert 0 <= stats.running + stats.waiting <= 40
            seen.append(stats.finished)

    watching = asyncio.create_task(asyncio.to_thread(watch))
    jobs = [job([1], max_tokens=5, n=2) for _ in range(20)]
    for each in jobs:
        batcher.submit(each)
    await asyncio.gather(*(read(each) for each in jobs))
    ended.set()
    await watching
    assert batcher.stats().finished == 20
    assert seen == sorted(seen)


async def test_a_prompt_there_is_no_room_for_fails_alone(counter: Counter) -> None:
    huge = Shape(layers=1, kv_heads=2**40, head_dim=2**10, dtype=torch.float32, device=torch.device("cpu"))
    batcher = Batcher(TorchRunner(counter, huge), LIMITS)
    one = job([1], max_tokens=2)
    batcher.submit(one)
    with pytest.raises(OutOfMemory):
        await read(one)
    stats = batcher.stats()
    assert (stats.failed, stats.running, stats.waiting) == (1, 0, 0)
    batcher.close()


class Broken:
    """A constraint that fails at the third token."""

    def __init__(self) -> None:
        self.accepted: list[int] = []

    def allow(self, logits: Logits) -> None:
        if len(self.accepted) == 2:
            raise Failure("the grammar is too complex")

    def accept(self, token_id: int) -> None:
        self.accepted.append(token_id)


async def test_an_answer_that_cannot_be_kept_to_its_form_fails_alone(batcher: Batcher, counter: Counter) -> None:
    counter.hold()
    bad, good = job([100], max_tokens=9, n=2), job([1], max_tokens=6)
    bad.samplers[0].constraint = Broken()
    batcher.submit(bad)
    batcher.submit(good)
    counter.release()
    with pytest.raises(Failure, match="too complex"):
        await read(bad)
    assert [event.token_ids[0] for event in await read(good)] == [2, 3, 4, 5, 6, 7]
    assert (batcher.stats().failed, batcher.stats().finished, batcher.stats().running) == (1, 1, 0)
