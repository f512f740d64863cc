"""Ids of one answer to text: whole characters, up to a stop string.

Text that might be the beginning of a stop string is held back until it is clear that it is not, so a reader never sees
any part of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tunesmith.chat.stream import StreamDecoder


class TextAssembler:
    """``push`` the ids of an answer one by one, ``finish`` at its end. ``stopped`` names the stop string that was
    met.
    """

    def __init__(self, decoder: StreamDecoder, stop: Sequence[str] = ()) -> None:
        self._decoder = decoder
        self._stop = tuple(stop)
        self._held = ""
        self.stopped: str | None = None
        self.decoded = 0
        """Characters of all the text so far, with what is held back: where the next token begins."""

    def push(self, token_id: int) -> str:
        """Take an id; the text that may be shown now, often none."""
        return self._take(self._decoder.push(token_id))

    def finish(self) -> str:
        """The text that was held back. An unfinished character shows as U+FFFD."""
        if self.stopped is not None:
            return ""
        text = self._take(self._decoder.flush()) + self._held
        self._held = ""
        return text

    def _take(self, delta: str) -> str:
        self.decoded += len(delta)
        if not delta or self.stopped is not None:
            return ""
        if not self._stop:
            return delta
        text = self._held + delta
        found = [(at, -len(stop), stop) for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:  # the first to begin; of those the longest
            at, _, self.stopped = min(found)
            self._held = ""
            return text[:at]
        hold = max(overlap(text, stop) for stop in self._stop)
        self._held = text[len(text) - hold :]
        return text[: len(text) - hold]


def overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that begins ``stop`` and is not all of it."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
