"""What is written of requests: the request log, and the conversations that a data collector keeps.

The gateway hands over and goes on; one thread does the encoding, redacting and writing. What is handed over while that
thread is far behind is counted as lost rather than kept in memory.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import orjson

from tunesmith.endpoints.line_files import NumberedLines, RotatingLines, newest_lines
from tunesmith.endpoints.redaction import redactor_of
from tunesmith.errors import Unavailable
from tunesmith.records.endpoints import DataCollector
from tunesmith.records.serving import RequestLine

T = TypeVar("T")

logger = logging.getLogger(__name__)

FORGET_SECONDS = 60.0
"""How long a deletion may take before its caller is told that it failed."""
LOG_BYTES = 16 * 1024 * 1024
LOG_BACKUPS = 4
COLLECTED_FILE_BYTES = 32 * 1024 * 1024
WAITING = 20_000
"""Entries that may wait for the thread."""
GATHER_S = 0.05
"""How long the thread lets entries gather: waking it for each one would take its time from the gateway."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A request and its answer as they crossed the gateway: bytes, read later by the thread."""

    key: tuple[str, str]
    collector: DataCollector
    request: bytes
    """``GenerateRequest.to_dict()`` as JSON."""
    answer: Sequence[bytes]
    """One ``GenerateResult``, or the events of a stream."""
    line: dict[str, Any]
    """The request log's entry."""


class Journal:
    """See the module's docstring.

    Args:
        log: the request log.
        collected: the folder for conversations, ``<endpoint>/<deployment>/…`` below it.
    """

    def __init__(self, log: Path, collected: Path) -> None:
        self.log_path = log
        self.collected_folder = collected
        self.lost = 0
        """Entries that were not written, because too many waited or the disk refused them."""
        self._log = RotatingLines(log, max_bytes=LOG_BYTES, backups=LOG_BACKUPS)
        self._collected: dict[tuple[str, str], NumberedLines] = {}
        self._entries: deque[dict[str, Any] | Answered | Callable[[], None]] = deque()
        self._there = threading.Event()
        self._hurry = threading.Event()
        self._thread: threading.Thread | None = None
        self._closing = False

    def note(self, line: dict[str, Any]) -> None:
        """Write one entry of the request log; its names are those of ``RequestLine``."""
        self._hand_over(line)

    def collect(self, answered: Answered) -> None:
        """Keep one conversation, redacted."""
        self._hand_over(answered)

    def flush(self, timeout_s: float = 10.0) -> bool:
        """Wait until all that was handed over before is written; whether it was in time."""
        if self._thread is None:
            return True
        done = threading.Event()
        self._hand_over(done.set)
        self._hurry.set()
        return done.wait(timeout_s)

    def close(self) -> None:
        """Write what waits and end the thread."""
        if self._thread is not None:
            self._hand_over(self._end)
            self._hurry.set()
            self._thread.join(30)
            self._thread = None
            self._closing = False
            while self._entries:  # what was handed over while the thread was ending
                entry = self._entries.popleft()
                if callable(entry):
                    entry()
                else:
                    self.lost += 1

    def forget(self, endpoint: str, delete: Callable[[], T]) -> T:
        """Close the files of an endpoint's conversations and ``delete`` them, while nothing else is written.

        Raises ``Unavailable`` where that takes longer than ``FORGET_SECONDS``; it may be done later.
        """
        outcome: Future[T] = Future()

        def close_and_delete() -> None:
            try:
                for key in [key for key in self._collected if key[0] == endpoint]:
                    self._collected.pop(key).close()
                outcome.set_result(delete())
            except BaseException as error:
                outcome.set_exception(error)

        if self._thread is None:
            close_and_delete()
        else:
            self._hand_over(close_and_delete)
            self._hurry.set()
        try:
            return outcome.result(FORGET_SECONDS)
        except TimeoutError:
            if outcome.done():
                raise  # the deletion's own
            raise Unavailable(
                f"the conversations of endpoint {endpoint!r} were not deleted within {FORGET_SECONDS:g} s",
                target=str(self.collected_folder / endpoint),
                way_out="look whether the disk answers, and delete them again",
            ) from None

    def requests(
        self, endpoint: str | None = None, deployment: str | None = None, *, last: int = 100
    ) -> list[RequestLine]:
        """The newest entries of the request log, the oldest of them first."""
        self.flush()
        found: list[RequestLine] = []
        for line in newest_lines(self.log_path, LOG_BACKUPS):
            if len(found) >= last:
                break
            try:
                entry = RequestLine.model_validate_json(line)
            except ValueError:
                continue  # cut short by a kill
            if endpoint in (None, entry.endpoint) and deployment in (None, entry.deployment):
                found.append(entry)
        return found[::-1]

    # The thread

    def _hand_over(self, entry: dict[str, Any] | Answered | Callable[[], None]) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="request-journal", daemon=True)
            self._thread.start()
        if len(self._entries) >= WAITING and not callable(entry):
            self.lost += 1
            return
        self._entries.append(entry)
        if not self._there.is_set():
            self._there.set()

    def _end(self) -> None:
        self._closing = True

    def _run(self) -> None:
        while not self._closing:
            self._there.wait()
            self._hurry.wait(GATHER_S)
            self._hurry.clear()
            self._there.clear()  # before the entries are taken, so that one that comes now is seen next time
            while self._entries:
                entry = self._entries.popleft()
                try:
                    if callable(entry):
                        self._flush_files()
                        entry()
                    else:
                        self._write(entry)
                except Exception:
                    self.lost += 1
                    if self.lost == 1 or self.lost % 1000 == 0:  # a full disk must not fill the server's log too
                        logger.exception("%d entries of the request log were not written", self.lost)
            self._flush()
        self._log.close()
        for file in self._collected.values():
            file.close()

    def _flush(self) -> None:
        try:
            self._flush_files()
        except OSError:
            self.lost += 1
            logger.exception("the request log cannot be written")

    def _write(self, entry: dict[str, Any] | Answered) -> None:
        if isinstance(entry, dict):
            self._log.write(orjson.dumps(entry))
            return
        file = self._collected.get(entry.key)
        if file is None:
            folder = self.collected_folder.joinpath(*entry.key)
            file = self._collected[entry.key] = NumberedLines(folder, file_bytes=COLLECTED_FILE_BYTES)
        file.write(orjson.dumps(conversation(entry)), max_bytes=entry.collector.max_mb * 1_000_000)

    def _flush_files(self) -> None:
        self._log.flush()
        for file in self._collected.values():
            file.flush()


