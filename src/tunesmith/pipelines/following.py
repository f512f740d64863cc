"""Keeps the database in step with the runners: reads what they wrote, starts those that wait, replaces those that died.

A job's truth is its folder; the database follows it. A server may be killed at any moment: the next one reads on from
the offsets that the database has.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import select

from tunesmith.compute.processes import ProcessId, reap, spawn_detached
from tunesmith.errors import JobFailed, TunesmithError
from tunesmith.pipelines import folding
from tunesmith.pipelines.events import read_lines, size_of
from tunesmith.pipelines.files import JobFiles, last_line
from tunesmith.pipelines.layout import JobFolder, read_json
from tunesmith.pipelines.rows import job_row, step_rows
from tunesmith.records.base import utcnow
from tunesmith.records.jobs import Job, JobStatus, Notice
from tunesmith.storage.artifacts import ArtifactStore
from tunesmith.storage.database import Database
from tunesmith.storage.tables import JobRow

LIGHT = "light"
"""Property of a component that hardly uses the processor: its jobs wait for no other."""
QUEUED_CODE = "Queued"
RUNNER_DEATHS = 3
"""A runner that dies this often in a row within ``RUNNER_SOON_S`` of its start is not started again."""
RUNNER_SOON_S = 10.0
ENDED = [status.value for status in JobStatus if status.terminal]
WAITING = (JobStatus.NOT_STARTED, JobStatus.QUEUED)

StepEnvironment = Callable[[Job], Mapping[str, str]]
"""Further environment variables for the steps of a job, such as where MLflow listens."""


class JobFollower:
    """Follows every job that has not ended. See ``JobService`` for the arguments."""

    def __init__(
        self,
        database: Database,
        files: JobFiles,
        store: ArtifactStore,
        *,
        max_running: int,
        environment: StepEnvironment | None,
    ) -> None:
        self._database = database
        self._files = files
        self._store = store
        self._max_running = max_running
        self._environment = environment
        self.lock = threading.RLock()
        """Held while rows and folders change together."""
        self._children: set[int] = set()
        self._deaths: dict[str, int] = {}
        self._followed: dict[str, list[int]] = {}
        """The sizes of a running job's event files when they were last read."""

    def reconcile(self) -> bool:
        """One pass over every job that has not ended. Whether there is any left.

        It is made some times a second while a job trains beside it: where nothing happened it costs a query.
        """
        with self.lock:
            self._reap()
            with self._database.reading() as session:
                rows = session.scalars(select(JobRow).where(JobRow.status.not_in(ENDED))).all()
            for row in rows:
                self._follow_safely(row)
            if any(JobStatus(row.status) in WAITING for row in rows):
                self.start_waiting()
            return bool(rows)

    def start_waiting(self) -> None:
        """Start the jobs whose turn it is; the others are queued and say behind which."""
        with self._database.reading() as session:
            rows = session.scalars(select(JobRow).where(JobRow.status.not_in(ENDED)).order_by(JobRow.created_at)).all()
        rows = [row for row in rows if self._files.folder(row.name).graph.exists()]
        heavy = [row.name for row in rows if JobStatus(row.status) not in WAITING and not self._light(row.name)]
        for row in rows:
            if JobStatus(row.status) not in WAITING:
                continue
            light = self._light(row.name)
            if light or len(heavy) < self._max_running:
                self._launch(row.name)
                if not light:
                    heavy.append(row.name)
                continue
            said = [n["message"] for n in row.notices if n.get("code") == QUEUED_CODE]
            if row.status != JobStatus.QUEUED or not any(heavy[0] in message for message in said):
                self._queue(row.name, heavy)

    def _light(self, name: str) -> bool:
        return all(step.properties.get(LIGHT, "").lower() == "true" for step in self._files.graph(name).steps)

    def _queue(self, name: str, heavy: list[str]) -> None:
        limit = "one job runs" if self._max_running == 1 else f"{self._max_running} jobs run"
        message = f"waits for {', '.join(heavy)} to end: {limit} at a time on this machine"
        with self._database.session() as session:
            row = job_row(session, name)
            row.status = JobStatus.QUEUED
            folding.remove_notices(row, QUEUED_CODE)
            folding.add_notice(row, Notice(code=QUEUED_CODE, message=message, level="info"))

    def _launch(self, name: str) -> None:
        """Start a runner. The state is in the database before: a kill in between leads to another start."""
        with self._database.session() as session:
            row = job_row(session, name)
            row.status = JobStatus.STARTING if not row.cancel_requested else JobStatus.CANCEL_REQUESTED
            folding.remove_notices(row, QUEUED_CODE)
        folder = self._files.folder(name)
        environment = dict(os.environ)
        if self._environment is not None:
            with self._database.reading() as session:
                job = folding.to_record(job_row(session, name), step_rows(session, name))
            environment.update(self._environment(job))
        arguments = [sys.executable, "-P", "-m", "tunesmith.pipelines.runner", str(folder.root)]
        pid = spawn_detached(arguments, environment=environment, log=folder.runner_log)
        self._children.add(pid)
        identity = ProcessId.of(pid)
        with self._database.session() as session:
            row = job_row(session, name)
            row.runner_pid = pid
            row.runner_started = identity.started if identity else None

    def _reap(self) -> None:
        """Take the exit codes of runners that ended, so that none stays a zombie."""
        self._children = {pid for pid in self._children if not reap(pid)}

    def _follow_safely(self, row: JobRow) -> None:
        """Follow one job; whatever is wrong with it does not keep the others from being followed."""
        name = row.name
        if not self._files.folder(name).graph.exists():
            self._followed.pop(name, None)
            gone = JobFailed(
                f"its folder is gone: {self._files.folder(name).root}", target=name, way_out="submit it again"
            )
            with self._database.session() as session:
                row = job_row(session, name)
                row.status, row.error, row.ended_at = JobStatus.FAILED, gone.to_dict(), utcnow()
            return
        try:
            self._follow(row)
        except Exception as error:
            print(f"jobs: {name}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)

    def _follow(self, row: JobRow) -> None:
        """Bring one job's rows up to what its files say, then see to its runner."""
        if JobStatus(row.status) in WAITING:
            return
        name = row.name
        runner = ProcessId(row.runner_pid, row.runner_started) if row.runner_pid and row.runner_started else None
        alive = self._runner_alive(name, runner)  # before reading: what it wrote before it died is read below
        sizes = self._sizes(name)
        if alive and self._followed.get(name) == sizes:
            return
        ended = self._read_all_events(name)
        if ended is not None:
            self._finish(name, ended)
        elif not alive:
            self._revive(name, runner.started if runner else 0.0)
        if alive and ended is None:
            self._followed[name] = sizes
        else:
            self._followed.pop(name, None)

    def _sizes(self, name: str) -> list[int]:
        folder = self._files.folder(name)
        steps = (folder.step(step.folder).events for step in self._files.graph(name).steps)
        return [size_of(path) for path in (folder.events, *steps)]

    def _runner_alive(self, name: str, runner: ProcessId | None) -> bool:
        body = read_json(self._files.folder(name).runner)
        if body is not None and ProcessId(int(body["pid"]), float(body["started"])).alive:
            return True
        return runner is not None and runner.alive

    def _read_all_events(self, name: str) -> dict[str, Any] | None:
        """Read on until nothing is left; the event that ended the job, when it came."""
        ended: dict[str, Any] | None = None
        more = True
        while more:
            more, last = self._read_events(name)
            ended = last or ended
        return ended

    def _read_events(self, name: str) -> tuple[bool, dict[str, Any] | None]:
        """Fold some new events into the rows: whether there were any, and the event that ended the job."""
        folder, graph = self._files.folder(name), self._files.graph(name)
        ended: dict[str, Any] | None = None
        with self._database.reading() as session:
            offset = job_row(session, name).events_offset
            offsets = {step.name: step.events_offset for step in step_rows(session, name)}
        lines, offset = read_lines(folder.events, offset)
        work = {step.name: read_lines(folder.step(step.folder).events, offsets[step.name]) for step in graph.steps}
        if not lines and all(after == offsets[step] for step, (_, after) in work.items()):
            return False, None
        with self._database.session() as session:
            row = job_row(session, name)
            steps = {step.name: step for step in step_rows(session, name)}
            row.events_offset = offset
            for _, event in lines:
                if event["kind"] == "step" and event.get("step") in steps:
                    folding.apply_step_event(row, steps[event["step"]], event)
                elif event["kind"] == "job":
                    ended = self._job_event(row, event) or ended
            for step_name, (events, after) in work.items():
                steps[step_name].events_offset = after
                for _, event in _worth_keeping(events):
                    folding.apply_work_event(row, steps[step_name], event)
        return True, ended

    def _job_event(self, row: JobRow, event: Mapping[str, Any]) -> dict[str, Any] | None:
        status = JobStatus(event["status"])
        if status.terminal:
            row.status = JobStatus.FINALIZING
            return dict(event)
        if row.started_at is None:
            row.started_at = folding.moment(float(event["t"]))
        if not row.cancel_requested:
            row.status = status
        return None

    def _finish(self, name: str, ended: Mapping[str, Any]) -> None:
        """Publish the job's outputs and write its end."""
        error = ended.get("error")
        status = JobStatus(ended["status"])
        published: dict[str, Any] = {}
        with self._database.reading() as session:
            steps = {step.name: step for step in step_rows(session, name)}
            outputs = dict(job_row(session, name).outputs)
        try:
            for key, output in self._files.graph(name).outputs.items():
                made = steps[output.step].outputs.get(output.output)
                if made is not None:
                    published[key] = {**outputs[key], "path": str(self._publish(name, key, Path(made["path"])))}
        except TunesmithError as failure:
            status, error = JobStatus.FAILED, failure.to_dict()
        except OSError as failure:
            status = JobStatus.FAILED
            error = JobFailed(f"its outputs could not be published: {failure}", target=name).to_dict()
        with self._database.session() as session:
            row = job_row(session, name)
            row.outputs = {**outputs, **published}
            row.status = status
            row.error = error
            row.ended_at = folding.moment(float(ended["t"]))

    def _publish(self, name: str, output: str, path: Path) -> Path:
        uri = self._store.uri_for("jobs", name, output)
        if not self._store.exists(uri):
            self._store.publish(path, uri, link=True)
        return self._store.path_for(uri) or path

    def _revive(self, name: str, launched: float) -> None:
        """Start a new runner for one that died before the job's end."""
        with self._database.reading() as session:
            finalizing = job_row(session, name).status == JobStatus.FINALIZING
        if finalizing:  # the end was read, and this server was killed before it was written
            ended = _last_end(self._files.folder(name))
            if ended is not None:
                self._finish(name, ended)
            return
        soon = time.time() - launched < RUNNER_SOON_S
        self._deaths[name] = self._deaths.get(name, 0) + 1 if soon else 0
        if self._deaths[name] >= RUNNER_DEATHS:
            log = self._files.folder(name).runner_log
            error = JobFailed(
                f"its runner died {RUNNER_DEATHS} times at its start; last line: {last_line(log)}",
                target=name,
                way_out=f"read {log}",
            )
            self._finish(name, {"status": JobStatus.FAILED, "error": error.to_dict(), "t": time.time()})
            return
        if launched:
            with self._database.session() as session:
                notice = Notice(
                    code="RunnerRestarted", message="the job's runner had died; a new one goes on", level="warning"
                )
                folding.add_notice(job_row(session, name), notice)
        self._launch(name)


def _worth_keeping(events: list[tuple[int, dict[str, Any]]]) -> list[tuple[int, dict[str, Any]]]:
    """Notices, and only the last progress: the rest is in the file."""
    last = next((entry for entry in reversed(events) if entry[1]["kind"] == "progress"), None)
    return [entry for entry in events if entry[1]["kind"] == "notice" or entry is last]


def _last_end(folder: JobFolder) -> dict[str, Any] | None:
    lines, offset = read_lines(folder.events, 0)
    while True:
        more, after = read_lines(folder.events, offset)
        if after == offset:
            break
        lines, offset = lines + more, after
    ends = [event for _, event in lines if event["kind"] == "job" and JobStatus(event["status"]).terminal]
    return ends[-1] if ends else None
