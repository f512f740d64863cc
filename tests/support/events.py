"""The events of a job, compared."""

from __future__ import annotations

from collections.abc import Iterable

from tunesmith.records.workspace import JobEvent


def told(events: Iterable[JobEvent]) -> list[str]:
    """What the events say, each once for every time it was said.

    Whoever follows a job hears of what two processes write at the same time in the order in which they get to write,
    and whoever reads later in the order of time; an event's id has the order in it.
    """
    return sorted(event.model_dump_json(exclude={"id"}) for event in events)
