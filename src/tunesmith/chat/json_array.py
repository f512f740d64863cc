"""Objects of a JSON array, one by one, from a window of text that is as long as the longest object and no longer.

The standard library's decoder reads one value at a position of a text and says where it ends; this module keeps the
text moving. It also takes one object alone, and objects one after another without an array (as ``jq`` prints them).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import IO, Any

from tunesmith.chat.sniffing import BOM, encoding_fault
from tunesmith.errors import Fault

_CHUNK = 1 << 20
_ONE_ROW = ("DuplicateKey", "InvalidText")
"""Faults of one object, behind which the next can be found."""
_WHITE_SPACE = re.compile(r"[ \t\r\n]+")


class KeyTwice(Exception):
    """An object has a key twice."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An ``object_pairs_hook`` that raises ``KeyTwice``."""
    data = dict(pairs)
    if len(data) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise KeyTwice(key)
            seen.add(key)
    return data


class JsonArray:
    """Reads ``file``; iterate for ``(line, value or Fault)``. A fault of the syntax is the last
    item: what follows it cannot be found.

    ``place`` makes a place of a line; ``advance`` is told how many bytes were read.
    """

    def __init__(
        self, file: IO[bytes], *, place: Callable[[int], str], max_bytes: int, advance: Callable[[int], None]
    ) -> None:
        self._file = file
        self._place = place
        self._max_bytes = max_bytes
        self._advance = advance
        self._undecoded = b""
        self._text = ""
        self._position = 0
        self._counted = 0
        self._lines = 1
        self._ended = False
        self._strict = json.JSONDecoder(object_pairs_hook=no_key_twice)
        self._lenient = json.JSONDecoder()

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        if (fault := self._next_token()) is not None:
            yield self._line, fault
            return
        array = self._text[self._position] == "["
        if array:
            self._position += 1
        first = True
        while True:
            if (fault := self._next_token()) is not None:
                yield self._line, fault
                return
            if self._position >= len(self._text):
                if array or first:
                    yield self._line, self._cut("the array is not closed")
                return
            mark = self._text[self._position]
            if array and mark == "]":
                self._position += 1
                yield from self._after()
                return
            if array and not first:
                if mark != ",":
                    yield self._line, self._wrong("a comma is missing between two objects")
                    return
                self._position += 1
                if (fault := self._next_token()) is not None:
                    yield self._line, fault
                    return
            first = False
            line = self._line
            value = self._value()
            yield line, value
            if isinstance(value, Fault) and value.code not in _ONE_ROW:
                return

    @property
    def _line(self) -> int:
        """The line of the position, from 1."""
        self._lines += self._text.count("\n", self._counted, self._position)
        self._counted = self._position
        return self._lines

    def _value(self) -> Any:
        """The value at the position, or why there is none."""
        decoder, twice = self._strict, None
        while True:
            begin = self._position
            try:
                value, end = decoder.raw_decode(self._text, begin)
            except KeyTwice as found:
                # The hook told before the object's end was known; without it, the end can be found.
                decoder, twice = self._lenient, found.key
                continue
            except RecursionError:
                return Fault("nested too deep", self._place(self._line), "InvalidJson", "one conversation an object")
            except json.JSONDecodeError as error:
                unfinished = error.msg.startswith("Unterminated") or error.pos >= len(self._text) - 16
                if unfinished and not self._ended:
                    if len(self._text) - begin > self._max_bytes:
                        return too_large(self._max_bytes, self._place(self._line))
                    if (fault_ := self._fill()) is not None:
                        return fault_
                    continue
                return self._fault(error, unfinished)
            # A number at the end of the window may go on in the next.
            if end == len(self._text) and not self._ended and not isinstance(value, dict | list | str):
                if (fault_ := self._fill()) is not None:
                    return fault_
                continue
            place = self._place(self._line)
            self._position = end
            if twice is not None:
                return key_twice(twice, place)
            if "\\ud" in self._text[begin:end] or "\\uD" in self._text[begin:end]:
                try:
                    json.dumps(value, ensure_ascii=False).encode()
                except UnicodeEncodeError:
                    message = "half of a surrogate pair (\\ud800 to \\udfff), which is no character"
                    return Fault(message, place, "InvalidText", "write the text with a JSON library")
            return value

    def _next_token(self) -> Fault | None:
        """Move to the next character that is not white space; at the end of the file the position is the end of the
        text.
        """
        while True:
            if match := _WHITE_SPACE.match(self._text, self._position):
                self._position = match.end()
            if self._position < len(self._text) or self._ended:
                return None
            if (fault := self._fill()) is not None:
                return fault

    def _fill(self) -> Fault | None:
        """Drop what was read and read on; the window at least doubles while nothing can be dropped."""
        line = self._line
        kept = self._text[self._position :]
        data = self._file.read(max(_CHUNK, len(kept)))
        self._advance(len(data))
        self._ended = not data
        if not self._text and not self._undecoded:
            data = data.removeprefix(BOM)
        data = self._undecoded + data
        self._undecoded = b""
        try:
            new = data.decode("utf-8")
        except UnicodeDecodeError as error:
            if self._ended or error.start < len(data) - 3:
                return encoding_fault(data, self._place(line + kept.count("\n") + data.count(b"\n", 0, error.start)))
            new = data[: error.start].decode("utf-8")
            self._undecoded = data[error.start :]
        self._text = kept + new
        self._position = self._counted = 0
        return None

    def _after(self) -> Iterator[tuple[int, Fault]]:
        fault = self._next_token()
        if fault is None and self._position < len(self._text):
            fault = Fault(
                "text after the end of the array",
                self._place(self._line),
                "InvalidJson",
                "one JSON array a file, or one object a line",
            )
        if fault is not None:
            yield self._line, fault

    # ── faults

    def _cut(self, message: str) -> Fault:
        return Fault(
            f"the file is cut short: {message}",
            self._place(self._line),
            "InvalidJson",
            "copy or download the file again; the rows before this place were read",
        )

    def _wrong(self, message: str) -> Fault:
        return Fault(
            f"not valid JSON: {message}; the rest of the file was not read",
            self._place(self._line),
            "InvalidJson",
            "correct the place; with one object a line (.jsonl) the rest can be checked in spite of one faulty row",
        )

    def _fault(self, error: json.JSONDecodeError, unfinished: bool) -> Fault:
        if unfinished and self._ended:
            return self._cut(error.msg)
        line = self._line + self._text.count("\n", self._position, error.pos)
        column = error.pos - self._text.rfind("\n", 0, error.pos)
        fault = self._wrong(f"{error.msg.removesuffix(' at')} at column {column}")
        return Fault(fault.message, self._place(line), fault.code, fault.way_out)


def key_twice(key: str, place: str) -> Fault:
    """The fault of an object that has a key twice: one reader takes the first, another the last."""
    return Fault(f"an object has the key {key!r} twice", place, "DuplicateKey", "keep one of them")


def too_large(max_bytes: int, place: str) -> Fault:
    """The fault of a row that is longer than a row may be."""
    return Fault(
        f"a row of more than {max_bytes / (1024 * 1024):g} MiB",
        place,
        "RowTooLarge",
        "one conversation a row; is the file one JSON array with the extension .jsonl?",
    )
