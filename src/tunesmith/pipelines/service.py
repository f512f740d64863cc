"""Jobs: submit, watch, cancel, explain, delete.

What is written here is on disk before it is acknowledged; ``following`` brings the database up to what runners wrote.
"""

from __future__ import annotations

import builtins
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from tunesmith.compute.processes import ProcessId
from tunesmith.errors import AlreadyExists, Conflict, Fault, NotFound, ValidationFailed
from tunesmith.pipelines import folding, reproducing
from tunesmith.pipelines.cache import StepCache
from tunesmith.pipelines.events import JobEvents, metric_events
from tunesmith.pipelines.expand import build_graph
from tunesmith.pipelines.files import JobFiles, read_text, snapshot_code
from tunesmith.pipelines.following import QUEUED_CODE, WAITING, JobFollower, StepEnvironment
from tunesmith.pipelines.graph import Graph
from tunesmith.pipelines.layout import JobFile, JobFolder, read_json
from tunesmith.pipelines.naming import job_name
from tunesmith.pipelines.resolver import Resolver
from tunesmith.pipelines.rows import job_row, new_rows, step_rows
from tunesmith.records.base import utcnow
from tunesmith.records.jobs import (
    Comparison,
    Job,
    JobStatus,
    MetricPoint,
    Output,
    StepExplanation,
    SubmitJob,
    UpdateJob,
)
from tunesmith.records.workspace import JobEvent
from tunesmith.storage import atomic, names
from tunesmith.storage.artifacts import ArtifactStore
from tunesmith.storage.database import Database
from tunesmith.storage.paths import WorkspacePaths
from tunesmith.storage.tables import JobRow, JobStepRow


