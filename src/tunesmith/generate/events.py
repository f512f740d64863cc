"""What an engine answers: events piece by piece, and the whole answer gathered from them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

FinishReason = Literal["stop", "length", "tool_calls", "cancelled"]
"""``stop``: the model ended its turn, or a stop string came. ``length``: ``max_tokens`` or the context was reached.
``tool_calls``: the turn was ended by the model and calls tools.
"""


@dataclass(frozen=True, slots=True)
class ToolCallPiece:
    """A part of call ``index`` of a choice: the first has the id and the name, all add to the arguments."""

    index: int
    arguments: str = ""
    """JSON text."""
    id: str | None = None
    name: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON form; absent parts are left out."""
        body = {"index": self.index, "id": self.id, "name": self.name, "arguments": self.arguments}
        return {name: value for name, value in body.items() if value is not None}

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> ToolCallPiece:
        """Read the JSON form back."""
        return cls(body["index"], body.get("arguments", ""), body.get("id"), body.get("name"))


@dataclass(frozen=True, slots=True)
class TopLogprob:
    """One of the most probable tokens at a place."""

    token: str
    token_id: int
    logprob: float

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {"token": self.token, "token_id": self.token_id, "logprob": self.logprob}

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> TopLogprob:
        """Read the JSON form back."""
        return cls(body["token"], body["token_id"], body["logprob"])


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token of the answer with its natural-log probability under the model, and the best alternatives."""

    token: str
    token_id: int
    logprob: float
    top: tuple[TopLogprob, ...] = ()
    offset: int = 0
    """Where it begins in the text of its choice, in characters; what ends the text stands at its end or after it."""

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "token": self.token,
            "token_id": self.token_id,
            "logprob": self.logprob,
            "top": [top.to_dict() for top in self.top],
            "offset": self.offset,
        }

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> TokenLogprob:
        """Read the JSON form back."""
        top = tuple(TopLogprob.from_dict(item) for item in body.get("top", ()))
        return cls(body["token"], body["token_id"], body["logprob"], top, body.get("offset", 0))


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request. The end-of-turn token that the model generates counts as a completion token."""

    prompt_tokens: int
    completion_tokens: int
    """Over all choices."""

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens

    def to_dict(self) -> dict[str, int]:
        """JSON form, with the total."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.total_tokens,
        }

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> Usage:
        """Read the JSON form back."""
        return cls(body["prompt_tokens"], body["completion_tokens"])


@dataclass(frozen=True, slots=True)
class GenerateEvent:
    """A piece of choice ``index``.

    The last event of a choice has ``finish_reason``; the last event of the request also has ``usage``. Text is whole
    characters, never half of a UTF-8 sequence, and never part of a stop string. ``token_ids`` are the tokens that
    were generated since the choice's event before (the end-of-turn token is the last of them where the model ended
    its turn).
    """

    index: int = 0
    text: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    stop: str | None = None
    """The stop string that ended the choice, if one did."""
    usage: Usage | None = None
    tool_calls: tuple[ToolCallPiece, ...] = ()
    """Parts of calls of tools. Their text is not in ``text``."""

    def to_dict(self) -> dict[str, Any]:
        """JSON form; absent parts are left out."""
        body: dict[str, Any] = {"index": self.index}
        if self.text:
            body["text"] = self.text
        if self.token_ids:
            body["token_ids"] = list(self.token_ids)
        if self.logprobs:
            body["logprobs"] = [item.to_dict() for item in self.logprobs]
        if self.finish_reason is not None:
            body["finish_reason"] = self.finish_reason
        if self.stop is not None:
            body["stop"] = self.stop
        if self.usage is not None:
            body["usage"] = self.usage.to_dict()
        if self.tool_calls:
            body["tool_calls"] = [piece.to_dict() for piece in self.tool_calls]
        return body

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> GenerateEvent:
        """Read the JSON form back."""
        return cls(
            index=body.get("index", 0),
            text=body.get("text", ""),
            token_ids=tuple(body.get("token_ids", ())),
            logprobs=tuple(TokenLogprob.from_dict(item) for item in body.get("logprobs", ())),
            finish_reason=body.get("finish_reason"),
            stop=body.get("stop"),
            usage=Usage.from_dict(body["usage"]) if body.get("usage") else None,
            tool_calls=tuple(ToolCallPiece.from_dict(item) for item in body.get("tool_calls", ())),
        )


@dataclass(frozen=True, slots=True)
class Choice:
    """A whole answer."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    logprobs: tuple[TokenLogprob, ...] = ()
    stop: str | None = None
    tool_calls: tuple[ToolCallPiece, ...] = ()
    """The calls of tools, each whole."""

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return GenerateEvent(
            self.index,
            self.text,
            self.token_ids,
            self.logprobs,
            self.finish_reason,
            self.stop,
            tool_calls=self.tool_calls,
        ).to_dict() | {"text": self.text}

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> Choice:
        """Read the JSON form back."""
        event = GenerateEvent.from_dict(body)
        reason = event.finish_reason or "stop"
        return cls(event.index, event.text, event.token_ids, reason, event.logprobs, event.stop, event.tool_calls)


@dataclass(frozen=True, slots=True)
class GenerateResult:
    """All choices of a request, in order."""

    choices: tuple[Choice, ...]
    usage: Usage

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {"choices": [choice.to_dict() for choice in self.choices], "usage": self.usage.to_dict()}

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> GenerateResult:
        """Read the JSON form back."""
        return cls(tuple(Choice.from_dict(item) for item in body["choices"]), Usage.from_dict(body["usage"]))


async def collect(events: AsyncIterator[GenerateEvent]) -> GenerateResult:
    """Gather a stream of events into whole answers."""
    gathered: dict[int, list[GenerateEvent]] = {}
    usage = Usage(0, 0)
    async for event in events:
        gathered.setdefault(event.index, []).append(event)
        usage = event.usage or usage
    choices = tuple(
        Choice(
            index,
            text="".join(event.text for event in parts),
            token_ids=tuple(token for event in parts for token in event.token_ids),
            finish_reason=parts[-1].finish_reason or "cancelled",
            logprobs=tuple(item for event in parts for item in event.logprobs),
            stop=parts[-1].stop,
            tool_calls=_joined([piece for event in parts for piece in event.tool_calls]),
        )
        for index, parts in sorted(gathered.items())
    )
    return GenerateResult(choices, usage)


def _joined(pieces: Sequence[ToolCallPiece]) -> tuple[ToolCallPiece, ...]:
    calls: dict[int, ToolCallPiece] = {}
    for piece in pieces:
        before = calls.get(piece.index)
        calls[piece.index] = piece if before is None else replace(before, arguments=before.arguments + piece.arguments)
    return tuple(calls.values())
