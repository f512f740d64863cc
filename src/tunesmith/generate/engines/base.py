"""What the engines over our own batching share: from a request to a job in the loop, and its events back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, cast, get_args

from tunesmith.chat.tokens import ChatTokenizer
from tunesmith.errors import InvalidData, UnsupportedField
from tunesmith.generate.engines.batcher import Batcher
from tunesmith.generate.engines.jobs import Job, Limits
from tunesmith.generate.engines.runner import Runner
from tunesmith.generate.forms import AnswerForms
from tunesmith.generate.grammar import needs_grammar
from tunesmith.generate.request import ResponseFormat
from tunesmith.generate.sampling import Constraint, Sampler
from tunesmith.generate.text import TextAssembler
from tunesmith.generate.types import Capabilities, EngineDescription, EngineStats, GenerateEvent, GenerateRequest

HONOURED = frozenset(item.name for item in fields(GenerateRequest)) - {
    "messages",
    "tools",
    "response_format",
    "adapter",
}


class ContractEngine:
    """What every engine over a chat contract knows: whose it is, what it opened, which fields it honours."""

    def __init__(
        self,
        tokenizer: ChatTokenizer,
        description: EngineDescription,
        honoured: frozenset[str],
        adapters: Collection[str],
    ) -> None:
        self._tokenizer = tokenizer
        self._description = description
        self._adapters = tuple(adapters)
        self._fields = honoured
        if "tools" in tokenizer.contract.accepts:
            self._fields |= {"tools"}
        if adapters:
            self._fields |= {"adapter"}
        self._stop_ids = frozenset(tokenizer.contract.eos_token_ids)
        self._forms = AnswerForms(tokenizer)

    @property
    def tokenizer(self) -> ChatTokenizer:
        """The chat contract and tokenizer of the package."""
        return self._tokenizer

    @property
    def description(self) -> EngineDescription:
        """What was opened, and why so."""
        return self._description

    async def use_adapters(self, adapters: Mapping[str, Path]) -> None:
        """Refuse: see ``Engine.use_adapters``."""
        raise UnsupportedField(
            f"the {self._description.engine} engine cannot change its adapters while it serves",
            target="adapters",
            way_out="open another engine with them",
        )

    def _set_adapters(self, adapters: Collection[str]) -> None:
        """From now on these answer by name."""
        self._adapters = tuple(adapters)
        self._fields = self._fields | {"adapter"} if adapters else self._fields - {"adapter"}
        details = {**self._description.details, "adapters": list(adapters)}
        self._description = replace(self._description, details=details)


class BatchedEngine(ContractEngine):
    """An engine whose model a runner computes. It starts its thread when made."""

    def __init__(
        self,
        runner: Runner,
        tokenizer: ChatTokenizer,
        description: EngineDescription,
        limits: Limits,
        adapters: Collection[str] = (),
    ) -> None:
        super().__init__(tokenizer, description, HONOURED, adapters)
        self._limits = limits
        self._batcher = Batcher(runner, limits)

    def capabilities(self) -> Capabilities:
        """What can be honoured."""
        return Capabilities(
            self._description.engine,
            self._description.context_length,
            self._fields,
            response_formats=frozenset(get_args(ResponseFormat)),
            adapters=self._adapters,
        )

    def stats(self) -> EngineStats:
        """Counters now."""
        return self._batcher.stats()

    def close(self) -> None:
        """Stop and free the model."""
        self._batcher.close()

    async def generate(self, request: GenerateRequest) -> AsyncIterator[GenerateEvent]:
        """Answer ``request``; see ``Engine.generate``."""
        self.capabilities().require(request)
        prompt = self._tokenizer.encode_prompt(request.messages, request.tools)
        constraints: Sequence[Constraint | None] = [None] * request.n
        if needs_grammar(request):  # compiling one takes its time: not on the event loop
            constraints = await asyncio.to_thread(self._forms.constraints, request)
        events = self._forms.read(self._events(self._job(request, prompt, constraints)), request)
        async with aclosing(cast("Any", events)):
            async for event in events:
                yield event

    async def _events(self, job: Job) -> AsyncIterator[GenerateEvent]:
        self._batcher.submit(job)
        ended = False
        try:
            while not ended:
                item = await job.outbox.get()
                if isinstance(item, BaseException):
                    ended = True
                    raise item
                ended = item[-1].usage is not None
                for event in item:
                    yield event
        finally:
            if not ended:
                self._batcher.give_up(job)

    def _job(self, request: GenerateRequest, prompt: list[int], constraints: Sequence[Constraint | None]) -> Job:
        return Job(
            prompt=prompt,
            samplers=[Sampler(request, index, constraint) for index, constraint in enumerate(constraints)],
            texts=[TextAssembler(self._forms.decoder(request), request.stop) for _ in range(request.n)],
            max_tokens=tokens_left(request, prompt, self._limits.context_length),
            stop_ids=self._stop_ids,
            token_text=lambda token: self._tokenizer.decode([token], skip_special_tokens=False),
            loop=asyncio.get_running_loop(),
            adapter=request.adapter,
        )


def tokens_left(request: GenerateRequest, prompt: list[int], context: int) -> int:
    """How many tokens an answer may have; ``InvalidData`` when the prompt leaves room for none."""
    if len(prompt) >= context:
        raise InvalidData(
            f"the conversation has {len(prompt):,} tokens and the model's context, with the answer, is {context:,}",
            target="messages",
            way_out="leave out the oldest turns",
            extra={"prompt_tokens": len(prompt), "context_length": context},
        )
    return context - len(prompt) if request.max_tokens is None else request.max_tokens
