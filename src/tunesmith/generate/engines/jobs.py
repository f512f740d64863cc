"""Requests under way, as the batching loop keeps them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from tunesmith.errors import Failure, OutOfMemory, TunesmithError
from tunesmith.generate.engines.runner import Place
from tunesmith.generate.sampling import Sampler
from tunesmith.generate.text import TextAssembler
from tunesmith.generate.types import GenerateEvent


@dataclass(frozen=True, slots=True)
class Limits:
    """What a batch may hold."""

    max_answers: int
    """Answers generated at once."""
    cache_bytes: int
    """Reserved for keys and values of admitted requests, counted at the longest they may become."""
    context_length: int
    prompt_tokens_alone: int = 1024
    """Prompt tokens in one pass while no answer is being generated."""
    prompt_tokens_beside: int = 256
    """Prompt tokens in one pass beside answers: what a stream of text is held up by."""


@dataclass(eq=False)
class Answer:
    """One choice of a request."""

    job: Job
    index: int
    sampler: Sampler
    text: TextAssembler
    place: Place | None = None
    """None until its prompt is read."""
    ids: list[int] = field(default_factory=list)
    ended: bool = False


@dataclass(eq=False)
class Job:
    """One request under way. ``outbox`` gets lists of events, or the error that ended it."""

    prompt: list[int]
    samplers: list[Sampler]
    texts: list[TextAssembler]
    max_tokens: int
    """At most; the context may end the answers before."""
    stop_ids: frozenset[int]
    token_text: Callable[[int], str]
    loop: asyncio.AbstractEventLoop
    adapter: str | None = None
    outbox: asyncio.Queue[list[GenerateEvent] | BaseException] = field(default_factory=asyncio.Queue)
    answers: list[Answer] = field(default_factory=list)
    reserved: int = 0
    events: list[GenerateEvent] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.answers = [
            Answer(self, index, sampler, text)
            for index, (sampler, text) in enumerate(zip(self.samplers, self.texts, strict=True))
        ]

    @property
    def ended(self) -> bool:
        """Whether every answer has."""
        return all(answer.ended for answer in self.answers)


@dataclass(eq=False)
class Reading:
    """A prompt, or an answer that is read anew, on its way into the cache."""

    ids: list[int]
    leader: Answer
    others: list[Answer]
    """Further choices of the same prompt, which get copies."""
    place: Place
    done: int = 0


def as_failure(error: Exception) -> TunesmithError:
    """What to tell the readers of requests that a failed pass ended."""
    if isinstance(error, TunesmithError):
        return error
    text = str(error)
    if isinstance(error, MemoryError) or "out of memory" in text.lower() or "can't allocate memory" in text.lower():
        return OutOfMemory(
            "the model's pass needs more memory than there is",
            way_out="fewer requests at once, shorter conversations, or a smaller precision",
        )
    return Failure(f"the model's pass failed: {type(error).__name__}: {text}")
