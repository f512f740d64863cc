"""Where a JSON value ends in text that is still growing."""

from __future__ import annotations


class JsonScan:
    """Finds where an object or a list ends, going on where it stopped when the text has grown."""

    def __init__(self) -> None:
        self._position = 0
        self._depth = 0
        self._inside = False
        self._escaped = False

    def end(self, text: str, start: int) -> int | None:
        """The position after the JSON value that begins at ``start``; None while it has no end."""
        for position in range(max(start, self._position), len(text)):
            letter = text[position]
            if self._inside:
                if self._escaped:
                    self._escaped = False
                elif letter == "\\":
                    self._escaped = True
                elif letter == '"':
                    self._inside = False
            elif letter == '"':
                self._inside = True
            elif letter in "{[":
                self._depth += 1
            elif letter in "}]":
                self._depth -= 1
                if self._depth == 0:
                    return position + 1
        self._position = len(text)
        return None