def conversation(answered: Answered) -> dict[str, Any]:
    """What is kept of one request: when, who answered, the messages, the tools, the answers with their calls; all
    texts redacted. A call's arguments are a text, too: where a number in them was taken out they may no longer be
    JSON."""
    redact = redactor_of(answered.collector)
    request = orjson.loads(answered.request)
    kept = ("time", "request_id", "endpoint", "deployment", "model", "status", "prompt_tokens", "completion_tokens")
    body: dict[str, Any] = {name: answered.line[name] for name in kept if name in answered.line}
    body["messages"] = redact.messages(request.pop("messages"))
    if "tools" in request:
        body["tools"] = redact.value(request.pop("tools"))
    body["parameters"] = redact.value({name: value for name, value in request.items() if name != "stream"})
    body["choices"] = [
        {
            "text": redact.text(choice.text),
            "finish_reason": choice.finish_reason,
            **({"tool_calls": redact.value([*choice.calls.values()])} if choice.calls else {}),
        }
        for choice in _choices(answered.answer)
    ]
    return body


@dataclass(slots=True)
class _Choice:
    text: str = ""
    finish_reason: str | None = None
    calls: dict[int, dict[str, str]] = field(default_factory=dict)
    """By their index: name and arguments, as JSON text."""


def _choices(answer: Sequence[bytes]) -> list[_Choice]:
    choices: dict[int, _Choice] = {}
    for part in answer:
        body = orjson.loads(part)
        for event in body.get("choices", [body]):
            choice = choices.setdefault(event.get("index", 0), _Choice())
            choice.text += event.get("text", "")
            choice.finish_reason = event.get("finish_reason") or choice.finish_reason
            for piece in event.get("tool_calls", ()):
                call = choice.calls.setdefault(piece["index"], {"name": "", "arguments": ""})
                call["name"] = piece.get("name") or call["name"]
                call["arguments"] += piece.get("arguments", "")
    return [choices[index] for index in sorted(choices)]
