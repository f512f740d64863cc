"""Asking an endpoint from a terminal: which one, with what, and how its answer is timed."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tunesmith.errors import UserError

if TYPE_CHECKING:
    from tunesmith.client import Workspace

Message = dict[str, Any]

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    """Text of a model without the characters that steer a terminal."""
    return _CONTROLS.sub("", text)


@dataclass(frozen=True, slots=True)
class Target:
    """An endpoint, and the deployment that must answer, if any."""

    endpoint: str
    deployment: str | None = None

    def __str__(self) -> str:
        return self.endpoint if self.deployment is None else f"{self.endpoint}/{self.deployment}"

    @classmethod
    def parse(cls, text: str, field: str) -> Target:
        """``ENDPOINT`` or ``ENDPOINT/DEPLOYMENT``. Raises ``UserError`` naming ``field``."""
        endpoint, slash, deployment = text.partition("/")
        if not endpoint or (slash and not deployment) or "/" in deployment:
            raise UserError(f"{text!r} is neither ENDPOINT nor ENDPOINT/DEPLOYMENT", target=field)
        return cls(endpoint, deployment or None)


def parameters(
    max_tokens: int | None, temperature: float | None, top_p: float | None = None, seed: int | None = None
) -> dict[str, Any]:
    """The fields of a request that were given."""
    given = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "seed": seed}
    return {name: value for name, value in given.items() if value is not None}


@dataclass(slots=True)
class Answer:
    """An answer as it grows. Times are in seconds since it was asked for."""

    text: str = ""
    finish_reason: str | None = None
    tokens: int = 0
    """Known at the end."""
    first: float | None = None
    """When the first text came."""
    seconds: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        """Of the whole answer, waiting included."""
        return self.tokens / self.seconds if self.seconds else 0.0

    def describe(self) -> str:
        """Tokens and times, in words."""
        words = f"{self.tokens:,} tokens, {self.tokens_per_second:.1f} tokens/s"
        if self.first is not None:
            words += f", first after {self.first:.2f} s"
        return words + (", cut at the limit of tokens" if self.finish_reason == "length" else "")


def stream(
    ws: Workspace, target: Target, messages: Sequence[Message], given: Mapping[str, Any], answer: Answer
) -> Iterator[str]:
    """The pieces of an answer to ``messages``, while ``answer`` is kept. Closing the iterator cancels it."""
    began = time.perf_counter()
    chunks = ws.endpoints.chat(
        target.endpoint,
        messages,
        target.deployment,
        stream=True,
        **{**given, "stream_options": {"include_usage": True}},
    )
    close: Callable[[], None] = getattr(chunks, "close", lambda: None)
    try:
        for chunk in chunks:
            answer.seconds = time.perf_counter() - began
            usage = chunk.get("usage")
            if usage:
                answer.tokens = int(usage["completion_tokens"])
            for choice in chunk.get("choices", ()):
                answer.finish_reason = choice.get("finish_reason") or answer.finish_reason
            if chunk.text:
                if answer.first is None:
                    answer.first = answer.seconds
                answer.text += chunk.text
                yield chunk.text
    finally:
        answer.seconds = time.perf_counter() - began
        close()
