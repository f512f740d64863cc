"""What is taken out of collected texts, and what is left."""

from __future__ import annotations

from typing import Any

import pytest

from tunesmith.endpoints.redaction import redactor_of
from tunesmith.errors import ValidationFailed
from tunesmith.records.endpoints import DataCollector
from tunesmith.records.validation import parse


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("write to ann.lee+x@mail.example.co.uk, please", "write to [EMAIL], please"),
        ("call +44 20 7946 0958 today", "call [PHONE] today"),
        ("call (020) 7946 0958 today", "call [PHONE] today"),
        ("call 020 7946 0958.", "call [PHONE]."),
        ("call 555-123-4567 now", "call [PHONE] now"),
        ("card 4111 1111 1111 1111, thanks", "card [NUMBER], thanks"),
        ("order 123456789", "order [NUMBER]"),
        ("social 123-45-6789", "social [NUMBER]"),
        (
            "on 2024-11-26 at 12:30 it cost 1,250.99 for 300 people",
            "on 2024-11-26 at 12:30 it cost 1,250.99 for 300 people",
        ),
        ("Python 3.11.4, 16 GB, 5 of 12", "Python 3.11.4, 16 GB, 5 of 12"),
        ("a@b is no address", "a@b is no address"),
    ],
)
def test_built_in_kinds(text: str, expected: str) -> None:
    assert redactor_of(DataCollector()).text(text) == expected


def test_only_the_chosen_kinds_and_own_patterns() -> None:
    redact = redactor_of(DataCollector(redact=("phone",), redact_patterns=(r"CASE-\d+",)))
    assert redact.text("CASE-12 of a.b@example.com: 555-123-4567") == "[REDACTED] of a.b@example.com: [PHONE]"
    assert redactor_of(DataCollector(redact=())).text("a.b@example.com 123456789") == "a.b@example.com 123456789"


def test_messages_are_redacted_in_every_text_but_not_in_what_ties_them_together() -> None:
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "I am a.b@example.com"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {
                    "id": "call_123456789",
                    "type": "function",
                    "function": {"name": "f", "arguments": '{"to": "a.b@example.com"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "call_123456789", "content": "sent to 123456789"},
    ]
    assert redactor_of(DataCollector()).messages(messages) == [
        {"role": "user", "content": "I am [EMAIL]"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {
                    "id": "call_123456789",
                    "type": "function",
                    "function": {"name": "f", "arguments": '{"to": "[EMAIL]"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "call_123456789", "content": "sent to [NUMBER]"},
    ]


@pytest.mark.parametrize(
    ("pattern", "said"),
    [("(", "is not a regular expression"), ("a*", "matches the empty text"), ("x" * 501, "at most 500 characters")],
)
def test_a_pattern_that_cannot_be_used_is_refused(pattern: str, said: str) -> None:
    with pytest.raises(ValidationFailed) as caught:
        parse(DataCollector, {"redact_patterns": [pattern]})
    assert caught.value.details[0].target == "redact_patterns"
    assert said in caught.value.details[0].message
