"""Stop strings and whole characters."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.generate.conftest import Packages
from tunesmith.chat.stream import StreamDecoder
from tunesmith.generate.text import TextAssembler


def letters(ids: list[int]) -> str:
    return "".join(map(chr, ids))


def run(text: str, *stop: str) -> tuple[list[str], str | None]:
    """What is shown after each character, as one text, and the stop string met."""
    assembler = TextAssembler(StreamDecoder(letters), stop)
    shown = []
    for character in text:
        shown.append(assembler.push(ord(character)))
        if assembler.stopped is not None:
            break
    shown.append(assembler.finish())
    return list(itertools.accumulate(shown)), assembler.stopped


@pytest.mark.parametrize(
    ("text", "stop", "shown", "met"),
    [
        ("hello", (), "hello", None),
        ("helloENDmore", ("END",), "hello", "END"),
        ("helloENmore", ("END",), "helloENmore", None),
        ("helloEN", ("END",), "helloEN", None),
        ("aaab", ("aab",), "a", "aab"),
        ("abcabd", ("abd",), "abc", "abd"),
        ("xyz", ("z", "yz"), "x", "yz"),
        ("END", ("END",), "", "END"),
        ("a\n\nb", ("\n\n",), "a", "\n\n"),
    ],
)
def test_text_ends_before_the_stop_string(text: str, stop: tuple[str, ...], shown: str, met: str | None) -> None:
    found, stopped = run(text, *stop)
    assert (found[-1], stopped) == (shown, met)


def test_what_is_held_back_counts_as_decoded() -> None:
    assembler = TextAssembler(StreamDecoder(letters), ("ENDE",))
    begins = []
    for character in "aENDb":
        begins.append(assembler.decoded)
        assembler.push(ord(character))
    assert begins == [0, 1, 2, 3, 4]


@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3))
def test_no_part_of_a_stop_string_is_ever_shown(text: str, stops: list[str]) -> None:
    found, met = run(text, *stops)
    # The first place where a whole stop string is complete as characters come ends the text before its beginning.
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    if not ends:
        assert (found[-1], met) == (text, None)
        return
    earliest = min(end for end, _ in ends)
    assert found[-1] == text[: min(begin for end, begin in ends if end == earliest)]
    assert text.startswith(found[-1])
    assert all(found[-1].startswith(part) for part in found)


def test_characters_are_whole(packages: Packages) -> None:
    tokenizer = packages("llama").tokenizer()
    text = "Grüße 👋🏽 こんにちは"
    ids = tokenizer.encode_text(text)
    assembler = TextAssembler(tokenizer.stream_decoder(), ("は",))
    shown = [assembler.push(token) for token in ids]
    assert "�" not in "".join(shown)
    assert "".join(shown) + assembler.finish() == text[:-1]
    cut = TextAssembler(tokenizer.stream_decoder())
    wave = tokenizer.encode_text("👋")
    assert len(wave) > 1
    assert cut.push(wave[0]) == ""
    assert cut.finish() == "�"
