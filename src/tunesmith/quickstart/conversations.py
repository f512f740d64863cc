"""Real conversations for the quickstart: two people who chat, from a package in the Python package index.

The first speaker is taken as the user, the second as the assistant. What is left out is counted, never hidden.
"""

from __future__ import annotations

import json
import random
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunesmith.errors import InvalidData
from tunesmith.quickstart.plan import CONVERSATIONS_MEMBER

MIN_TURNS = 4
MAX_CHARACTERS = 3500
"""About 1,000 tokens: longer conversations are left for runs with more time."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What was taken from the package, and what was not."""

    path: Path
    read: int
    taken: int
    left_out: dict[str, int] = field(default_factory=dict)


def write_conversations(wheel: Path, destination: Path, *, count: int, seed: int) -> Selection:
    """Write ``count`` conversations, drawn with ``seed``, to ``destination`` as ``messages`` JSONL.

    Raises:
        InvalidData: the package has another layout than the one this was written for.
    """
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(CONVERSATIONS_MEMBER) as file:
            raw: dict[str, Any] = json.load(file)
    except (KeyError, zipfile.BadZipFile, json.JSONDecodeError) as error:
        raise InvalidData(f"no readable {CONVERSATIONS_MEMBER} in it: {error}", target=str(wheel)) from error
    usable: list[list[dict[str, str]]] = []
    left_out: Counter[str] = Counter()
    for identifier in sorted(raw):
        messages, reason = _messages(raw[identifier])
        if reason is None:
            usable.append(messages)
        else:
            left_out[reason] += 1
    random.Random(seed).shuffle(usable)
    taken = usable[:count]
    if len(usable) > count:
        left_out["not needed"] = len(usable) - count
    destination.parent.mkdir(parents=True, exist_ok=True)
    aside = destination.with_suffix(".partial")
    with aside.open("w", encoding="utf-8") as out:
        for messages in taken:
            out.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
    aside.replace(destination)
    return Selection(path=destination, read=len(raw), taken=len(taken), left_out=dict(left_out))


def _messages(conversation: dict[str, Any]) -> tuple[list[dict[str, str]], str | None]:
    """One conversation as messages, or the reason why it is left out."""
    senders: list[str] = []
    messages: list[dict[str, str]] = []
    for turn in conversation.get("messages", ()):
        text = " ".join(part["text"].strip() for part in turn if part["text"].strip())
        if not text:
            continue
        sender = turn[0]["sender"]
        if sender not in senders:
            senders.append(sender)
        role = "user" if sender == senders[0] else "assistant"
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] += " " + text
        else:
            messages.append({"role": role, "content": text})
    if messages and messages[-1]["role"] == "user":
        messages.pop()  # a last turn without an answer teaches nothing
    if len(senders) != 2:
        return [], "not between two people"
    if len(messages) < MIN_TURNS:
        return [], f"fewer than {MIN_TURNS} turns"
    if sum(len(message["content"]) for message in messages) > MAX_CHARACTERS:
        return [], f"longer than {MAX_CHARACTERS:,} characters"
    return messages, None
