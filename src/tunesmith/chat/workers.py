"""Encoding rows on several cores: processes of this module, fed through pipes, whose results come in the order of the
rows.

A worker is ``python -m tunesmith.chat.workers``: it reads a job, then chunks of rows, and answers each with the rows
encoded, until its input ends (so it ends with the process that started it). No ``multiprocessing``: that would import
the caller's main module again.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, Any, TypeVar

from tunesmith.chat.readers import Row
from tunesmith.chat.rows import EncodedRow, EncodeJob, RowEncoder
from tunesmith.errors import Failure, TunesmithError

CHUNK_ROWS = 128
CHUNK_BYTES = 1_000_000
MOST_PROCESSES = 4
"""By default: each takes about 150 MB, and one reader does not feed many more."""
BYTES_WORTH_PROCESSES = 16_000_000
"""Smaller sources are done before workers have started."""

_Tag = TypeVar("_Tag")


def default_processes(source_bytes: int) -> int:
    """How many processes pay for a source of that size."""
    if source_bytes < BYTES_WORTH_PROCESSES:
        return 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, MOST_PROCESSES)


def encode_rows(
    rows: Iterable[tuple[Row, _Tag]], job: EncodeJob, *, processes: int = 1
) -> Iterator[tuple[EncodedRow, _Tag]]:
    """Encode rows, each with something of the caller's that comes back with it. Order is kept.

    With one process all is done in this one. Raises ``Failure`` when a worker dies.
    """
    if processes <= 1:
        encoder = RowEncoder(job)
        for chunk in _chunks(rows):
            yield from _joined(encoder.encode([row for row, _ in chunk]), chunk)
        return
    workers = [_Worker(job) for _ in range(processes)]
    try:
        with ThreadPoolExecutor(processes, thread_name_prefix="encode") as pool:
            waiting: deque[tuple[Future[list[EncodedRow]], list[tuple[Row, _Tag]]]] = deque()
            # Each worker has a thread, its turn and one chunk waiting; the oldest result is waited for.
            turns = itertools.cycle(workers)
            try:
                for chunk in _chunks(rows):
                    waiting.append((pool.submit(next(turns).encode, [row for row, _ in chunk]), chunk))
                    if len(waiting) >= 2 * processes:
                        future, sent = waiting.popleft()
                        yield from _joined(future.result(), sent)
                while waiting:
                    future, sent = waiting.popleft()
                    yield from _joined(future.result(), sent)
            finally:
                for future, _ in waiting:
                    future.cancel()
    finally:
        for worker in workers:
            worker.close()


def _joined(encoded: Sequence[EncodedRow], chunk: Sequence[tuple[Row, _Tag]]) -> Iterator[tuple[EncodedRow, _Tag]]:
    for item, (_, tag) in zip(encoded, chunk, strict=True):
        yield item, tag


def _chunks(rows: Iterable[tuple[Row, _Tag]]) -> Iterator[list[tuple[Row, _Tag]]]:
    chunk: list[tuple[Row, _Tag]] = []
    size = 0
    for row, tag in rows:
        chunk.append((row, tag))
        size += row.size
        if len(chunk) >= CHUNK_ROWS or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


class _Worker:
    """A process that encodes; one chunk at a time."""

    def __init__(self, job: EncodeJob) -> None:
        environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tunesmith.chat.workers"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        self._lock = threading.Lock()
        self._send(job)

    def _send(self, value: Any) -> None:
        assert self._process.stdin is not None
        pickle.dump(value, self._process.stdin, protocol=pickle.HIGHEST_PROTOCOL)
        self._process.stdin.flush()

    def encode(self, rows: Sequence[Row]) -> list[EncodedRow]:
        """Send a chunk and wait for its rows."""
        assert self._process.stdout is not None
        with self._lock:
            try:
                self._send(rows)
                answer = pickle.load(self._process.stdout)
            except (EOFError, OSError, pickle.UnpicklingError) as error:
                code = self._process.wait()
                raise Failure(
                    f"a worker process ended with code {code}",
                    way_out="run again: what was prepared is kept; if it was killed for memory, use fewer processes",
                ) from error
        if isinstance(answer, BaseException):
            raise answer
        found: list[EncodedRow] = answer
        return found

    def close(self) -> None:
        """End the process: its input ends."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # what was not sent yet cannot be sent to one that died
                    pipe.close()
        self._process.wait()


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """What a worker does."""
    encoder = RowEncoder(pickle.load(requests))
    while True:
        try:
            rows = pickle.load(requests)
        except EOFError:
            return
        try:
            answer: Any = encoder.encode(rows)
        except TunesmithError as error:
            answer = error
        except Exception:
            answer = Failure(f"a worker failed: {traceback.format_exc()}")
        pickle.dump(answer, answers, protocol=pickle.HIGHEST_PROTOCOL)
        answers.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one decides
    # What a library prints must not get between the answers.
    channel = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve(sys.stdin.buffer, channel)
