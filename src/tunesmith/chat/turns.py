"""Making a conversation shorter by whole turns: the oldest go first, the system message stays, answers stay whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from tunesmith.chat.messages import Conversation


def exchanges(conversation: Conversation) -> list[tuple[int, int]]:
    """Ranges of messages that belong together: a user's message with all that follows up to the next one.

    The system messages at the beginning are in none; what an assistant says before the first user belongs to the first.
    """
    messages = conversation.messages
    begin = 0
    while begin < len(messages) and messages[begin].role == "system":
        begin += 1
    starts = [
        index
        for index in range(begin, len(messages))
        if messages[index].role == "user" and (index == begin or messages[index - 1].role != "user")
    ]
    starts = [begin, *starts[1:]]
    ends = [*starts[1:], len(messages)]
    return [(start, end) for start, end in zip(starts, ends, strict=True) if end > start]


def without_oldest(conversation: Conversation, count: int) -> Conversation:
    """The conversation without its ``count`` oldest exchanges."""
    ranges = exchanges(conversation)
    system_end = ranges[0][0] if ranges else 0
    keep_from = ranges[count][0]
    return replace(conversation, messages=conversation.messages[:system_end] + conversation.messages[keep_from:])


def shorten(
    conversation: Conversation,
    limit: int,
    measure: Callable[[int], int],
    *,
    length: int,
    ends: Sequence[int] | None = None,
) -> int | None:
    """How few of the oldest exchanges have to go for the conversation to fit ``limit``; ``None`` if the newest alone
    does not.

    ``measure`` tells the length without so many of them; each call is dear. ``length`` is that of the whole. ``ends``
    are the places in it where the exchanges end: with them, one or two measurements settle it.
    """
    most = len(exchanges(conversation)) - 1
    low, high = 1, most  # fewer than ``low`` do not do; ``best`` does
    best: int | None = None
    # What is left after so many exchanges is known up to a constant, the part before the first.
    rest = [length - end for end in (ends or ())]
    known = len(rest) == most + 1
    count = next((n for n in range(1, most + 1) if known and rest[n - 1] <= limit), 1)
    while low <= high:
        count = min(max(count, low), high)
        found = measure(count)
        if found <= limit:
            best, high = count, count - 1
        else:
            low = count + 1
        if known:
            error = found - rest[count - 1]
            fits = [n for n in range(low, high + 1) if rest[n - 1] + error <= limit + _SLACK]
            if best is not None and not fits:
                break
            count = fits[0] if fits else high
        else:
            count = high if found <= limit else low
    return best


_SLACK = 32
"""Tokens by which a length that was told from another may be off."""
