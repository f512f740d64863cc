"""The engine with no dependency of its own: transformers' models under our own continuous batching.

Any causal language model whose attention goes through transformers' attention interface can be served. Every sampling
field is honoured, each request by its own values; ``response_format`` other than text is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch

from tunesmith.chat.tokens import ChatTokenizer
from tunesmith.errors import InvalidData, InvalidModel
from tunesmith.generate.engines.batcher import Batcher
from tunesmith.generate.engines.cache import ATTENTION, Draft, Pass, Piece, Shape, attend
from tunesmith.generate.engines.jobs import Job, Limits
from tunesmith.generate.sampling import Sampler
from tunesmith.generate.text import TextAssembler
from tunesmith.generate.types import (
    Capabilities,
    EngineDescription,
    EngineStats,
    GenerateEvent,
    GenerateRequest,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HONOURED = frozenset(item.name for item in fields(GenerateRequest)) - {"messages", "tools", "response_format"}


class TransformersEngine:
    """Serves one model. Made by ``open_engine``, or from a model in memory.

    ``model`` becomes the engine's: its attention is replaced. ``max_answers`` are generated at once, further ones wait;
    ``cache_bytes`` bounds the memory that admitted requests may come to need for keys and values.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: ChatTokenizer,
        description: EngineDescription,
        *,
        max_answers: int,
        cache_bytes: int,
    ) -> None:
        config = model.config.get_text_config()
        if not getattr(model, "_supports_attention_backend", False):
            raise InvalidModel(
                f"{type(model).__name__} does not use transformers' attention interface, which this engine needs",
                way_out="models that do: Llama, Mistral, Phi-3, Phi-4, Qwen, Gemma 3 and most others that are current",
            )
        torch.nn.Module.eval(model)
        _register()
        model.set_attn_implementation(ATTENTION)
        self._model: PreTrainedModel | None = model
        self._tokenizer = tokenizer
        self._description = description
        heads = config.num_attention_heads
        shape = Shape(
            layers=config.num_hidden_layers,
            kv_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
            dtype=model.dtype,
            device=model.device,
        )
        limits = Limits(
            max_answers=max_answers,
            cache_bytes=cache_bytes,
            context_length=description.context_length,
            rotation_switch=_rotation_switch(config),
        )
        self._limits = limits
        self._fields = HONOURED | ({"tools"} if "tools" in tokenizer.contract.accepts else set())
        self._stop_ids = frozenset(tokenizer.contract.eos_token_ids)
        self._try(shape)
        self._batcher = Batcher(self._forward, shape, limits)

    @property
    def tokenizer(self) -> ChatTokenizer:
        """The chat contract and tokenizer of the package."""
        return self._tokenizer

    @property
    def description(self) -> EngineDescription:
        """What was opened, and why so."""
        return self._description

    def capabilities(self) -> Capabilities:
        """What can be honoured."""
        return Capabilities("transformers", self._description.context_length, self._fields)

    def stats(self) -> EngineStats:
        """Counters now."""
        return self._batcher.stats()

    def close(self) -> None:
        """Stop and free the model."""
        self._batcher.close()
        self._model = None

    async def generate(self, request: GenerateRequest) -> AsyncIterator[GenerateEvent]:
        """Answer ``request``; see ``Engine.generate``."""
        self.capabilities().require(request)
        prompt = self._tokenizer.encode_prompt(request.messages, request.tools)
        job = self._job(request, prompt)
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

    def _job(self, request: GenerateRequest, prompt: list[int]) -> Job:
        context = self._limits.context_length
        if len(prompt) >= context:
            raise InvalidData(
                f"the conversation has {len(prompt):,} tokens and the model's context, with the answer, is {context:,}",
                target="messages",
                way_out="leave out the oldest turns",
                extra={"prompt_tokens": len(prompt), "context_length": context},
            )
        max_tokens = context - len(prompt) if request.max_tokens is None else request.max_tokens
        return Job(
            prompt=prompt,
            samplers=[Sampler(request, index) for index in range(request.n)],
            texts=[TextAssembler(self._tokenizer.stream_decoder(), request.stop) for _ in range(request.n)],
            max_tokens=max_tokens,
            stop_ids=self._stop_ids,
            token_text=lambda token: self._tokenizer.decode([token], skip_special_tokens=False),
            loop=asyncio.get_running_loop(),
        )

    def _try(self, shape: Shape) -> None:
        """One token through the model, so that what cannot be served shows now and not at the first request."""
        first = torch.tensor([0], device=shape.device)
        try:
            self._forward(first, first, first, Pass([], [Piece(Draft(shape, 1), 0, 1, 0)]))
        except (NotImplementedError, TypeError) as error:
            raise InvalidModel(
                f"{type(self._model).__name__} cannot be served by this engine: {error}",
                way_out="models that can: Llama, Mistral, Phi-3, Phi-4, Qwen, Gemma 3 and most others that are current",
            ) from error

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor, wanted: torch.Tensor, shelves: Pass) -> torch.Tensor:
        model = self._model
        assert model is not None
        with torch.inference_mode():
            out: Any = model(
                input_ids=ids[None],
                position_ids=positions[None],
                use_cache=False,
                logits_to_keep=wanted,
                shelves=shelves,
            )
        logits: torch.Tensor = out.logits[0]
        return logits


def _register() -> None:
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, attend)


def _rotation_switch(config: Any) -> int | None:
    """The length from which the model rotates every position otherwise.

    Raises ``InvalidModel`` for rotations that change with every length.
    """
    parameters = getattr(config, "rope_parameters", None) or {}
    kinds = parameters.values() if all(isinstance(value, dict) for value in parameters.values()) else [parameters]
    switch = None
    for kind in kinds:
        name = kind.get("rope_type", "default")
        if name == "longrope":
            switch = int(kind.get("original_max_position_embeddings") or config.original_max_position_embeddings)
        elif "dynamic" in name:
            raise InvalidModel(
                f"rotary embeddings of type {name} change with a conversation's length, which batches cannot follow",
                way_out="set rope_parameters in config.json to a fixed type, such as yarn",
            )
    return switch
