"""Shortening by whole exchanges."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.chat.messages import Conversation, Message
from tunesmith.chat.turns import exchanges, shorten, without_oldest


def talk(roles: str) -> Conversation:
    """One message a letter: s, u, a, t."""
    names = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    return Conversation(tuple(Message(names[letter], f"{letter}{index}") for index, letter in enumerate(roles)))


def letters(conversation: Conversation) -> str:
    return "".join(message.content[0] for message in conversation.messages)


@pytest.mark.parametrize(
    ("roles", "ranges"),
    [
        ("ua", [(0, 2)]),
        ("suaua", [(1, 3), (3, 5)]),
        ("suatauua", [(1, 5), (5, 8)]),
        ("saua", [(1, 4)]),
        ("auaua", [(0, 3), (3, 5)]),
        ("sa", [(1, 2)]),
        ("s", []),
    ],
)
def test_exchanges(roles: str, ranges: list[tuple[int, int]]) -> None:
    assert exchanges(talk(roles)) == ranges


def test_the_system_message_stays_and_the_oldest_go() -> None:
    shorter = without_oldest(talk("suauatata"), 1)
    assert [message.content for message in shorter.messages] == ["s0", "u3", "a4", "t5", "a6", "t7", "a8"]


@given(
    roles=st.lists(st.sampled_from(["ua", "uata", "uua", "ua"]), min_size=1, max_size=7).map("".join),
    system=st.sampled_from(["", "s"]),
    limit=st.integers(1, 30),
    guess=st.integers(1, 9),
)
def test_as_few_as_will_do_are_left_out(roles: str, system: str, limit: int, guess: int) -> None:
    conversation = talk(system + roles)

    def measure(shorter: Conversation) -> int:
        return len(shorter.messages)

    count = len(exchanges(conversation))
    expected = next(
        (
            (without_oldest(conversation, n), n)
            for n in range(1, count)
            if measure(without_oldest(conversation, n)) <= limit
        ),
        None,
    )
    assert shorten(conversation, limit, measure, guess=guess) == expected
    if expected is not None:
        assert letters(expected[0]).endswith("a")
