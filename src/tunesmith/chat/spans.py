"""Where in the rendered text each answer of the assistant stands: spans found by position, never by token id.

The rule: an answer is what the model has to write. It begins where the generation prompt for it ends, and ends with
the end-of-turn token.

    render(messages[:i], add_generation_prompt=True)   <|user|>…<|end|>␊<|assistant|>␊
    render(messages)                                   <|user|>…<|end|>␊<|assistant|>␊It is 21 degrees.<|end|>␊
    span of message i                                                                 └───────────────────────┘

So a conversation is rendered prefix by prefix, and each prefix must be a prefix of the whole. Where a template is not
prefix-stable (it writes the tools before the *last* user turn, say), places are found by marking: a text is rendered
once more with a sentinel in place of one message's content, and what both have in common before and after tells where
that content stands. The message before the answer is found so in the prompt and in the whole; what the prompt writes
after it stands before the answer in the whole as well.

Knows characters; tokens are the business of ``tokens.py``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal

from tunesmith.chat.messages import Message
from tunesmith.chat.shape import common_prefix, sentinel, whole_tokens
from tunesmith.chat.template import TemplateRefused

Method = Literal["prefix", "marked"]
Render = Callable[[tuple[Message, ...], bool], str]
"""Messages and whether to add the generation prompt, to text."""

_MARK = sentinel(0)


class NotFoundInText(Exception):
    """The text of a message cannot be located in what the template wrote."""

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.index = index


@dataclass(frozen=True, slots=True)
class TextSpan:
    """Characters ``start`` to ``end`` (exclusive) of the rendered text, written for message ``index``."""

    index: int
    start: int
    end: int
    method: Method


class SpanFinder:
    """Finds spans for one template.

    ``ends`` matches the tokens that end a turn, ``tokens`` all tokens outside the tokenizer's model;
    ``surplus_prompt`` and ``trailer`` are those of the chat contract.
    """

    def __init__(self, *, ends: re.Pattern[str], tokens: re.Pattern[str], surplus_prompt: str, trailer: str) -> None:
        self._ends = ends
        self._tokens = tokens
        self._surplus = surplus_prompt
        self._trailer = trailer
        self._end_follows = re.compile(rf"\s{{0,8}}(?:{ends.pattern})")

    def answers(
        self, messages: tuple[Message, ...], whole: str, render: Render, wanted: Iterable[int]
    ) -> list[TextSpan]:
        """The spans of the assistant's messages ``wanted`` (ascending indices) in ``whole``, the text of all
        ``messages``.

        Raises ``NotFoundInText`` for the first that cannot be located.
        """
        spans: list[TextSpan] = []
        floor = 0
        for index in wanted:
            span = (
                self._by_prefix(messages, whole, render, index, floor)
                or self._by_neighbour(messages, whole, render, index, floor)
                or self._by_mark(messages, whole, render, index, floor)
            )
            spans.append(span)
            floor = span.end
        return spans

    def turn(self, messages: tuple[Message, ...], whole: str, render: Render, index: int) -> TextSpan:
        """The span of a message of any role, with its header where the template is prefix-stable."""
        try:
            before = self._stable(render(messages[:index], False)) if index else ""
            after = self._stable(render(messages[: index + 1], False))
        except TemplateRefused:
            return self._by_mark(messages, whole, render, index, 0)
        if whole.startswith(after) and after.startswith(before):
            return TextSpan(index, len(before), len(after), "prefix")
        return self._by_mark(messages, whole, render, index, 0)

    def _stable(self, text: str) -> str:
        """Without what the template writes at the end of a conversation only."""
        return text.removesuffix(self._trailer) if self._trailer else text

    def _by_prefix(
        self, messages: tuple[Message, ...], whole: str, render: Render, index: int, floor: int
    ) -> TextSpan | None:
        try:
            prompt = render(messages[:index], True)
        except TemplateRefused:
            return None
        if self._surplus and not whole.startswith(prompt):
            prompt = prompt.removesuffix(self._surplus)
        start = len(prompt)
        if start < floor or not whole.startswith(prompt):
            return None
        end = self._end(messages, whole, render, index, start)
        return None if end is None else TextSpan(index, start, end, "prefix")

    def _end(self, messages: tuple[Message, ...], whole: str, render: Render, index: int, start: int) -> int | None:
        message = messages[index]
        if not message.tool_calls:
            # Nearly always the answer stands as it is, and the end-of-turn token follows it.
            for content in (message.content, message.content.strip()):
                if whole.startswith(content, start) and (match := self._end_follows.match(whole, start + len(content))):
                    return match.end()
        try:
            turn = self._stable(render(messages[: index + 1], False))
        except TemplateRefused:
            turn = ""
        if len(turn) > start and whole.startswith(turn):
            return self._last_end(whole, start, len(turn))
        # The turn looks otherwise when more turns follow it (thinking is left out of it, say). Its end is the first
        # end-of-turn token after its beginning, unless the answer itself writes such a token.
        if self._ends.search(message.content) or any(
            self._ends.search(repr(call.arguments)) for call in message.tool_calls
        ):
            return None
        match = self._ends.search(whole, start)
        return match.end() if match else None

    def _last_end(self, whole: str, start: int, stop: int) -> int:
        end = stop
        for match in self._ends.finditer(whole, start, stop):
            end = match.end()
        return end

    def _by_neighbour(
        self, messages: tuple[Message, ...], whole: str, render: Render, index: int, floor: int
    ) -> TextSpan | None:
        if index == 0:
            return None
        try:
            prompt = render(messages[:index], True)
            before = self._after_content(messages[:index], prompt, render, index - 1, prompt=True)
            position = self._after_content(messages, whole, render, index - 1, prompt=False)
        except TemplateRefused:
            return None
        if before is None or position is None:
            return None
        header = prompt[before:]
        if not whole.startswith(header, position):
            header = header.removesuffix(self._surplus) if self._surplus else header
        start = position + len(header)
        if start < floor or not whole.startswith(header, position):
            return None
        end = self._end(messages, whole, render, index, start)
        return None if end is None else TextSpan(index, start, end, "marked")

    def _after_content(
        self, messages: tuple[Message, ...], text: str, render: Render, index: int, *, prompt: bool
    ) -> int | None:
        """Where the content of a message ends in the text of ``messages``."""
        marked_message = replace(messages[index], content=_MARK)
        marked = render((*messages[:index], marked_message, *messages[index + 1 :]), prompt)
        if marked.count(_MARK) != 1:
            return None
        after = marked[marked.index(_MARK) + len(_MARK) :]
        return len(text) - len(after) if text.endswith(after) else None

    def _by_mark(self, messages: tuple[Message, ...], whole: str, render: Render, index: int, floor: int) -> TextSpan:
        marked_message = replace(messages[index], content=_MARK, tool_calls=(), reasoning_content=None)
        try:
            marked = render((*messages[:index], marked_message, *messages[index + 1 :]), False)
        except TemplateRefused:
            raise NotFoundInText(index) from None
        if marked.count(_MARK) != 1:
            raise NotFoundInText(index)
        start = common_prefix(whole, marked)
        same = common_prefix(whole[start:][::-1], marked[start:][::-1])
        start = whole_tokens(start, (whole, marked), self._tokens)
        end = len(whole) - same
        if start < floor or _MARK not in marked[start : len(marked) - same]:
            raise NotFoundInText(index)
        follows = self._end_follows.match(whole, end)
        return TextSpan(index, start, follows.end() if follows else end, "marked")
