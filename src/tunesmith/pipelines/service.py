"""Jobs: submit, watch, cancel, explain, delete; and the loop that keeps the database in step with the runners.

A job's truth is its folder; the database follows it. ``reconcile`` reads what runners wrote, starts those that wait,
starts a new runner where one died, and finishes what ended. It may be killed at any moment: the next start reads on
from the offsets that the database has.
"""

from __future__ import annotations

import builtins
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from tunesmith.errors import AlreadyExists, Conflict, JobFailed, NotFound, TunesmithError
from tunesmith.pipelines import folding
from tunesmith.pipelines.events import JobEvents, metric_events, read_lines
from tunesmith.pipelines.expand import build_graph
from tunesmith.pipelines.fingerprints import code_files, hash_code
from tunesmith.pipelines.graph import Graph
from tunesmith.pipelines.layout import JobFile, JobFolder, read_json
from tunesmith.pipelines.naming import job_name
from tunesmith.pipelines.processes import ProcessId, reap, spawn_detached
from tunesmith.pipelines.resolver import Resolver
from tunesmith.records.base import utcnow
from tunesmith.records.jobs import (
    Job,
    JobStatus,
    MetricPoint,
    Notice,
    Output,
    StepExplanation,
    SubmitJob,
)
from tunesmith.records.workspace import JobEvent
from tunesmith.storage import atomic, names
from tunesmith.storage.artifacts import ArtifactStore
from tunesmith.storage.database import Database
from tunesmith.storage.paths import WorkspacePaths
from tunesmith.storage.tables import JobRow, JobStepRow

LIGHT = "light"
"""Property of a component that hardly uses the processor: its jobs wait for no other."""
QUEUED_CODE = "Queued"
RUNNER_DEATHS = 3
"""A runner that dies this often in a row within ``RUNNER_SOON_S`` of its start is not started again."""
RUNNER_SOON_S = 10.0
_ENDED = [status.value for status in JobStatus if status.terminal]
_WAITING = (JobStatus.NOT_STARTED, JobStatus.QUEUED)

StepEnvironment = Callable[[Job], Mapping[str, str]]
"""Further environment variables for the steps of a job, such as where MLflow listens."""


