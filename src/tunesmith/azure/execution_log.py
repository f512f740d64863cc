"""A job's execution log: what happens in it, one line each, growing at its end only.

Clients print the lines beyond those they have printed, so a line may never come in between. Events of several files
are merged by time, and one may be written later than another with a later time; so what was told once is kept in the
job's folder, with the cursor up to which it goes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.pipelines.layout import read_json
from tunesmith.records.jobs import Job, JobStatus
from tunesmith.records.workspace import JobEvent
from tunesmith.storage.atomic import write_json

if TYPE_CHECKING:
    from tunesmith.workspace import Services

LOG = "executionlog.txt"
CURSOR = "executionlog.json"
PROGRESS_EVERY_S = 10.0
"""Progress is told at the begin and the end of a phase, and this often in between."""

_lock = threading.Lock()


def execution_log(services: Services, job: Job) -> Path:
    """The job's execution log, brought up to what has happened by now."""
    folder = services.paths.job(job.name)
    path = folder / LOG
    with _lock:
        state = read_json(folder / CURSOR) or {"cursor": None, "bytes": 0, "told": {}}
        while True:
            events, _ = services.jobs.events(job.name, state["cursor"])
            lines = [line for event in events for line in _lines(event, state["told"])]
            if state["cursor"] is None:
                lines = [*_head(job), *lines]
            elif not events:
                break
            # A kill between the two leaves text beyond the noted length, which the next call cuts off.
            with path.open("r+b" if path.exists() else "w+b") as file:
                file.truncate(state["bytes"])
                file.seek(state["bytes"])
                file.write("".join(f"{line}\n" for line in lines).encode("utf-8", "replace"))
                state["bytes"] = file.tell()
            state["cursor"] = events[-1].id if events else "-".join("0" for _ in range(len(job.steps) + 1))
            write_json(folder / CURSOR, state, indent=None)
    return path


def _head(job: Job) -> Iterator[str]:
    steps = "1 step" if len(job.steps) == 1 else f"{len(job.steps)} steps"
    yield f"[{_clock(job.created_at)}] {job.name}: submitted, {steps}, compute {job.compute}"
    for notice in job.notices:
        if notice.step is None or notice.code in ("FieldWaived", "ComputeDiffers"):
            yield f"[{_clock(job.created_at)}] notice ({notice.code}): {notice.message}"


def _lines(event: JobEvent, told: dict[str, Any]) -> Iterator[str]:
    clock = f"[{_clock(datetime.fromtimestamp(event.t, UTC))}]"
    data = event.data
    where = (event.step or "").rsplit("/", 1)[-1]
    if event.kind == "job":
        yield f"{clock} the job is {data['status']}"
        error = (data.get("error") or {}).get("error") or {}
        if error:
            yield f"{clock} {error.get('code')}: {_one_line(error.get('message'))}"
            if error.get("way_out"):
                yield f"{clock} way out: {_one_line(error['way_out'])}"
    elif event.kind == "step":
        status = data["status"]
        if data.get("reused_from"):
            yield f"{clock} {where}: {status}, taken over from {data['reused_from']}"
        else:
            yield f"{clock} {where}: {status}"
        error = (data.get("error") or {}).get("error") or {}
        if error and status == JobStatus.FAILED:
            yield f"{clock} {where}: {_one_line(error.get('message'))}"
    elif event.kind == "notice":
        yield f"{clock} {where}: notice ({data.get('code')}): {_one_line(data.get('message'))}"
    elif event.kind == "log":
        yield f"{clock} {where}: {_one_line(data.get('message'))}"
    elif event.kind == "metric":
        values = ", ".join(f"{key} {value:.6g}" for key, value in (data.get("values") or {}).items())
        yield f"{clock} {where}: step {data.get('step', 0)}: {values}"
    elif event.kind == "progress" and _worth(event, told):
        total = f"/{data['total']:g}" if data.get("total") is not None else ""
        unit = f" {data['unit']}" if data.get("unit") else ""
        yield f"{clock} {where}: {data.get('phase')} {data.get('done', 0):g}{total}{unit}"


def _worth(event: JobEvent, told: dict[str, Any]) -> bool:
    """Whether a progress event is told: the first and the last of a phase, and one now and then."""
    phase = f"{event.step} {event.data.get('phase')}"
    before = told.get(phase)
    ends = event.data.get("total") is not None and event.data.get("done") == event.data.get("total")
    if before is not None and not ends and event.t - float(before) < PROGRESS_EVERY_S:
        return False
    told[phase] = event.t
    return True


def _clock(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _one_line(text: object) -> str:
    return " ".join(str(text or "").split())
