"""Reads calls of tools out of the text of an answer, as it comes.

Text that is no call of a known function stays text, whatever it looks like: a mark that leads to nothing, JSON that
does not parse, a name that was not offered. A call is given out once it is whole, so it is never taken back; one that
is forced is given out as it is written (``forced_calls``).
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any, cast

from tunesmith.generate.events import GenerateEvent, ToolCallPiece
from tunesmith.generate.forced_calls import ForcedCallReader
from tunesmith.generate.json_scan import JsonScan
from tunesmith.generate.request import GenerateRequest
from tunesmith.generate.text import overlap
from tunesmith.generate.tool_format import ToolFormat, new_call_id

_BETWEEN = "; \t\r\n"
"""What may stand between two calls that are bare JSON."""


class ToolCallReader:
    """``push`` the text of one answer piece by piece, ``finish`` at its end.

    Both give the text that is no call, and the calls that became whole. ``names`` are the functions that were offered.
    """

    def __init__(self, form: ToolFormat, names: Collection[str]) -> None:
        self._form = form
        self._names = frozenset(names)
        self._opening = form.opening
        self._held = ""
        self._inside = not self._opening  # bare JSON: the answer itself may be a call
        self._after = False  # a call is read: its closing mark may follow
        self._scan = JsonScan()
        self.count = 0
        """Calls found so far."""

    def push(self, text: str) -> tuple[str, list[ToolCallPiece]]:
        """Take text."""
        self._held += text
        return self._read(last=False)

    def finish(self) -> tuple[str, list[ToolCallPiece]]:
        """What was held back."""
        return self._read(last=True)

    def _read(self, *, last: bool) -> tuple[str, list[ToolCallPiece]]:
        said = ""
        calls: list[ToolCallPiece] = []
        while True:
            if self._after and not self._leave(last):
                break
            if not self._inside:
                said += self._until_opening(last)
                if not self._inside:
                    break
            found = self._call(last)
            if found is None:  # not whole yet
                break
            length, made = found
            self._scan = JsonScan()
            if made:
                calls += made
                self._held = self._held[length:]
                self._inside, self._after = False, True
            else:  # no call after all: it is text up to where it stopped looking like one
                said += self._give(length)
                self._inside = False
        if last:
            said += self._held
            self._held = ""
        if self.count and not said.strip():
            # White space around calls is the format's.
            said = ""
        return said, calls

    def _until_opening(self, last: bool) -> str:
        mark = self._opening
        if not mark:
            return self._give(len(self._held))
        at = self._held.find(mark)
        if at >= 0:
            self._inside = True
            return self._give(len(self._held[:at].rstrip()))
        if last:
            return ""
        hold = overlap(self._held, mark)
        kept = self._held[len(self._held) - hold :]
        # White space before a mark belongs to the call: it waits with what may be one.
        text = self._held[: len(self._held) - hold]
        bare = text.rstrip()
        self._held = text[len(bare) :] + kept
        return bare

    def _give(self, length: int) -> str:
        said, self._held = self._held[:length], self._held[length:]
        return said

    def _leave(self, last: bool) -> bool:
        """Pass over the closing mark. False while more text is needed to tell."""
        closing = self._form.closing
        rest = self._held.lstrip()
        if not rest and not last:
            return False
        if closing:
            if rest.startswith(closing):
                self._held = rest[len(closing) :]
            elif closing.startswith(rest):
                if not last:
                    return False
                self._held = ""
        elif not self._opening:
            rest = rest.lstrip(_BETWEEN)
            if not rest and not last:
                return False
            self._inside = rest.startswith("{")
        self._after = False
        return True

    def _call(self, last: bool) -> tuple[int, list[ToolCallPiece]] | None:
        """The call at the beginning of what is held: (its length, the calls), (length, []) for no call, None while it
        may become one.
        """
        text = self._held
        start = len(text) - len(text.lstrip(None if self._opening else _BETWEEN)) + len(self._opening)
        body = text[start:]
        stripped = body.lstrip()
        if not stripped:
            return (len(text), []) if last else None
        name = None
        if self._form.named_outside:
            brace = body.find("{")
            if brace < 0:
                # A name is short: what goes on without its arguments is text.
                return (len(text), []) if last or len(body) > 256 else None
            head = body[:brace].strip()
            name = head.removesuffix(self._form.middle).strip()
            at = start + brace
        elif stripped[0] in "{[":
            at = start + len(body) - len(stripped)
        else:
            return max(start, 1), []
        end = self._scan.end(text, at)
        if end is None:
            return (len(text), []) if last else None
        return end, self._made(text[at:end], name)

    def _made(self, text: str, name: str | None) -> list[ToolCallPiece]:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return []
        if name is not None:
            value = {"name": name, "arguments": value}
        items = value if isinstance(value, list) else [value]
        pairs = [self._pair(item) for item in items]
        if not pairs or any(pair is None for pair in pairs):
            return []
        made = []
        for pair in pairs:
            assert pair is not None
            made.append(ToolCallPiece(self.count, pair[1], new_call_id(self._form.id_length), pair[0]))
            self.count += 1
        return made

    def _pair(self, item: Any) -> tuple[str, str] | None:
        """(name, arguments as JSON text) of one call."""
        if not isinstance(item, Mapping) or item.get("name") not in self._names:
            return None
        arguments = item.get("arguments", item.get("parameters"))
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments)
            except (ValueError, RecursionError):
                return None
        if not isinstance(arguments, Mapping):
            return None
        return item["name"], json.dumps(arguments, ensure_ascii=False)


async def read_tool_calls(
    events: AsyncIterator[GenerateEvent], request: GenerateRequest, form: ToolFormat
) -> AsyncIterator[GenerateEvent]:
    """``events`` of ``request`` with the calls taken out of the text; a turn that calls ends as ``tool_calls``."""
    forced = request.forced_tools
    names = [str(tool["function"]["name"]) for tool in forced or request.tools]
    kind = ForcedCallReader if forced else ToolCallReader
    readers = [kind(form, names) for _ in range(request.n)]
    async with aclosing(cast("Any", events)):
        async for event in events:
            reader = readers[event.index]
            text, calls = reader.push(event.text)
            reason = event.finish_reason
            if reason is not None:
                rest, more = reader.finish()
                text, calls = text + rest, [*calls, *more]
                if reason == "stop" and reader.count:
                    reason = "tool_calls"
            yield replace(event, text=text, tool_calls=tuple(calls), finish_reason=reason)
