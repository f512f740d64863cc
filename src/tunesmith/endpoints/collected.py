"""Collected conversations as training rows: what the data collector kept, read again.

Every conversation that is left out is counted with its reason. Rows are in OpenAI's shape, ``{"messages": […]}``, as
``tunesmith data check`` takes them.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

from tunesmith.chat.messages import Conversation, Message
from tunesmith.endpoints.line_files import numbered_files, removed
from tunesmith.records.serving import ConversationExport
from tunesmith.storage import names
from tunesmith.storage.atomic import remove

NO_ANSWER = "no whole answer came"
CUT = "the answer was cut at its token limit"
EMPTY = "the answer is empty"
TOOLS = "the request had tools: rows are made of plain conversations only"
FORMAT = "the request had a response format"
NOT_TO_LEARN = "the last message is not the user's"
DISORDER = "the turns are not in the order of a conversation"
TWICE = "the same conversation is there already"
CONTINUED = "it goes on in a later request, which has all of it"
UNREADABLE = "the line cannot be read"
OUT_OF_TIME = "outside the time asked for"


class CollectedConversations:
    """What was collected below ``folder``, of one endpoint.

    Iterate ``rows`` to its end; then ``report`` says what became of everything.
    """

    def __init__(self, folder: Path, endpoint: str, deployment: str | None = None) -> None:
        self._folder = folder / names.ENDPOINT_NAME.check(endpoint, "endpoint")
        if deployment is not None:
            self._folder /= names.DEPLOYMENT_NAME.check(deployment, "deployment")
        self._left_out: Counter[str] = Counter()
        self._written = 0

    def rows(
        self, *, since: datetime | None = None, until: datetime | None = None, include_cut: bool = False
    ) -> Iterator[dict[str, Any]]:
        """Training rows, the oldest first within a deployment.

        ``include_cut`` keeps answers that ended at ``max_tokens``. The same conversation comes once, and of a
        conversation that went on over several requests only the whole.
        """
        seen: set[bytes] = set()
        continued: set[bytes] = set()
        self._left_out.clear()
        self._written = 0
        for row, _ in self._read(since, until, include_cut):
            if row is not None:
                *beginnings, _whole = _digests(row["messages"])
                continued.update(beginnings)
        for row, reason in self._read(since, until, include_cut):
            if row is not None:
                whole = _digests(row["messages"])[-1]
                if whole in seen or whole in continued:
                    row, reason = None, TWICE if whole in seen else CONTINUED
                seen.add(whole)
            if row is None:
                self._left_out[reason] += 1
            else:
                self._written += 1
                yield row

    def report(self) -> ConversationExport:
        """What became of the conversations of the last iteration."""
        gone = sum(removed(folder) for folder in self._folders())
        return ConversationExport(
            written=self._written, left_out=dict(self._left_out.most_common()), removed_before=gone
        )

    def delete(self) -> int:
        """Delete them all; the bytes freed."""
        return remove(self._folder)

    def _folders(self) -> list[Path]:
        here = self._folder
        return sorted({here, *(path for path in here.glob("*") if path.is_dir())}) if here.is_dir() else []

    def _read(
        self, since: datetime | None, until: datetime | None, include_cut: bool
    ) -> Iterator[tuple[dict[str, Any] | None, str]]:
        for body in self._bodies():
            yield _row(body, since, until, include_cut=include_cut) if body else (None, UNREADABLE)

    def _bodies(self) -> Iterator[Mapping[str, Any] | None]:
        for folder in self._folders():
            for path in numbered_files(folder):
                with path.open("rb") as file:
                    for line in file:
                        try:
                            body = orjson.loads(line)
                        except orjson.JSONDecodeError:
                            body = None
                        yield body if isinstance(body, dict) else None


def _row(
    body: Mapping[str, Any], since: datetime | None, until: datetime | None, *, include_cut: bool
) -> tuple[dict[str, Any] | None, str]:
    try:
        time = datetime.fromisoformat(body["time"])
        if (since is not None and time < since) or (until is not None and time >= until):
            return None, OUT_OF_TIME
        from tunesmith.chat.validation import order_faults  # brings numpy in, which the server starts without

        if body["status"] != 200 or not body["choices"]:
            return None, NO_ANSWER
        if body.get("tools"):
            return None, TOOLS
        if body["parameters"].get("response_format", {"type": "text"}).get("type") != "text":
            return None, FORMAT
        messages = [Message.from_openai(message) for message in body["messages"]]
        if not messages or messages[-1].role not in ("user", "tool"):
            return None, NOT_TO_LEARN
        choice = body["choices"][0]
        if choice["finish_reason"] == "length" and not include_cut:
            return None, CUT
        if choice["finish_reason"] not in ("stop", "length"):
            return None, NO_ANSWER
        if not choice["text"].strip():
            return None, EMPTY
        conversation = Conversation((*messages, Message("assistant", choice["text"])))
        return (None, DISORDER) if order_faults(conversation) else (conversation.to_openai(), "")
    except (KeyError, TypeError, ValueError, AttributeError):
        return None, UNREADABLE


def _digests(messages: list[dict[str, Any]]) -> list[bytes]:
    """A digest of every beginning of a conversation that ends with an answer; the last is the whole."""
    running = hashlib.blake2b(digest_size=16)
    found = []
    for message in messages:
        running.update(orjson.dumps(message) + b"\n")
        if message["role"] == "assistant":
            found.append(running.digest())
    return found
