"""Server-sent events of a job: what happened, then what happens, until the job is over or the server stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from fastapi.concurrency import run_in_threadpool

from tunesmith.records.workspace import JobEvent

POLL_SECONDS = 0.15
HEARTBEAT_SECONDS = 10.0

Batch = tuple[Sequence[JobEvent], bool]
"""Events, and whether the job is over and there will be no more."""
Fetch = Callable[[str | None], Batch]
"""The events after a cursor."""


async def stream(
    fetch: Fetch, first: Batch, *, after: str | None, follow: bool, stopping: asyncio.Event
) -> AsyncIterator[bytes]:
    """The stream's bytes, beginning with ``first``, the batch after ``after``.

    Ends with the event ``end`` once the job is over, and without it when the server stops.
    """
    quiet = 0.0
    events, over = first
    while True:
        for event in events:
            after = event.id
            yield f"id: {event.id}\nevent: {event.kind}\ndata: {event.model_dump_json()}\n\n".encode()
        if over:
            yield b"event: end\ndata: {}\n\n"
            return
        if not events:
            if not follow or await _told(stopping):
                return
            quiet += POLL_SECONDS
            if quiet >= HEARTBEAT_SECONDS:
                quiet = 0.0
                yield b": still here\n\n"
        events, over = await run_in_threadpool(fetch, after)


async def _told(stopping: asyncio.Event) -> bool:
    """Whether the server is told to stop before the next look is due."""
    try:
        await asyncio.wait_for(stopping.wait(), POLL_SECONDS)
    except TimeoutError:
        return False
    return True