class JobService:
    """The jobs of a workspace.

    Args:
        database, paths, store: the workspace's.
        resolver: answers references.
        max_running: how many jobs run at once; light ones do not count. The others are ``Queued``, and say why.
        grace_s: seconds between asking a step to stop and killing it.
        environment: further environment variables for a job's steps, asked for when its runner starts.
    """

    def __init__(
        self,
        database: Database,
        paths: WorkspacePaths,
        store: ArtifactStore,
        resolver: Resolver,
        *,
        max_running: int = 1,
        grace_s: float = 60.0,
        environment: StepEnvironment | None = None,
    ) -> None:
        self._database = database
        self._paths = paths
        self._store = store
        self._resolver = resolver
        self._max_running = max_running
        self._grace_s = grace_s
        self._environment = environment
        self._lock = threading.RLock()
        self._children: set[int] = set()
        self._graphs: dict[str, Graph] = {}
        self._deaths: dict[str, int] = {}
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._stopping = threading.Event()

    # ── submitting ──────────────────────────────────────────────────────────────────────────────────────────────

    def validate(self, request: SubmitJob) -> Job:
        """Check everything that ``submit`` checks, start nothing; the job as it would be.

        Raises:
            ValidationFailed: every fault at once.
            AlreadyExists: the name is taken.
        """
        name = self._name(request)
        graph = build_graph(request, self._resolver)
        row, steps = _rows(name, request, graph)
        return folding.to_record(row, steps)

    def submit(self, request: SubmitJob) -> Job:
        """Check a job, put it on disk and in the database, and start it (or queue it).

        Raises:
            ValidationFailed: every fault at once; nothing was started and nothing is left.
            AlreadyExists: the name is taken.
            DiskFull: no room for the job's folder.
        """
        graph = build_graph(request, self._resolver)
        with self._lock:
            name = self._name(request)
            folder = self._paths.job(name)
            with atomic.new_folder(folder) as aside:
                graph = _snapshot_code(graph, JobFolder(aside), JobFolder(folder))
                job = JobFile(
                    name=name,
                    home=str(self._paths.home),
                    experiment_name=request.experiment_name,
                    display_name=request.display_name or name,
                    settings=request.settings,
                    grace_s=self._grace_s,
                )
                atomic.write_json(JobFolder(aside).job, job)
                atomic.write_json(JobFolder(aside).graph, graph)
                atomic.write_text(JobFolder(aside).events, "")
            try:
                with self._database.session() as session:
                    row, steps = _rows(name, request, graph)
                    session.add(row)
                    session.flush()
                    session.add_all(steps)
            except BaseException:
                atomic.remove(folder)
                raise
            self._start_waiting()
        self._wake.set()
        return self.get(name)

    def _name(self, request: SubmitJob) -> str:
        if request.name is None:
            return job_name()
        name = names.JOB_NAME.check(request.name, "name")
        with self._database.reading() as session:
            taken = session.get(JobRow, name) is not None
        if taken or self._paths.job(name).exists():
            raise AlreadyExists(
                f"there is a job {name!r} already", target="name", way_out="choose another name, or leave it out"
            )
        return name

    # ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────

    def get(self, name: str) -> Job:
        """One job with its steps.

        Raises:
            NotFound: there is no such job.
        """
        with self._database.reading() as session:
            row = self._row(session, name)
            return folding.to_record(row, _steps(session, name))

    def list(
        self,
        *,
        status: JobStatus | str | None = None,
        experiment_name: str | None = None,
        limit: int | None = None,
    ) -> builtins.list[Job]:
        """Jobs, newest first."""
        query = select(JobRow).where(JobRow.deleting.is_(False)).order_by(JobRow.created_at.desc(), JobRow.name)
        if status is not None:
            query = query.where(JobRow.status == str(status))
        if experiment_name is not None:
            query = query.where(JobRow.experiment_name == experiment_name)
        if limit is not None:
            query = query.limit(limit)
        with self._database.reading() as session:
            rows = session.scalars(query).all()
            found = session.scalars(select(JobStepRow).where(JobStepRow.job.in_([row.name for row in rows]))).all()
        steps: dict[str, builtins.list[JobStepRow]] = {}
        for step in found:
            steps.setdefault(step.job, []).append(step)
        return [folding.to_record(row, steps.get(row.name, [])) for row in rows]

    def events(self, name: str, after: str | None = None) -> tuple[builtins.list[JobEvent], bool]:
        """The events after a cursor, and whether the job is over and these are the last.

        Raises:
            NotFound: there is no such job.
            UserError: ``after`` is no cursor of this job.
        """
        over = self.get(name).status.terminal  # before reading: what was written before the end is read below
        stream = JobEvents(self._folder(name), self._graph(name), after)
        events = stream.read()
        return events, over and not events

    def logs(self, name: str, step: str | None = None) -> str:
        """What the steps printed, or one of them. With several, each under a heading with its name.

        Raises:
            NotFound: there is no such job or step.
        """
        self.get(name)
        graph, folder = self._graph(name), self._folder(name)
        known = [entry.name for entry in graph.steps]
        if step is not None:
            match = [entry for entry in known if entry == step or entry.rsplit("/", 1)[-1] == step]
            if not match:
                raise NotFound(
                    f"the job {name} has no step {step!r}", target="step", way_out=f"steps: {', '.join(known)}"
                )
            return _read_text(folder.step(graph.step(match[0]).folder).log)
        texts = [(entry.name, _read_text(folder.step(entry.folder).log)) for entry in graph.steps]
        return "\n".join(f"── {title} ──\n{text}" for title, text in texts if text)

    def metrics(self, name: str) -> builtins.list[MetricPoint]:
        """Every value of every metric so far; what a restarted step wrote again takes the place of the first."""
        self.get(name)
        found: dict[tuple[str, str, int], MetricPoint] = {}
        for step in self._graph(name).steps:
            for event in metric_events(self._folder(name).step(step.folder).events):
                for key, value in event.get("values", {}).items():
                    point = MetricPoint(
                        key=key,
                        step=int(event.get("step", 0)),
                        value=float(value),
                        time=float(event["t"]),
                        job_step=step.name,
                    )
                    found[step.name, key, point.step] = point
        return builtins.list(found.values())

    def explain(self, name: str) -> builtins.list[StepExplanation]:
        """For each step what it was reused from, or which part changed since the closest earlier run."""
        job = self.get(name)
        found: builtins.list[StepExplanation] = []
        for step in self._graph(name).steps:
            body = read_json(self._folder(name).step(step.folder).explanation)
            if body is not None:
                found.append(StepExplanation.model_validate(body))
                continue
            status = next((s.status for s in job.steps if s.name == step.name), JobStatus.NOT_STARTED)
            reason = "it was not run" if status.terminal else "it has not begun yet"
            found.append(StepExplanation(step=step.name, reused=False, reason=reason))
        return found

    def outputs(self, name: str) -> dict[str, Output]:
        """The job's outputs by name; ``path`` is set once they are there."""
        return self.get(name).outputs

    def output_path(self, name: str, output: str) -> Path:
        """Where an output of a job lies.

        Raises:
            NotFound: no such job or output, or it is not there yet (or no longer).
        """
        outputs = self.get(name).outputs
        if output not in outputs:
            known = ", ".join(outputs) or "none"
            raise NotFound(f"the job {name} has no output {output!r}", target="output", way_out=f"outputs: {known}")
        path = outputs[output].path
        if path is None or not Path(path).exists():
            raise NotFound(
                f"the output {output!r} of the job {name} is not there", target=path, way_out="see its steps"
            )
        return Path(path)

    def lineage(self, name: str) -> dict[str, Any] | None:
        """``lineage.json`` of a job, once its steps have written it."""
        self.get(name)
        body = read_json(self._folder(name).lineage)
        return body if isinstance(body, dict) else None

    # ── ending ──────────────────────────────────────────────────────────────────────────────────────────────────

    def cancel(self, name: str) -> Job:
        """Ask a job to stop. One that waits is canceled at once; one that has ended stays as it is.

        Raises:
            NotFound: there is no such job.
        """
        with self._lock:
            with self._database.session() as session:
                row = self._row(session, name)
                status = JobStatus(row.status)
                if not status.terminal:
                    row.cancel_requested = True
                    if status in _WAITING:
                        self._cancel_waiting(session, row)
                    else:
                        row.status = JobStatus.CANCEL_REQUESTED
            if not status.terminal and status not in _WAITING:
                atomic.write_text(self._folder(name).cancel, "")
                self._nudge(name)
        self._wake.set()
        return self.get(name)

    def delete(self, name: str) -> int:
        """Delete a job that has ended, with its files; the bytes freed.

        Raises:
            NotFound: there is no such job.
            Conflict: it has not ended.
        """
        with self._lock:
            with self._database.session() as session:
                row = self._row(session, name)
                if not JobStatus(row.status).terminal:
                    raise Conflict(
                        f"the job {name} is {row.status}",
                        target=name,
                        way_out=f"cancel it first: tunesmith jobs cancel {name}",
                    )
                row.deleting = True
            return self._delete_files(name)

    def _delete_files(self, name: str) -> int:
        freed = self._store.delete(self._store.uri_for("jobs", name))
        freed += atomic.remove(self._paths.job(name))
        self._graphs.pop(name, None)
        with self._database.session() as session:
            row = session.get(JobRow, name)
            if row is not None:
                session.delete(row)
        return freed

    def _cancel_waiting(self, session: Session, row: JobRow) -> None:
        row.status = JobStatus.CANCELED
        row.ended_at = utcnow()
        folding.remove_notices(row, QUEUED_CODE)
        for step in _steps(session, row.name):
            step.status = JobStatus.CANCELED

    # ── the loop ────────────────────────────────────────────────────────────────────────────────────────────────

    def start(self, interval_s: float = 0.2) -> None:
        """Take up what an earlier server left, then reconcile in a thread until ``stop``."""
        self._clean()
        self._stopping.clear()
        self._thread = threading.Thread(target=self._loop, args=(interval_s,), name="jobs", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop reconciling. Jobs go on."""
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _loop(self, interval_s: float) -> None:
        while not self._stopping.is_set():
            busy = True
            try:
                busy = self.reconcile()
            except Exception as error:  # the loop is the only one that follows jobs: it must go on
                print(f"jobs: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            self._wake.wait(interval_s if busy else 5.0)
            self._wake.clear()

    def reconcile(self) -> bool:
        """One pass over every job that has not ended. Whether there is any left."""
        with self._lock:
            self._reap()
            with self._database.reading() as session:
                active = session.scalars(select(JobRow.name).where(JobRow.status.not_in(_ENDED))).all()
            for name in active:
                self._follow_safely(name)
            self._start_waiting()
            return bool(active)

    def _clean(self) -> None:
        """Finish deletions that were cut, and remove folders of jobs that were never acknowledged."""
        with self._lock:
            with self._database.reading() as session:
                rows = session.execute(select(JobRow.name, JobRow.deleting)).all()
            for row in rows:
                if row.deleting:
                    self._delete_files(row.name)
            known = {row.name for row in rows}
            if self._paths.jobs.exists():
                for folder in self._paths.jobs.iterdir():
                    if folder.name not in known:
                        atomic.remove(folder)

    def _start_waiting(self) -> None:
        """Start the jobs whose turn it is; the others are queued and say behind which."""
        with self._database.reading() as session:
            rows = session.scalars(select(JobRow).where(JobRow.status.not_in(_ENDED)).order_by(JobRow.created_at)).all()
        rows = [row for row in rows if self._folder(row.name).graph.exists()]
        heavy = [row.name for row in rows if JobStatus(row.status) not in _WAITING and not self._light(row.name)]
        for row in rows:
            if JobStatus(row.status) not in _WAITING:
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
        return all(step.properties.get(LIGHT, "").lower() == "true" for step in self._graph(name).steps)

    def _queue(self, name: str, heavy: builtins.list[str]) -> None:
        limit = "one job runs" if self._max_running == 1 else f"{self._max_running} jobs run"
        message = f"waits for {', '.join(heavy)} to end: {limit} at a time on this machine"
        with self._database.session() as session:
            row = self._row(session, name)
            row.status = JobStatus.QUEUED
            folding.remove_notices(row, QUEUED_CODE)
            folding.add_notice(row, Notice(code=QUEUED_CODE, message=message, level="info"))

    def _launch(self, name: str) -> None:
        """Start a runner. The state is in the database before: a kill in between leads to another start."""
        with self._database.session() as session:
            row = self._row(session, name)
            row.status = JobStatus.STARTING if not row.cancel_requested else JobStatus.CANCEL_REQUESTED
            folding.remove_notices(row, QUEUED_CODE)
        folder = self._folder(name)
        environment = dict(os.environ)
        if self._environment is not None:
            environment.update(self._environment(self.get(name)))
        arguments = [sys.executable, "-P", "-m", "tunesmith.pipelines.runner", str(folder.root)]
        pid = spawn_detached(arguments, environment=environment, log=folder.runner_log)
        self._children.add(pid)
        identity = ProcessId.of(pid)
        with self._database.session() as session:
            row = self._row(session, name)
            row.runner_pid = pid
            row.runner_started = identity.started if identity else None

    def _reap(self) -> None:
        """Take the exit codes of runners that ended, so that none stays a zombie."""
        self._children = {pid for pid in self._children if not reap(pid)}

    def _follow_safely(self, name: str) -> None:
        """Follow one job; whatever is wrong with it does not keep the others from being followed."""
        if not self._folder(name).graph.exists():
            gone = JobFailed(f"its folder is gone: {self._paths.job(name)}", target=name, way_out="submit it again")
            with self._database.session() as session:
                row = self._row(session, name)
                row.status, row.error, row.ended_at = JobStatus.FAILED, gone.to_dict(), utcnow()
            return
        try:
            self._follow(name)
        except Exception as error:
            print(f"jobs: {name}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)

    def _follow(self, name: str) -> None:
        """Bring one job's rows up to what its files say, then see to its runner."""
        with self._database.reading() as session:
            row = self._row(session, name)
            waiting = JobStatus(row.status) in _WAITING
            runner = ProcessId(row.runner_pid, row.runner_started) if row.runner_pid and row.runner_started else None
            launched = runner.started if runner else 0.0
        if waiting:
            return
        alive = self._runner_alive(name, runner)  # before reading: what it wrote before it died is read below
        ended = self._read_all_events(name)
        if ended is not None:
            self._finish(name, ended)
        elif not alive:
            self._revive(name, launched)

    def _runner_alive(self, name: str, runner: ProcessId | None) -> bool:
        body = read_json(self._folder(name).runner)
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
        folder, graph = self._folder(name), self._graph(name)
        ended: dict[str, Any] | None = None
        with self._database.reading() as session:
            offset = self._row(session, name).events_offset
            offsets = {step.name: step.events_offset for step in _steps(session, name)}
        lines, offset = read_lines(folder.events, offset)
        work = {step.name: read_lines(folder.step(step.folder).events, offsets[step.name]) for step in graph.steps}
        if not lines and all(after == offsets[step] for step, (_, after) in work.items()):
            return False, None
        with self._database.session() as session:
            row = self._row(session, name)
            steps = {step.name: step for step in _steps(session, name)}
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
            steps = {step.name: step for step in _steps(session, name)}
            outputs = dict(self._row(session, name).outputs)
        try:
            for key, output in self._graph(name).outputs.items():
                made = steps[output.step].outputs.get(output.output)
                if made is not None:
                    published[key] = {**outputs[key], "path": str(self._publish(name, key, Path(made["path"])))}
        except TunesmithError as failure:
            status, error = JobStatus.FAILED, failure.to_dict()
        except OSError as failure:
            status = JobStatus.FAILED
            error = JobFailed(f"its outputs could not be published: {failure}", target=name).to_dict()
        with self._database.session() as session:
            row = self._row(session, name)
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
            finalizing = self._row(session, name).status == JobStatus.FINALIZING
        if finalizing:  # the end was read, and this server was killed before it was written
            ended = _last_end(self._folder(name))
            if ended is not None:
                self._finish(name, ended)
            return
        soon = time.time() - launched < RUNNER_SOON_S
        self._deaths[name] = self._deaths.get(name, 0) + 1 if soon else 0
        if self._deaths[name] >= RUNNER_DEATHS:
            log = self._folder(name).runner_log
            error = JobFailed(
                f"its runner died {RUNNER_DEATHS} times at its start; last line: {_last_line(log)}",
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
                folding.add_notice(self._row(session, name), notice)
        self._launch(name)

    # ── small parts ─────────────────────────────────────────────────────────────────────────────────────────────

    def _nudge(self, name: str) -> None:
        """Wake the runner so that it sees the cancel file at once."""
        body = read_json(self._folder(name).runner)
        if body is not None:
            runner = ProcessId(int(body["pid"]), float(body["started"]))
            if runner.alive:
                with suppress(ProcessLookupError):
                    os.kill(runner.pid, 15)

    def _row(self, session: Session, name: str) -> JobRow:
        row = session.get(JobRow, name)
        if row is None or (row.deleting and not JobStatus(row.status).terminal):
            raise NotFound(f"there is no job {name[:80]!r}", target="job", way_out="tunesmith jobs list")
        return row

    def _folder(self, name: str) -> JobFolder:
        return JobFolder(self._paths.job(name))

    def _graph(self, name: str) -> Graph:
        if name not in self._graphs:
            try:
                self._graphs[name] = Graph.model_validate_json(self._folder(name).graph.read_text("utf-8"))
            except (OSError, ValueError) as error:
                raise JobFailed(
                    f"the files of the job {name} are gone or damaged: {type(error).__name__}",
                    target=str(self._folder(name).graph),
                    way_out=f"tunesmith jobs delete {name}",
                ) from None
        return self._graphs[name]


def _rows(name: str, request: SubmitJob, graph: Graph) -> tuple[JobRow, builtins.list[JobStepRow]]:
    row = JobRow(
        name=name,
        type=request.type,
        display_name=request.display_name or name,
        experiment_name=request.experiment_name,
        status=JobStatus.NOT_STARTED,
        description=request.description,
        tags=dict(request.tags),
        properties=dict(request.properties),
        compute=(request.compute or request.settings.default_compute or "local").removeprefix("azureml:"),
        settings=request.settings.model_dump(mode="json"),
        inputs=json.loads(json.dumps(request.inputs, default=str)),
        outputs={
            key: Output(type=output.type, uri=f"azureml://jobs/{name}/outputs/{key}").model_dump(mode="json")
            for key, output in graph.outputs.items()
        },
        notices=[notice.model_dump(mode="json") for notice in graph.notices],
        error=None,
        spec=request.model_dump(mode="json", exclude_defaults=True),
        created_at=utcnow(),
        cancel_requested=False,
        deleting=False,
        events_offset=0,
    )
    steps = [
        JobStepRow(
            job=name,
            name=step.name,
            position=position,
            component=step.component_id,
            status=JobStatus.NOT_STARTED,
            attempt=0,
            outputs={},
            log=f"steps/{step.folder}/log.txt",
            events_offset=0,
        )
        for position, step in enumerate(graph.steps)
    ]
    return row, steps


def _steps(session: Session, name: str) -> builtins.list[JobStepRow]:
    return builtins.list(
        session.scalars(select(JobStepRow).where(JobStepRow.job == name).order_by(JobStepRow.position))
    )


def _snapshot_code(graph: Graph, aside: JobFolder, final: JobFolder) -> Graph:
    """Copy each code folder into the job, so that later edits do not reach a job that waits or restarts."""
    copied: dict[str, str] = {}
    steps = []
    for step in graph.steps:
        if step.code is not None:
            if step.code not in copied:
                source = Path(step.code)
                place = f"{hash_code(source)[:16]}"
                target = aside.code / place
                if not target.exists():
                    for relative in [source.name] if source.is_file() else code_files(source):
                        copy = target / relative
                        copy.parent.mkdir(parents=True, exist_ok=True)
                        shutil.copy2(source if source.is_file() else source / relative, copy)
                copied[step.code] = str(final.code / place)
            step = step.model_copy(update={"code": copied[step.code]})
        steps.append(step)
    return graph.model_copy(update={"steps": steps})


def _worth_keeping(events: builtins.list[tuple[int, dict[str, Any]]]) -> builtins.list[tuple[int, dict[str, Any]]]:
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


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except FileNotFoundError:
        return ""


def _last_line(path: Path) -> str:
    lines = [line for line in _read_text(path)[-8192:].splitlines() if line.strip()]
    return lines[-1].strip()[:500] if lines else ""
