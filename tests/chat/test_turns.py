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
    limit=st.integers(1, 40),
    told=st.booleans(),
    off=st.integers(-16, 16),
)
def test_as_few_as_will_do_are_left_out(roles: str, system: str, limit: int, told: bool, off: int) -> None:
    conversation = talk(system + roles)
    ranges = exchanges(conversation)
    measured = []

    def measure(count: int) -> int:
        measured.append(count)
        return len(without_oldest(conversation, count).messages)

    fitting = [n for n in range(1, len(ranges)) if len(without_oldest(conversation, n).messages) <= limit]
    # The places are off by a little, and by the system message.
    ends = [end + off * (index % 2) for index, (_, end) in enumerate(ranges)] if told else None
    found = shorten(conversation, limit, measure, length=len(conversation.messages), ends=ends)
    assert found == (fitting[0] if fitting else None)
    assert len(measured) == len(set(measured))


def test_two_measurements_settle_it_where_the_places_are_known() -> None:
    """Ten exchanges of 100 tokens after 50 of the system; the texts are told by their lengths alone."""
    conversation = talk("s" + "ua" * 10)
    ends = [50 + 100 * n for n in range(1, 11)]
    measured = []

    def measure(count: int) -> int:
        measured.append(count)
        return 50 + 100 * (10 - count)

    assert shorten(conversation, 420, measure, length=1050, ends=ends) == 7
    assert measured == [6, 7]  # the first told how long the system message is
    measured.clear()
    assert shorten(conversation, 149, measure, length=1050, ends=ends) is None
    assert measured == [9]
