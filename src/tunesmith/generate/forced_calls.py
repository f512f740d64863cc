"""Reads forced calls of tools out of an answer while they are written.

Where a call is forced a grammar holds the answer to the model's format, so whatever stands after a name is its
arguments: they are given out as they come, the name first. Where the model decides, nothing is certain before a call is
whole: see ``tool_calls``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection

from tunesmith.generate.events import ToolCallPiece
from tunesmith.generate.json_scan import JsonScan
from tunesmith.generate.tool_format import ToolFormat, new_call_id


class ForcedCallReader:
    """``push`` the text of one answer piece by piece, ``finish`` at its end; both give the pieces of calls and no text.

    An answer that ends early leaves a call with the beginning of its arguments. ``names`` are the functions one of
    which is called.
    """

    def __init__(self, form: ToolFormat, names: Collection[str]) -> None:
        self._form = form
        # As the grammar writes them: a name in JSON is escaped.
        self._names = {
            name if form.named_outside else json.dumps(name, ensure_ascii=False)[1:-1]: name for name in names
        }
        # What a name stands behind: the last letter before it, so that no name is found inside another.
        leads = "".join(re.escape(text[-1]) for text in (form.before, form.joiner) if text)
        lead = f"(?:^|[{leads}])" if leads else "^"
        any_name = "|".join(map(re.escape, sorted(self._names, key=len, reverse=True)))
        self._head = re.compile(f"{lead}({any_name}){re.escape(form.between)}(?=[{{])")
        self._held = ""
        self._scan: JsonScan | None = None
        self._given = 0
        self.count = 0
        """Calls begun so far."""

    def push(self, text: str) -> tuple[str, list[ToolCallPiece]]:
        """Take text."""
        self._held += text
        pieces: list[ToolCallPiece] = []
        while True:
            if self._scan is None:
                head = self._head.search(self._held)
                if head is None:
                    return "", pieces
                pieces.append(
                    ToolCallPiece(self.count, "", new_call_id(self._form.id_length), self._names[head.group(1)])
                )
                self.count += 1
                self._held, self._given = self._held[head.end() :], 0
                self._scan = JsonScan()
            end = self._scan.end(self._held, 0)
            shown = self._held[self._given : end]
            if shown:
                pieces.append(ToolCallPiece(self.count - 1, shown))
            if end is None:
                self._given = len(self._held)
                return "", pieces
            self._held = self._held[end:]
            self._scan = None

    def finish(self) -> tuple[str, list[ToolCallPiece]]:
        """Nothing is held back."""
        return self.push("")
