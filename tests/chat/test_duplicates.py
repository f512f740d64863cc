"""Duplicates are found exactly, in memory and on disk."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.chat.duplicates import DuplicateFinder, Duplicates, content_hash
from tunesmith.chat.messages import Conversation, Message, ToolCall


def slow(contents: list[int], examples: int) -> Duplicates:
    seen: dict[int, int] = {}
    pairs = []
    for place, content in enumerate(contents):
        if content in seen:
            pairs.append((place, seen[content]))
        else:
            seen[content] = place
    groups = len({first for _, first in pairs})
    return Duplicates(len(pairs), groups, tuple(pairs[:examples]))


@given(contents=st.lists(st.integers(0, 30), max_size=80), memory=st.sampled_from([1, 7, 1000]))
def test_as_a_slow_search_finds_them(contents: list[int], memory: int) -> None:
    with DuplicateFinder(rows_in_memory=memory) as finder:
        for place, content in enumerate(contents):
            digest = content_hash(Conversation((Message("user", str(content)),)))
            finder.add(digest, place)
        assert finder.result(examples=5) == slow(contents, 5)


def test_what_says_the_same() -> None:
    one = Conversation((Message("user", "q"), Message("assistant", "a")), source="x:1")
    same = Conversation((Message("user", "q"), Message("assistant", "a", train=False)), source="y:9")
    assert content_hash(one) == content_hash(same)


@pytest.mark.parametrize(
    "other",
    [
        Conversation((Message("user", "q"), Message("assistant", "b"))),
        Conversation((Message("user", "q"), Message("user", "a"))),
        Conversation((Message("user", "qassistant"), Message("assistant", "a"))),
        Conversation((Message("user", "q"), Message("assistant", "a", tool_calls=(ToolCall("f", {}),)))),
        Conversation((Message("user", "q"), Message("assistant", "a", reasoning_content="t"))),
        Conversation((Message("user", "q"), Message("assistant", "a")), tools=({"type": "function"},)),
    ],
)
def test_what_says_something_else(other: Conversation) -> None:
    one = Conversation((Message("user", "q"), Message("assistant", "a")))
    assert content_hash(one) != content_hash(other)
    assert len(content_hash(one)) == 16
