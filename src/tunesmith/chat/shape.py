"""What a chat template does around an assistant's answer, learnt by rendering marked conversations.

A template is a program, so its shape is not read from its source: conversations whose contents are sentinels are
rendered, and what stands between the sentinels is what the template adds. That tells which token ends a turn
(whatever the tokenizer calls its eos), what the generation prompt has in common with the header of a finished answer,
and which roles the template writes at all.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.chat.messages import Message, ToolCall
from tunesmith.chat.template import ChatTemplate, TemplateRefused
from tunesmith.errors import InvalidModel

OPEN, CLOSE = "\ue000", "\ue001"
"""Private-use characters: no template trims them, none is in a tokenizer's words."""


@dataclass(frozen=True, slots=True)
class TemplateShape:
    """See the fields of the same names in ``ChatContract``."""

    end_of_turn: str
    surplus_prompt: str
    trailer: str
    arguments_as_text: bool
    accepts: tuple[str, ...]


def sentinel(number: int) -> str:
    """A text that stands for the content of a message."""
    return f"{OPEN}{number}{CLOSE}"


def common_prefix(left: str, right: str) -> int:
    """Length of the longest common prefix."""
    size = min(len(left), len(right))
    if left[:size] == right[:size]:
        return size
    low, high = 0, size
    while low < high:
        middle = (low + high + 1) // 2
        if left[:middle] == right[:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def token_pattern(tokens: Sequence[str]) -> re.Pattern[str]:
    """A pattern that finds any of ``tokens``, the longest first; one that finds nothing if there are none."""
    longest_first = sorted({token for token in tokens if token.strip()}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


def whole_tokens(length: int, texts: Sequence[str], tokens: re.Pattern[str]) -> int:
    """The largest position up to ``length`` that cuts no token of any text in two."""
    moved = True
    while moved:
        moved = False
        for text in texts:
            for match in tokens.finditer(text):
                if match.start() < length < match.end():
                    length, moved = match.start(), True
                if match.start() >= length:
                    break
    return length


def learn_shape(template: ChatTemplate, added_tokens: Sequence[str]) -> TemplateShape:
    """Learn the shape. ``added_tokens`` are the texts of all tokens that stand outside the tokenizer's model.

    Raises ``InvalidModel`` when the template leaves out what users or assistants say, or ends no turn with a token.
    """
    tokens = token_pattern(added_tokens)
    one, two, three, four = (sentinel(number) for number in range(1, 5))
    try:
        prompt = template.render([Message("user", one).for_template()], add_generation_prompt=True)
        talk = template.render(
            [
                message.for_template()
                for message in (
                    Message("user", one),
                    Message("assistant", two),
                    Message("user", three),
                    Message("assistant", four),
                )
            ]
        )
    except TemplateRefused as refused:
        raise InvalidModel(
            f"the chat template refuses a plain conversation of user and assistant: {refused}",
            target="chat_template",
            way_out="give the model a chat template that takes the roles user and assistant",
        ) from refused
    missing = [
        who
        for who, text in (("user", one), ("assistant", two), ("user", three), ("assistant", four))
        if text not in talk
    ]
    if missing or one not in prompt:
        raise InvalidModel(
            f"the chat template leaves out what the {missing[0] if missing else 'user'} says",
            target="chat_template",
            way_out="give the model a chat template that writes every message",
        )
    before_first = _between(talk, one, two)
    after_first = _between(talk, two, three)
    after_last = talk[talk.index(four) + len(four) :]
    after_prompt = prompt[prompt.index(one) + len(one) :]

    header = whole_tokens(common_prefix(after_prompt, before_first), (after_prompt, before_first), tokens)
    ends = tokens.search(after_last)
    if ends is None:
        raise InvalidModel(
            f"the chat template puts no token after an assistant's answer (only {after_last!r}): "
            "the model could never learn to stop",
            target="chat_template",
            way_out="end the assistant's turn in the template with the eos token: {{ message['content'] + eos_token }}",
        )
    stays = whole_tokens(common_prefix(after_first, after_last), (after_first, after_last), tokens)
    arguments_as_text = not _writes_call(template, as_text=False) and _writes_call(template, as_text=True)
    return TemplateShape(
        end_of_turn=ends.group(),
        surplus_prompt=after_prompt[header:],
        trailer=after_last[max(stays, ends.end()) :],
        arguments_as_text=arguments_as_text,
        accepts=_accepted(template, arguments_as_text),
    )


def _between(text: str, left: str, right: str) -> str:
    return text[text.index(left) + len(left) : text.index(right)]


_USER, _END = Message("user", "u"), Message("assistant", "a")
_CALL = Message("assistant", "", tool_calls=(ToolCall(sentinel(1), {sentinel(4): True}, id="a1b2c3d4e"),))
_RESULT = Message("tool", sentinel(3), tool_call_id="a1b2c3d4e", name="f")


def _writes_call(template: ChatTemplate, *, as_text: bool) -> bool:
    """Whether a tool call comes out with its arguments as JSON; an object that is printed comes out as Python's."""
    messages = (_USER, _CALL, _RESULT, _END)
    try:
        text = template.render([message.for_template(arguments_as_text=as_text) for message in messages])
    except TemplateRefused:
        return False
    return sentinel(1) in text and f'"{sentinel(4)}"' in text


def _accepted(template: ChatTemplate, arguments_as_text: bool) -> tuple[str, ...]:
    one, two, three = (sentinel(number) for number in range(1, 4))
    tool = {
        "type": "function",
        "function": {"name": one, "description": two, "parameters": {"type": "object", "properties": {}}},
    }
    system, turns = Message("system", one), (_USER, _CALL, _RESULT, _END)
    trials: list[tuple[str, tuple[Message, ...], tuple[dict[str, Any], ...], str, bool]] = [
        ("system", (system, _USER, _END), (), one, False),
        ("system_prompt", (system, _USER), (), one, True),
        ("tools", (_USER,), (tool,), one, True),
        ("tool_calls", turns, (), one, False),
        ("tool", turns, (), three, False),
    ]
    found = []
    for name, messages, tools, mark, prompt in trials:
        bodies = [message.for_template(arguments_as_text=arguments_as_text) for message in messages]
        try:
            text = template.render(bodies, tools, add_generation_prompt=prompt)
        except TemplateRefused:
            continue
        if mark in text:
            found.append(name)
    return tuple(found)
