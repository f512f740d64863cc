"""Server-sent events of a job: what happened, then what happens, until the job is over or the server stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from fastapi.concurrency import run_in_threadpool

from tunesmith.records.workspace import JobEvent

POLL_SECONDS = 0.15
HEARTBEAT_SECONDS = 10.0

Fetch = Callable[[str | None], tuple[Sequence[JobEvent], bool]]
"""The events after a cursor, and whether the job is over (and these are the last)."""


async def stream(fetch: Fetch, *, after: str | None, follow: bool, stopping: asyncio.Event) -> AsyncIterator[bytes]:
    """The stream's bytes. Ends with the event ``end`` once the job is over, without it when the server stops."""
    quiet = 0.0
    while True:
        events, over = await run_in_threadpool(fetch, after)
        for event in events:
            after = event.id
            yield f"id: {event.id}\nevent: {event.kind}\ndata: {event.model_dump_json()}\n\n".encode()
        if over:
            yield b"event: end\ndata: {}\n\n"
            return
        if not follow:
            return
        quiet = 0.0 if events else quiet + POLL_SECONDS
        if quiet >= HEARTBEAT_SECONDS:
            quiet = 0.0
            yield b": still here\n\n"
        try:
            await asyncio.wait_for(stopping.wait(), POLL_SECONDS)
        except TimeoutError:
            continue
        return
