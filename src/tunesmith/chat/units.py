"""Encoding in bulk, by remembering words: the same ids several times faster.

Byte-level BPE tokenizers first cut a text into words by a fixed pattern and encode each word alone. So a text may be
cut at some of the places where the pattern cuts anyway, each piece looked up in a dictionary, and only new pieces be
given to ``tokenizers``. Text has few different words: nearly all are found.

A *unit* is such a piece. It ends where every known pattern is certain to cut, whatever follows:

- after a run of ASCII letters, if an ASCII character other than a letter or an apostrophe follows;
- before a space that an ASCII letter follows, if a printable ASCII character stands before it;
- around the tokenizer's added tokens.

``UnitEncoder.of`` makes one only for tokenizers whose parts are all known to keep to this; everything else is encoded
whole. Tests hold the ids against those of ``tokenizers`` itself.
"""

from __future__ import annotations

import bisect
import json
import re
from collections.abc import Mapping, Sequence
from itertools import accumulate, chain
from typing import Any, Protocol

from tokenizers import AddedToken, Encoding, Tokenizer

_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_REST = r"\s*[\r\n]+|\s+(?!\S)|\s+"
KNOWN_PATTERNS = frozenset(
    {
        # Llama 3, and Qwen 2 with its single digits
        rf"{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_REST}",
        rf"{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_REST}",
        # the pattern of o200k, which Phi-4-mini has
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_ENDINGS}?|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_ENDINGS}?"
        rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_REST}",
    }
)
"""Patterns, beside that of GPT-2 which ``ByteLevel`` has built in, that cut wherever a unit ends."""

_OPEN = r"['\x80-\U0010ffff]"
"""What may join the letters before it."""
_WORD = rf" ?[A-Za-z]++(?!{_OPEN})"
_OTHER = rf"[\s\S](?:[^A-Za-z ]++|[A-Za-z]++(?={_OPEN})|(?<![\x21-\x7e]) | (?![A-Za-z]))*+[A-Za-z]*+"

_SPACES = r"[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]*"
"""What an added token swallows that is greedy on that side: Unicode's White_Space, which is not quite Python's."""

_REMEMBERED = 250_000
"""Units; about 60 MB. When there are more, all are forgotten."""
_LONGEST_REMEMBERED = 64
"""Characters of a unit that is worth it."""


class Places(Protocol):
    """Where the tokens of a text stand in it."""

    @property
    def ids(self) -> list[int]:
        """The tokens."""

    def token_at(self, position: int) -> int:
        """The first token that stands for a character at or after ``position``; the number of tokens if there is
        none.
        """

    def begin(self, token: int) -> int:
        """The first character that a token stands for."""


class WholePlaces:
    """Places of a text that was encoded whole; ``size`` is its length in characters."""

    def __init__(self, encoding: Encoding, size: int) -> None:
        self._encoding = encoding
        self._size = size
        self.ids: list[int] = encoding.ids

    def token_at(self, position: int) -> int:
        """See ``Places``."""
        while position < self._size:
            token: int | None = self._encoding.char_to_token(position)
            if token is not None:
                return token
            position += 1  # a character that the tokenizer's normaliser left out
        return len(self.ids)

    def begin(self, token: int) -> int:
        """See ``Places``."""
        place = self._encoding.token_to_chars(token)
        return 0 if place is None else int(place[0])


class UnitPlaces:
    """Places of a text that was encoded by units."""

    def __init__(self, encoder: UnitEncoder, units: list[str], ids_of_units: list[list[int]]) -> None:
        self._encoder = encoder
        self._units = units
        self._ids_of_units = ids_of_units
        self._characters: list[int] | None = None
        self._tokens: list[int] = []
        self.ids: list[int] = list(chain.from_iterable(ids_of_units))

    def _starts(self) -> tuple[list[int], list[int]]:
        """Where each unit begins, in characters and in tokens."""
        if self._characters is None:
            self._characters = list(accumulate(map(len, self._units), initial=0))
            self._tokens = list(accumulate(map(len, self._ids_of_units), initial=0))
        return self._characters, self._tokens

    def token_at(self, position: int) -> int:
        """See ``Places``."""
        characters, tokens = self._starts()
        if position >= characters[-1]:
            return len(self.ids)
        unit = bisect.bisect_right(characters, position) - 1
        inside = position - characters[unit]
        return tokens[unit] + (self._encoder.places(self._units[unit]).token_at(inside) if inside else 0)

    def begin(self, token: int) -> int:
        """See ``Places``."""
        characters, tokens = self._starts()
        unit = bisect.bisect_right(tokens, token) - 1
        inside = token - tokens[unit]
        return characters[unit] + (self._encoder.places(self._units[unit]).begin(inside) if inside else 0)


