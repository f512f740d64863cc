"""Reading the events of a job: whole lines from offsets, and the one stream of a job's and its steps' events."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tunesmith.errors import UserError
from tunesmith.pipelines.graph import Graph
from tunesmith.pipelines.layout import JobFolder
from tunesmith.records.workspace import JobEvent

BLOCK = 4 << 20
"""Most bytes read from one file in one go."""


def read_lines(path: Path, offset: int) -> tuple[list[tuple[int, dict[str, Any]]], int]:
    """The whole events from byte ``offset``: each with the offset after it, and the offset to go on from.

    A line that is no event (cut by a kill) is passed over; a line that is still being written is left for later.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(BLOCK)
            while b"\n" not in data and (more := file.read(BLOCK)):  # one line longer than a block
                data += more
    except FileNotFoundError:
        return [], offset
    end = data.rfind(b"\n")
    if end < 0:
        return [], offset
    found: list[tuple[int, dict[str, Any]]] = []
    position = offset
    for line in data[: end + 1].splitlines(keepends=True):
        position += len(line)
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and "kind" in event:
            found.append((position, event))
    return found, position


def size_of(path: Path) -> int:
    """The bytes of a file of events; 0 where there is none yet. It only grows."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


class JobEvents:
    """The merged stream of one job, from a cursor on.

    The cursor is a text that a client keeps and does not read: offsets in the job's file and in each step's.
    """

    def __init__(self, folder: JobFolder, graph: Graph, after: str | None = None) -> None:
        self._paths = [folder.events, *(folder.step(step.folder).events for step in graph.steps)]
        self._steps = [None, *(step.name for step in graph.steps)]
        self._offsets = _parse_cursor(after, len(self._paths))

    @property
    def cursor(self) -> str:
        """Where the stream stands now."""
        return "-".join(map(str, self._offsets))

    def read(self) -> list[JobEvent]:
        """What came since the last read, in order of time; each file's own order is kept."""
        batches = [self._of_file(index) for index in range(len(self._paths))]
        merged = heapq.merge(*batches, key=lambda entry: entry[0])
        events = []
        for _, index, offset, event in merged:
            self._offsets[index] = offset
            step = self._steps[index] or event.get("step")
            data = {
                key: value
                for key, value in event.items()
                if key not in ("t", "kind", "step") or (index > 0 and key == "step")
            }
            events.append(JobEvent(id=self.cursor, kind=str(event["kind"]), t=_time(event), step=step, data=data))
        return events

    def _of_file(self, index: int) -> Sequence[tuple[float, int, int, dict[str, Any]]]:
        lines, _ = read_lines(self._paths[index], self._offsets[index])
        return [(_time(event), index, offset, event) for offset, event in lines]


def metric_events(path: Path) -> Iterator[dict[str, Any]]:
    """Every metric event of a step."""
    offset = 0
    while True:
        lines, after = read_lines(path, offset)
        if after == offset:
            return
        offset = after
        for _, event in lines:
            if event["kind"] == "metric":
                yield event


def _time(event: dict[str, Any]) -> float:
    value = event.get("t", 0.0)
    return float(value) if isinstance(value, int | float) else 0.0


def _parse_cursor(after: str | None, count: int) -> list[int]:
    if not after:
        return [0] * count
    try:
        offsets = [int(part) for part in after.split("-")]
    except ValueError:
        offsets = []
    if len(offsets) != count or min(offsets) < 0:
        raise UserError("it is not a cursor of this job's events", target="after", way_out="pass the id of an event")
    return offsets
