"""Answers in OpenAI's shapes."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

from tunesmith.generate.events import Choice, GenerateEvent, GenerateResult, TokenLogprob, ToolCallPiece, Usage

Body = dict[str, Any]


class ChatShape:
    """Shapes the parts of one chat completion, whole or as chunks, under one id."""

    def __init__(self, model: str) -> None:
        self._base: Body = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        self._begun: set[int] = set()

    def whole(self, choices: Sequence[Choice], usage: Usage) -> Body:
        """The ``chat.completion`` object."""
        return {
            **self._base,
            "object": "chat.completion",
            "choices": [
                {
                    "index": choice.index,
                    "message": _message(choice),
                    "logprobs": logprobs(choice.logprobs),
                    "finish_reason": choice.finish_reason,
                }
                for choice in choices
            ],
            "usage": usage.to_dict(),
        }

    def chunk(self, event: GenerateEvent) -> Body:
        """One ``chat.completion.chunk``; the first of a choice has the role."""
        delta: Body = {}
        if event.index not in self._begun:
            self._begun.add(event.index)
            delta = {"role": "assistant", "content": event.text}
        elif event.text:
            delta = {"content": event.text}
        if event.tool_calls:
            delta["tool_calls"] = [_call_delta(piece) for piece in event.tool_calls]
        return {
            **self._base,
            "object": "chat.completion.chunk",
            "choices": [
                {
                    "index": event.index,
                    "delta": delta,
                    "logprobs": logprobs(event.logprobs),
                    "finish_reason": event.finish_reason,
                }
            ],
        }

    def usage_chunk(self, usage: Usage) -> Body:
        """The last chunk of a stream that was asked for its usage."""
        return {**self._base, "object": "chat.completion.chunk", "choices": [], "usage": usage.to_dict()}


class CompletionShape:
    """Shapes the parts of one text completion; ``echo`` is what stands before the answers of a stream."""

    def __init__(self, model: str, echo: str = "") -> None:
        self._echo = echo
        self._begun: set[int] = set()
        self._base: Body = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, echoes: Sequence[str], results: Sequence[GenerateResult]) -> Body:
        """The ``text_completion`` object: the choices of every result behind its echo, numbered through; their sums."""
        choices = [
            (echo + choice.text, choice.logprobs, choice.finish_reason)
            for echo, result in zip(echoes, results, strict=True)
            for choice in result.choices
        ]
        usage = Usage(
            sum(result.usage.prompt_tokens for result in results),
            sum(result.usage.completion_tokens for result in results),
        )
        return {
            **self._base,
            "choices": [_text_choice(index, *choice) for index, choice in enumerate(choices)],
            "usage": usage.to_dict(),
        }

    def chunk(self, event: GenerateEvent) -> Body:
        """One chunk of a stream."""
        text = event.text
        if event.index not in self._begun:
            self._begun.add(event.index)
            text = self._echo + text
        return {**self._base, "choices": [_text_choice(event.index, text, event.logprobs, event.finish_reason)]}

    def usage_chunk(self, usage: Usage) -> Body:
        """The last chunk of a stream that was asked for its usage."""
        return {**self._base, "choices": [], "usage": usage.to_dict()}


def model_list(names: Sequence[str], created: int) -> Body:
    """The answer of ``/v1/models``."""
    return {
        "object": "list",
        "data": [{"id": name, "object": "model", "created": created, "owned_by": "tunesmith"} for name in names],
    }


def logprobs(items: Sequence[TokenLogprob]) -> Body | None:
    """OpenAI's ``logprobs`` of a choice, or None where there are none."""
    if not items:
        return None
    return {
        "content": [
            {
                "token": item.token,
                "logprob": item.logprob,
                "bytes": _bytes(item.token),
                "top_logprobs": [
                    {"token": top.token, "logprob": top.logprob, "bytes": _bytes(top.token)} for top in item.top
                ],
            }
            for item in items
        ],
        "refusal": None,
    }


def text_logprobs(items: Sequence[TokenLogprob]) -> Body | None:
    """The ``logprobs`` of a text completion, four lists of one length, or None where there are none.

    ``top_logprobs`` has the token that was taken beside the most probable ones. Where two tokens read the same, the
    less probable one is named by its id.
    """
    if not items:
        return None
    return {
        "tokens": [item.token for item in items],
        "token_logprobs": [item.logprob for item in items],
        "top_logprobs": [_by_text(item) for item in items],
        "text_offset": [item.offset for item in items],
    }


def _by_text(item: TokenLogprob) -> dict[str, float]:
    found: dict[str, float] = {}
    places = {item.token_id: (item.token, item.logprob)} | {top.token_id: (top.token, top.logprob) for top in item.top}
    for token_id, (token, logprob) in sorted(places.items(), key=lambda place: -place[1][1]):
        found[f"token_id:{token_id}" if token in found else token] = logprob
    return found


def _message(choice: Choice) -> Body:
    """An assistant's message; its content is null where it only calls."""
    message: Body = {"role": "assistant", "content": choice.text, "refusal": None}
    if choice.tool_calls:
        message["content"] = choice.text or None
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in choice.tool_calls
        ]
    return message


def _call_delta(piece: ToolCallPiece) -> Body:
    """A part of a call: the first has the id and the name."""
    if piece.id is None:
        return {"index": piece.index, "function": {"arguments": piece.arguments}}
    function = {"name": piece.name, "arguments": piece.arguments}
    return {"index": piece.index, "id": piece.id, "type": "function", "function": function}


def _bytes(token: str) -> list[int]:
    return list(token.encode("utf-8", "replace"))


def _text_choice(index: int, text: str, items: Sequence[TokenLogprob], reason: str | None) -> Body:
    return {"index": index, "text": text, "logprobs": text_logprobs(items), "finish_reason": reason}