class UnitEncoder:
    """Encodes texts by units; see the module's docstring."""

    def __init__(self, tokenizer: Tokenizer, added_tokens: Sequence[AddedToken]) -> None:
        self._tokenizer = tokenizer
        longest_first = sorted(added_tokens, key=lambda token: len(token.content), reverse=True)
        patterns = [
            (_SPACES if token.lstrip else "") + re.escape(token.content) + (_SPACES if token.rstrip else "")
            for token in longest_first
        ]
        self._split = re.compile(f"({'|'.join(patterns)})").split if patterns else None
        self._units = re.compile(f"{_WORD}|{_OTHER}").findall
        self._known: dict[str, list[int]] = {}

    @classmethod
    def of(cls, tokenizer: Tokenizer, content: bytes) -> UnitEncoder | None:
        """An encoder for a tokenizer read from ``content``; ``None`` if it is of a kind that is not known to allow
        it.
        """
        body = json.loads(content)
        added = list(tokenizer.get_added_tokens_decoder().values())
        if any(token.single_word or token.normalized for token in added) or not _byte_level_bpe(body):
            return None
        return cls(tokenizer, added)

    def cut(self, text: str) -> list[str]:
        """The units of a text; together they are the text."""
        if self._split is None:
            return self._units(text)
        units: list[str] = []
        for index, part in enumerate(self._split(text)):
            if index % 2:
                units.append(part)  # an added token
            elif part:
                units += self._units(part)
        return units

    def encode(self, texts: Sequence[str]) -> list[UnitPlaces]:
        """Encode texts."""
        cut = [self.cut(text) for text in texts]
        known = self._known
        new = {unit for units in cut for unit in units}
        new.difference_update(known)
        if new:
            listed = list(new)
            found = self._tokenizer.encode_batch_fast(listed, add_special_tokens=False)
            if len(known) + len(listed) > _REMEMBERED:
                known = self._known = {unit: known[unit] for units in cut for unit in units if unit in known}
            known.update((unit, encoding.ids) for unit, encoding in zip(listed, found, strict=True))
        places = [UnitPlaces(self, units, [known[unit] for unit in units]) for units in cut]
        for unit in new:
            if len(unit) > _LONGEST_REMEMBERED:
                known.pop(unit, None)
        return places

    def places(self, unit: str) -> WholePlaces:
        """Where the tokens of one unit stand in it."""
        return WholePlaces(self._tokenizer.encode(unit, add_special_tokens=False), len(unit))


def _byte_level_bpe(body: Mapping[str, Any]) -> bool:
    model = body["model"]
    return (
        model["type"] == "BPE"
        and not any(model.get(name) for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"))
        and (body["normalizer"] is None or body["normalizer"]["type"] == "NFC")
        and _cuts_as_known(body["pre_tokenizer"])
    )


def _cuts_as_known(part: Mapping[str, Any] | None) -> bool:
    if part is None:
        return False
    parts = part["pretokenizers"] if part["type"] == "Sequence" else [part]
    *first, last = parts
    if last["type"] != "ByteLevel" or last["add_prefix_space"]:
        return False
    if last["use_regex"]:
        return all(item["type"] == "Digits" for item in first)
    if len(first) != 1 or first[0]["type"] != "Split":
        return False
    split = first[0]
    known = split["pattern"].get("Regex") in KNOWN_PATTERNS
    return known and split["behavior"] == "Isolated" and not split["invert"]
