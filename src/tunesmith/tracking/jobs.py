"""Shows jobs in MLflow: a run for the job, and a nested run for each step that has metrics.

Reads the database and the steps' ``events.jsonl``; how far MLflow has them is kept in the table ``mirror``, so a
restart loses nothing and doubles nothing: a value that is sent twice (a kill between sending and noting) is one value
in MLflow. Jobs know nothing of this.
"""

from __future__ import annotations

import getpass
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, select, update

from tunesmith.pipelines.events import read_lines
from tunesmith.pipelines.graph import Graph, LiteralInput, PathInput
from tunesmith.pipelines.layout import JobFolder
from tunesmith.records.jobs import JobStatus
from tunesmith.storage.database import Database
from tunesmith.storage.paths import WorkspacePaths
from tunesmith.storage.tables import JobRow, JobStepRow, MirrorRow
from tunesmith.tracking.rest import MISSING, Metric, MlflowError, MlflowRest, RunStatus

log = logging.getLogger("tunesmith.tracking")

JOB_TAG = "tunesmith.job"
STEP_TAG = "tunesmith.step"
MODEL_PREFIX = "model:"
"""Rows of the mirror whose job begins so are registered models, and not ours."""

_ENDS: Mapping[JobStatus, RunStatus] = {
    JobStatus.COMPLETED: "FINISHED",
    JobStatus.FAILED: "FAILED",
    JobStatus.CANCELED: "KILLED",
}
_NOT_IN_KEYS = re.compile(r"[^\w\-. /:]")


@dataclass(frozen=True, slots=True)
class _Job:
    """A job as the database has it now."""

    row: JobRow
    steps: Sequence[JobStepRow]
    mirror: Mapping[str, MirrorRow]
    """By step; the job itself is the empty one."""


