"""Ids to text, one by one.

A character may be made of several tokens, and what a token looks like may depend on the one before it (a leading
space). So a window of recent ids is decoded with and without the new one, and the difference is given out once it is
whole characters.
"""

from __future__ import annotations

from collections.abc import Callable

_REPLACEMENT = "\ufffd"
_PENDING_AT_MOST = 64
"""Ids held back while they do not make a whole character; more than any character needs, so what is left is really
broken.
"""


class StreamDecoder:
    """``push(id)`` gives the text that became final; ``flush()`` gives the rest. Their concatenation is the decoding
    of all ids.
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._given = 0  # how many ids of the window have been given out as text
        self._text = ""  # their text

    def push(self, id: int) -> str:
        """Take an id; give the text that is new and final, often an empty string."""
        self._ids.append(id)
        text = self._decode(self._ids)
        pending = len(self._ids) - self._given
        if text.endswith(_REPLACEMENT) and pending <= _PENDING_AT_MOST:
            return ""
        if len(text) <= len(self._text) and pending <= _PENDING_AT_MOST:
            return ""  # a special token, or a byte that shows only with the next
        delta = text[len(self._text) :]
        self._ids = self._ids[self._given :]
        self._given = len(self._ids)
        self._text = self._decode(self._ids)
        return delta

    def flush(self) -> str:
        """Give what was held back: an unfinished character shows as U+FFFD."""
        delta = self._decode(self._ids)[len(self._text) :]
        self._ids, self._given, self._text = [], 0, ""
        return delta
