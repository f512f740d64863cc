"""Greedy answers recorded when a model is evaluated, so that whoever serves it can show that it is this very model.

A deployment asks the same questions again. In the same engine and precision the ids must be the same; in another
precision they at least begin alike. A wrong adapter, a stale file or another template shows at the first token.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict

from tunesmith.chat.messages import Conversation, Message
from tunesmith.evaluate.text import draw
from tunesmith.generate.types import Engine, GenerateRequest, collect

GREEDY_PROBES_FILE = "greedy_probes.json"
PROBE_TOKENS = 24


class GreedyProbe(BaseModel):
    """A question and the answer at temperature 0."""

    model_config = ConfigDict(frozen=True)

    messages: tuple[dict[str, Any], ...]
    """In OpenAI's shape."""
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    """Of the answer, with the end-of-turn token where it came."""
    text: str
    engine: str
    precision: str


async def record_probes_async(engine: Engine, questions: Iterable[tuple[Message, ...]]) -> tuple[GreedyProbe, ...]:
    """See ``record_probes``."""

    async def one(messages: tuple[Message, ...]) -> GreedyProbe:
        result = await collect(engine.generate(GenerateRequest(messages, max_tokens=PROBE_TOKENS, temperature=0)))
        choice = result.choices[0]
        return GreedyProbe(
            messages=tuple(message.to_openai() for message in messages),
            prompt_ids=tuple(engine.tokenizer.encode_prompt(messages)),
            token_ids=choice.token_ids,
            text=choice.text,
            engine=engine.description.engine,
            precision=engine.description.precision,
        )

    # One after the other: a probe is taken alone, as a deployment asks it.
    return tuple([await one(messages) for messages in questions])


def record_probes(
    engine: Engine, conversations: Iterable[Conversation], count: int = 3, *, seed: int = 0
) -> tuple[GreedyProbe, ...]:
    """The greedy answers to ``count`` questions drawn from ``conversations`` with ``seed``, those with tools left
    out.
    """
    plain = (conversation for conversation in conversations if not conversation.tools)
    questions, _ = draw(plain, count, seed)
    room = engine.capabilities().context_length - PROBE_TOKENS
    fitting = [
        question.messages for question in questions if len(engine.tokenizer.encode_prompt(question.messages)) <= room
    ]
    return asyncio.run(record_probes_async(engine, fitting))