class JobMirror:
    """Copies jobs to MLflow."""

    def __init__(self, database: Database, paths: WorkspacePaths) -> None:
        self._database = database
        self._paths = paths
        self._experiments: dict[str, str] = {}

    def pending(self) -> list[str]:
        """Jobs that MLflow does not have wholly, and those it has and the workspace no longer, oldest first."""
        with self._database.reading() as session:
            known = session.execute(
                select(JobRow.name, MirrorRow.done)
                .outerjoin(MirrorRow, (MirrorRow.job == JobRow.name) & (MirrorRow.step == ""))
                .order_by(JobRow.created_at)
            ).all()
            mirrored = session.scalars(
                select(MirrorRow.job).where(MirrorRow.step == "", ~MirrorRow.job.startswith(MODEL_PREFIX))
            ).all()
        jobs = {row.name for row in known}
        return [row.name for row in known if not row.done] + [job for job in mirrored if job not in jobs]

    def copy(self, rest: MlflowRest, name: str) -> None:
        """Bring MLflow up to date with one job.

        Raises:
            MlflowError, httpx.HTTPError: MLflow does not take it now; the next call goes on from here.
        """
        try:
            job = self._read(name)
            if job is None:
                self._forget(rest, name)
            else:
                self._copy(rest, job)
        except MlflowError as error:
            self._experiments.clear()
            if not error.lasting:
                raise
            if error.code == MISSING:
                # MLflow's store was replaced, or a run removed for good: begin again.
                log.warning("MLflow no longer has the run of %s; it is copied again", name)
                self._clear(name)
                return
            log.warning("MLflow refuses %s (%s); what it has of it stays as it is", name, error)
            self._note(name, "", done=True)

    def start_run(self, rest: MlflowRest, name: str) -> str | None:
        """The run of a job, made now if need be; ``None`` when there is no such job."""
        job = self._read(name)
        return None if job is None else self._job_run(rest, job)

    # One job

    def _copy(self, rest: MlflowRest, job: _Job) -> None:
        run_id = self._job_run(rest, job)
        graph = Graph.model_validate_json(self._folder(job.row.name).graph.read_text("utf-8"))
        for step in job.steps:
            self._copy_step(rest, job, step, graph, run_id)
        status = JobStatus(job.row.status)
        if not status.terminal:
            return
        tags = {"tunesmith.status": status.value}
        if job.row.error:
            tags["tunesmith.error"] = str(job.row.error.get("error", {}).get("message", ""))
        if job.row.notices:
            tags["tunesmith.notices"] = "\n".join(str(notice.get("message", "")) for notice in job.row.notices)
        rest.set_tags(run_id, tags)
        rest.end_run(run_id, _ENDS[status], _milliseconds(job.row.ended_at or job.row.created_at))
        self._note(job.row.name, "", done=True)

    def _job_run(self, rest: MlflowRest, job: _Job) -> str:
        row = job.row
        known = job.mirror.get("")
        if known is not None and known.run_id is not None:
            return known.run_id
        tags = {
            **{key: value for key, value in row.tags.items() if value},
            JOB_TAG: row.name,
            STEP_TAG: "",
            "mlflow.user": _user(),
            "mlflow.source.type": "JOB",
            "mlflow.source.name": f"azureml://jobs/{row.name}",
        }
        if row.description:
            tags["mlflow.note.content"] = row.description
        run_id = self._run(rest, row, row.display_name, row.created_at, tags)
        rest.log_params(run_id, {key: _text(value) for key, value in row.inputs.items()})
        with self._database.session() as session:
            session.merge(MirrorRow(job=row.name, step="", run_id=run_id, events_offset=0, done=False))
            session.execute(update(JobRow).where(JobRow.name == row.name).values(mlflow_run_id=run_id))
        return run_id

    def _copy_step(self, rest: MlflowRest, job: _Job, step: JobStepRow, graph: Graph, parent: str) -> None:
        known = job.mirror.get(step.name)
        if known is not None and known.done:
            return
        offset = known.events_offset if known is not None else 0
        run_id = known.run_id if known is not None else None
        path = self._folder(job.row.name).step(graph.step(step.name).folder).events
        while True:
            lines, after = read_lines(path, offset)
            metrics = [metric for _, event in lines if event["kind"] == "metric" for metric in _metrics(event)]
            if metrics:
                if run_id is None:
                    run_id = self._step_run(rest, job, step, graph, parent)
                rest.log_metrics(run_id, metrics)
            if after == offset:
                break
            offset = after
            self._note(job.row.name, step.name, run_id=run_id, offset=offset)
        status = JobStatus(step.status)
        if status.terminal:
            if run_id is not None:
                rest.end_run(run_id, _ENDS[status], _milliseconds(step.ended_at or step.started_at))
            self._note(job.row.name, step.name, run_id=run_id, offset=offset, done=True)

    def _step_run(self, rest: MlflowRest, job: _Job, step: JobStepRow, graph: Graph, parent: str) -> str:
        tags = {
            JOB_TAG: job.row.name,
            STEP_TAG: step.name,
            "mlflow.parentRunId": parent,
            "mlflow.user": _user(),
            "mlflow.source.type": "JOB",
            "mlflow.source.name": step.component,
        }
        if step.reused_from:
            tags["tunesmith.reused_from"] = step.reused_from
        name = step.name.rsplit("/", 1)[-1]
        run_id = self._run(rest, job.row, name, step.started_at or job.row.created_at, tags)
        params = {}
        for key, binding in graph.step(step.name).inputs.items():
            if isinstance(binding, LiteralInput):
                params[key] = binding.value
            elif isinstance(binding, PathInput):
                params[key] = binding.reference
        rest.log_params(run_id, params)
        return run_id

    def _run(self, rest: MlflowRest, row: JobRow, name: str, start: datetime, tags: Mapping[str, str]) -> str:
        """A run with ``tags``: one that was made before a kill is found again."""
        experiment = self._experiments.get(row.experiment_name)
        if experiment is None:
            experiment = self._experiments[row.experiment_name] = rest.experiment(row.experiment_name)
        found = rest.find_run(experiment, {JOB_TAG: tags[JOB_TAG], STEP_TAG: tags[STEP_TAG]})
        if found is None:
            found = rest.create_run(experiment, name, _milliseconds(start), tags)
        return found.id

    # Jobs that are gone

    def _forget(self, rest: MlflowRest, name: str) -> None:
        with self._database.reading() as session:
            runs = session.scalars(select(MirrorRow.run_id).where(MirrorRow.job == name)).all()
        for run_id in runs:
            if run_id is not None:
                rest.delete_run(run_id)
        self._clear(name)

    def _clear(self, name: str) -> None:
        with self._database.session() as session:
            session.execute(delete(MirrorRow).where(MirrorRow.job == name))

    # The database

    def _read(self, name: str) -> _Job | None:
        with self._database.reading() as session:
            row = session.get(JobRow, name)
            steps = session.scalars(
                select(JobStepRow).where(JobStepRow.job == name).order_by(JobStepRow.position)
            ).all()
            mirror = session.scalars(select(MirrorRow).where(MirrorRow.job == name)).all()
        if row is None or row.deleting:
            return None
        return _Job(row, steps, {entry.step: entry for entry in mirror})

    def _note(
        self, name: str, step: str, *, run_id: str | None = None, offset: int | None = None, done: bool = False
    ) -> None:
        with self._database.session() as session:
            row = session.get(MirrorRow, (name, step))
            if row is None:
                row = MirrorRow(job=name, step=step, events_offset=0, done=False)
                session.add(row)
            row.run_id = run_id or row.run_id
            row.events_offset = row.events_offset if offset is None else offset
            row.done = done

    def _folder(self, name: str) -> JobFolder:
        return JobFolder(self._paths.job(name))


def _metrics(event: Mapping[str, Any]) -> list[Metric]:
    timestamp, step = int(float(event["t"]) * 1000), int(event.get("step", 0))
    return [
        Metric(_NOT_IN_KEYS.sub("_", key), float(value), timestamp, step)
        for key, value in event.get("values", {}).items()
    ]


def _text(value: Any) -> str:
    """An input as a parameter: a literal, or the path of a mapping."""
    if isinstance(value, Mapping):
        value = value.get("path", value.get("value", value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _milliseconds(moment: datetime | None) -> int:
    return int(moment.timestamp() * 1000) if moment is not None else 0


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container without a name for its user
        return "unknown"
