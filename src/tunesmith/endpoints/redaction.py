"""Takes what must not be kept out of a text before it is written.

The built-in kinds are patterns for what people commonly type, not proofs: they find e-mail addresses, telephone
numbers and long numbers (six digits and more in a row, and the groups that cards and accounts are written in), and
leave dates, years and most prices.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from tunesmith.records.endpoints import DataCollector

EMAIL = re.compile(r"[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}\b")
PHONE = re.compile(
    r"""(?<![\w.])
    (?: \+\d{1,3}[ ./-]?(?:\(\d{1,5}\)[ ./-]?)? (?:\d{1,5}[ ./-]?){1,5}\d{2,5}    # +44 20 7946 0958
      | \(\d{2,5}\)[ ./-]?\d{2,5}(?:[ ./-]?\d{2,5}){0,3}                         # (020) 7946 0958
      | 0\d{1,4}[ ./-]\d{2,5}(?:[ ./-]?\d{2,5}){1,3}                             # 020 7946 0958
      | \d{3}[ .-]\d{3}[ .-]\d{4}                                                # 555-123-4567
      | 0\d{8,12}
    )(?!\w)""",
    re.VERBOSE,
)
NUMBER = re.compile(
    r"""(?<![\w.,])
    (?: \d{6,40}
      | \d{4}(?:[ -]\d{4}){2,5}(?:[ -]\d{1,4})?    # cards, bank accounts in fours
      | \d{4}[ -]\d{6}[ -]\d{5}
      | \d{3}-\d{2}-\d{4}
    )(?!\w)""",
    re.VERBOSE,
)

_BUILT_IN = {"email": (EMAIL, "[EMAIL]"), "phone": (PHONE, "[PHONE]"), "number": (NUMBER, "[NUMBER]")}
"""In the order they are applied: an address is found before the number inside it."""


class Redactor:
    """Replaces matches by a word in brackets. Built once for each setting (``redactor_of``)."""

    def __init__(self, kinds: Sequence[str], patterns: Sequence[str]) -> None:
        self._rules = [(re.compile(pattern), "[REDACTED]") for pattern in patterns]
        self._rules += [_BUILT_IN[kind] for kind in _BUILT_IN if kind in kinds]

    def text(self, text: str) -> str:
        """``text`` without what matches."""
        for pattern, word in self._rules:
            text = pattern.sub(word, text)
        return text

    def value(self, value: Any) -> Any:
        """``value`` with every text in it (not the names of fields) redacted."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {name: self.value(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(item) for item in value]
        return value

    def messages(self, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Messages in OpenAI's shape, redacted; roles and the ids of tool calls are kept."""
        return [
            {name: value if name in ("role", "tool_call_id") else self._part(value) for name, value in message.items()}
            for message in messages
        ]

    def _part(self, value: Any) -> Any:
        if not isinstance(value, list):
            return self.value(value)
        parts = []
        for item in value:  # tool calls: the id ties a call to its answer
            cleaned = self.value(item)
            if isinstance(item, Mapping) and "id" in item:
                cleaned["id"] = item["id"]
            parts.append(cleaned)
        return parts


def redactor_of(collector: DataCollector) -> Redactor:
    """The redactor for a deployment's settings."""
    return _redactor(collector.redact, collector.redact_patterns)


@lru_cache(maxsize=64)
def _redactor(kinds: tuple[str, ...], patterns: tuple[str, ...]) -> Redactor:
    return Redactor(kinds, patterns)