class JobService:
    """The jobs of a workspace.

    Args:
        database, paths, store: the workspace's.
        resolver: answers references.
        max_running: how many jobs run at once; light ones do not count. The others are ``Queued``, and say why.
        grace_s: seconds between asking a step to stop and killing it.
        admit: the faults of a whole graph, which its fields one by one cannot show.
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
        admit: Callable[[Graph], builtins.list[Fault]] | None = None,
        environment: StepEnvironment | None = None,
    ) -> None:
        self._database = database
        self._paths = paths
        self._store = store
        self._resolver = resolver
        self._admit = admit
        self._grace_s = grace_s
        self._files = JobFiles(paths)
        self._follower = JobFollower(database, self._files, store, max_running=max_running, environment=environment)
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
        graph = self._build(request)
        row, steps = new_rows(name, request, graph)
        return folding.to_record(row, steps)

    def submit(self, request: SubmitJob) -> Job:
        """Check a job, put it on disk and in the database, and start it (or queue it).

        Raises:
            ValidationFailed: every fault at once; nothing was started and nothing is left.
            AlreadyExists: the name is taken.
            DiskFull: no room for the job's folder.
        """
        return self._enter(request, self._build(request))

    def reproduce(self, name: str) -> Job:
        """Start a job that runs a completed one again, with the same inputs, code and values, reusing nothing.

        Raises:
            NotFound: there is no such job.
            Conflict: it did not complete, or wrote no losses to compare.
            ValidationFailed: inputs are gone or were changed since; every one is named.
        """
        job = self.get(name)
        graph = reproducing.again(job, self._files.graph(name), self._files.folder(name), self._step_cache())
        request = SubmitJob.model_validate(job.spec)
        settings = request.settings.model_copy(update={"force_rerun": True})
        properties = {**request.properties, reproducing.REPRODUCES: name}
        fresh = {"name": None, "display_name": f"{job.display_name} again"}
        return self._enter(request.model_copy(update={**fresh, "settings": settings, "properties": properties}), graph)

    def compare(self, name: str, other: str) -> Comparison:
        """The losses of two runs of a job, one beside the other, and what is recorded to differ.

        Raises:
            NotFound: there is no such job.
            Conflict: one of them wrote no losses.
        """
        runs = [(self.get(each).name, self._files.graph(each), self._files.folder(each)) for each in (name, other)]
        return reproducing.compare(runs[0], runs[1], self._step_cache())

    def _step_cache(self) -> StepCache:
        return StepCache(self._paths.step_cache, self._paths.hash_cache)

    def _enter(self, request: SubmitJob, graph: Graph) -> Job:
        """Put a job on disk and in the database, and start it or queue it."""
        with self._follower.lock:
            name = self._name(request)
            folder = self._paths.job(name)
            with atomic.new_folder(folder) as aside:
                graph = snapshot_code(graph, JobFolder(aside), JobFolder(folder))
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
                    row, steps = new_rows(name, request, graph)
                    session.add(row)
                    session.flush()
                    session.add_all(steps)
            except BaseException:
                atomic.remove(folder)
                raise
            self._follower.start_waiting()
        self._wake.set()
        return self.get(name)

    def _build(self, request: SubmitJob) -> Graph:
        graph = build_graph(request, self._resolver)
        faults = self._admit(graph) if self._admit is not None else []
        if faults:
            raise ValidationFailed("the job cannot run as it is asked for; nothing was started", details=faults)
        return graph

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
            row = job_row(session, name)
            return folding.to_record(row, step_rows(session, name))

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
        stream = JobEvents(self._files.folder(name), self._files.graph(name), after)
        events = stream.read()
        return events, over and not events

    def logs(self, name: str, step: str | None = None) -> str:
        """What the steps printed, or one of them. With several, each under a heading with its name.

        Raises:
            NotFound: there is no such job or step.
        """
        self.get(name)
        graph, folder = self._files.graph(name), self._files.folder(name)
        known = [entry.name for entry in graph.steps]
        if step is not None:
            match = [entry for entry in known if entry == step or entry.rsplit("/", 1)[-1] == step]
            if not match:
                raise NotFound(
                    f"the job {name} has no step {step!r}", target="step", way_out=f"steps: {', '.join(known)}"
                )
            return read_text(folder.step(graph.step(match[0]).folder).log)
        texts = [(entry.name, read_text(folder.step(entry.folder).log)) for entry in graph.steps]
        return "\n".join(f"── {title} ──\n{text}" for title, text in texts if text)

    def metrics(self, name: str) -> builtins.list[MetricPoint]:
        """Every value of every metric so far; what a restarted step wrote again takes the place of the first."""
        self.get(name)
        found: dict[tuple[str, str, int], MetricPoint] = {}
        for step in self._files.graph(name).steps:
            for event in metric_events(self._files.folder(name).step(step.folder).events):
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
        for step in self._files.graph(name).steps:
            body = read_json(self._files.folder(name).step(step.folder).explanation)
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
        body = read_json(self._files.folder(name).lineage)
        return body if isinstance(body, dict) else None

    # ── describing ──────────────────────────────────────────────────────────────────────────────────────────────

    def update(self, name: str, request: UpdateJob) -> Job:
        """Describe a job anew, or archive it; nothing that it does changes.

        Raises:
            NotFound: there is no such job.
        """
        with self._follower.lock, self._database.session() as session:
            row = job_row(session, name)
            if request.display_name is not None:
                row.display_name = request.display_name or name
            if request.description is not None:
                row.description = request.description
            if request.tags is not None:
                row.tags = {**row.tags, **request.tags}
            properties = {**row.properties, **(request.properties or {})}
            if request.archived is not None:
                properties.pop(folding.ARCHIVED, None)
                if request.archived:
                    properties[folding.ARCHIVED] = "true"
            row.properties = properties
        return self.get(name)

    # ── ending ──────────────────────────────────────────────────────────────────────────────────────────────────

    def cancel(self, name: str) -> Job:
        """Ask a job to stop. One that waits is canceled at once; one that has ended stays as it is.

        Raises:
            NotFound: there is no such job.
        """
        with self._follower.lock:
            with self._database.session() as session:
                row = job_row(session, name)
                status = JobStatus(row.status)
                if not status.terminal:
                    row.cancel_requested = True
                    if status in WAITING:
                        self._cancel_waiting(session, row)
                    else:
                        row.status = JobStatus.CANCEL_REQUESTED
            if not status.terminal and status not in WAITING:
                atomic.write_text(self._files.folder(name).cancel, "")
                self._nudge(name)
        self._wake.set()
        return self.get(name)

    def delete(self, name: str) -> int:
        """Delete a job that has ended, with its files; the bytes freed.

        Raises:
            NotFound: there is no such job.
            Conflict: it has not ended.
        """
        with self._follower.lock:
            with self._database.session() as session:
                row = job_row(session, name)
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
        self._files.forget(name)
        with self._database.session() as session:
            row = session.get(JobRow, name)
            if row is not None:
                session.delete(row)
        return freed

    def _cancel_waiting(self, session: Session, row: JobRow) -> None:
        row.status = JobStatus.CANCELED
        row.ended_at = utcnow()
        folding.remove_notices(row, QUEUED_CODE)
        for step in step_rows(session, row.name):
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
        return self._follower.reconcile()

    def _clean(self) -> None:
        """Finish deletions that were cut, and remove folders of jobs that were never acknowledged."""
        with self._follower.lock:
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

    # ── small parts ─────────────────────────────────────────────────────────────────────────────────────────────

    def _nudge(self, name: str) -> None:
        """Wake the runner so that it sees the cancel file at once."""
        body = read_json(self._files.folder(name).runner)
        if body is not None:
            runner = ProcessId(int(body["pid"]), float(body["started"]))
            if runner.alive:
                with suppress(ProcessLookupError):
                    os.kill(runner.pid, 15)
