"""A conversation as text and as ids, with the places that carry loss: the values that ``tokens.py`` makes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tunesmith.chat.spans import Method, TextSpan

LossOn = Literal["assistant", "last_assistant", "all"]
"""Which turns carry loss; a message's own ``train`` wins over it."""


@dataclass(frozen=True, slots=True)
class TokenSpan:
    """Tokens ``start`` to ``end`` (exclusive), written for message ``message``."""

    message: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Encoded:
    """A conversation as ids."""

    ids: list[int]
    spans: tuple[TokenSpan, ...]
    """The runs of tokens that carry loss, ascending and disjoint."""
    method: Method = "prefix"
    """How the answers were found: ``marked`` where the template is not prefix-stable; see ``spans.py``."""

    @property
    def trained(self) -> list[bool]:
        """For each id whether it carries loss."""
        flags = [False] * len(self.ids)
        for span in self.spans:
            flags[span.start : span.end] = [True] * (span.end - span.start)
        return flags

    @property
    def trained_count(self) -> int:
        """How many ids carry loss."""
        return sum(span.end - span.start for span in self.spans)


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation as text, with the spans of text that carry loss."""

    text: str
    spans: tuple[TextSpan, ...]

    @property
    def method(self) -> Method:
        """``marked`` if any span was found so."""
        return "marked" if any(span.method == "marked" for span in self.spans) else "prefix"
