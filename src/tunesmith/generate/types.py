"""The interface of an engine: what it can honour, what was opened, what it counts.

Request and events are in modules of their own and can be had from here too. Importing this brings in neither torch nor
transformers.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from tunesmith.errors import NotFound, UnsupportedField
from tunesmith.generate.events import (
    Choice,
    FinishReason,
    GenerateEvent,
    GenerateResult,
    TokenLogprob,
    TopLogprob,
    Usage,
    collect,
)
from tunesmith.generate.request import MAX_CHOICES, MAX_TOP_LOGPROBS, GenerateRequest

if TYPE_CHECKING:
    from tunesmith.chat.tokens import ChatTokenizer

__all__ = [
    "Capabilities",
    "Choice",
    "Engine",
    "EngineDescription",
    "EngineStats",
    "FinishReason",
    "GenerateEvent",
    "GenerateRequest",
    "GenerateResult",
    "TokenLogprob",
    "TopLogprob",
    "Usage",
    "collect",
]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine, with the model it holds, can honour."""

    engine: str
    context_length: int
    """Tokens of prompt and answer together."""
    fields: frozenset[str]
    """The optional fields of ``GenerateRequest`` that are honoured."""
    response_formats: frozenset[str] = frozenset({"text"})
    max_top_logprobs: int = MAX_TOP_LOGPROBS
    max_choices: int = MAX_CHOICES
    adapters: tuple[str, ...] = ()
    """Names that ``GenerateRequest.adapter`` may have."""

    def require(self, request: GenerateRequest) -> None:
        """Raise ``UnsupportedField``, naming the field, if ``request`` asks for something that is not honoured, and
        ``NotFound`` for an adapter that is not there.
        """
        for item in fields(request):
            name = item.name
            if name in self.fields or name in {"messages", "max_tokens", "stream", "response_format"}:
                continue
            value = getattr(request, name)
            if value != item.default:
                raise UnsupportedField(
                    f"the {self.engine} engine cannot honour {name} with this model",
                    target=name,
                    way_out=f"leave out {name}",
                )
        kind = (request.response_format or {"type": "text"})["type"]
        if kind not in self.response_formats:
            raise UnsupportedField(
                f"the {self.engine} engine cannot honour response_format {kind}",
                target="response_format",
                way_out=f"formats it can: {', '.join(sorted(self.response_formats))}",
            )
        strict = [number for number, tool in enumerate(request.tools) if tool["function"].get("strict") is True]
        if strict and "tool_choice" not in self.fields:
            raise UnsupportedField(
                f"the {self.engine} engine cannot hold arguments to their schema",
                target=f"tools[{strict[0]}].function.strict",
                way_out="leave it out, and check the arguments",
            )
        if request.top_logprobs > self.max_top_logprobs:
            raise UnsupportedField(f"at most {self.max_top_logprobs} can be had", target="top_logprobs")
        if request.n > self.max_choices:
            raise UnsupportedField(f"at most {self.max_choices} choices can be had", target="n")
        if request.adapter is not None and request.adapter not in self.adapters:
            raise NotFound(
                f"there is no adapter {request.adapter!r} here",
                target="adapter",
                way_out=f"one of: {', '.join(self.adapters)}; or leave it out for the base model",
            )

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "engine": self.engine,
            "context_length": self.context_length,
            "fields": sorted(self.fields),
            "response_formats": sorted(self.response_formats),
            "max_top_logprobs": self.max_top_logprobs,
            "max_choices": self.max_choices,
            "adapters": list(self.adapters),
        }


@dataclass(frozen=True, slots=True)
class EngineDescription:
    """What was opened, and why so."""

    engine: str
    precision: str
    """32, bf16, 16 or 8 (int8 weights): the form the weights are held in."""
    reason: str
    """Why this engine and this precision."""
    threads: int
    context_length: int
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "engine": self.engine,
            "precision": self.precision,
            "reason": self.reason,
            "threads": self.threads,
            "context_length": self.context_length,
            "details": dict(self.details),
        }


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Counters since the engine was opened, and what is under way now."""

    running: int = 0
    """Choices being generated."""
    waiting: int = 0
    """Choices that wait for a place."""
    requests: int = 0
    finished: int = 0
    cancelled: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    steps: int = 0
    """Passes through the model."""
    busy_seconds: float = 0.0
    """Time spent in those passes."""
    cache_bytes: int = 0
    """Memory the key-value cache holds now."""
    cache_limit_bytes: int = 0

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {item.name: getattr(self, item.name) for item in fields(self)}


@runtime_checkable
class Engine(Protocol):
    """Turns messages into tokens. Many requests may be under way at once; they share the model's batches."""

    @property
    def tokenizer(self) -> ChatTokenizer:
        """The chat contract and tokenizer of the package, the only way here from messages to ids."""

    @property
    def description(self) -> EngineDescription:
        """What was opened, and why so."""

    def generate(self, request: GenerateRequest) -> AsyncIterator[GenerateEvent]:
        """Answer ``request``, piece by piece.

        An async generator: close it (or cancel the task that reads it) and the places of the request are freed. Raises
        ``UnsupportedField`` for a field it cannot honour, ``InvalidData`` when the prompt does not fit the context,
        ``Unavailable`` when the engine is closed.
        """

    def capabilities(self) -> Capabilities:
        """What it can honour."""

    async def use_adapters(self, adapters: Mapping[str, Path]) -> None:
        """From now on serve these LoRA adapters, by name, in place of those there are; requests under way end with
        what they began with.

        Raises ``UnsupportedField`` where the engine, or its size as it was opened, does not allow it.
        """

    def stats(self) -> EngineStats:
        """Counters; cheap, may be called from any thread."""

    def close(self) -> None:
        """Stop, free the model. Requests under way end as ``cancelled``. May be called twice."""
