"""Making a conversation shorter by whole turns: the oldest go first, the system message stays, answers stay whole."""

from __future__ import annotations

from collections.abc import Callable
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
    conversation: Conversation, limit: int, measure: Callable[[Conversation], int], *, guess: int = 1
) -> tuple[Conversation, int] | None:
    """Leave out as few of the oldest exchanges as make the conversation fit ``limit`` by ``measure``.

    ``guess`` is where to begin looking. Returns the shorter conversation and how many exchanges it lost, or ``None``
    if even the newest exchange alone is too long.
    """
    most = len(exchanges(conversation)) - 1
    if most < 1:
        return None
    low, high = 1, most
    count = min(max(guess, low), high)
    best: tuple[Conversation, int] | None = None
    while low <= high:
        shorter = without_oldest(conversation, count)
        if measure(shorter) <= limit:
            best = (shorter, count)
            high = count - 1
            count = high  # the guess is nearly always right: its neighbour settles it
        else:
            low = count + 1
            count = low
    return best
