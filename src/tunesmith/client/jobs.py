"""``workspace.jobs``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tunesmith.client.assets import segment
from tunesmith.client.files import Files
from tunesmith.client.printing import Listing, seconds_of
from tunesmith.client.specs import read_spec
from tunesmith.client.transport import Transport
from tunesmith.client.views import Job
from tunesmith.errors import JobCanceled, JobFailed, Unreachable, error_from_dict
from tunesmith.records.jobs import Comparison, JobStatus, MetricPoint, Output, StepExplanation, SubmitJob
from tunesmith.records.validation import parse
from tunesmith.records.workspace import Deleted, JobEvent

PATH = "/api/v1/jobs"
RECONNECT_SECONDS = 120.0
"""How long a stream looks for a server that went away. A restart takes a few seconds; the job goes on meanwhile."""


class Jobs:
    """Runs of pipelines and commands.

    Examples:
        >>> job = ws.jobs.submit({"type": "command", "command": "echo hello", "name": "say-hello"})
        >>> job = ws.jobs.wait(job.name)
        >>> job.status.value, "hello" in ws.jobs.logs(job.name)
        ('Completed', True)
        >>> ws.jobs.submit({"type": "command", "comand": "echo hello"})
        Traceback (most recent call last):
        ...
        tunesmith.errors.ValidationFailed: ...
    """

    def __init__(self, transport: Transport, files: Files) -> None:
        self._transport = transport
        self._files = files

    def submit(self, spec: SubmitJob | Mapping[str, Any] | str | Path) -> Job:
        """Check a job and start it.

        Args:
            spec: A ``SubmitJob``, a mapping in Azure ML's job schema, or the path of a YAML file. Relative paths in it
                start from the file's folder, or from the working directory.

        Raises:
            ValidationFailed: every fault in one answer; nothing was started.
        """
        body = self._transport.request("POST", PATH, body=self._prepare(spec), slow=True)
        return Job.model_validate(body)

    def validate(self, spec: SubmitJob | Mapping[str, Any] | str | Path) -> Job:
        """Check a job as ``submit`` does and start nothing; return it as it would run.

        Raises:
            ValidationFailed: every fault in one answer.
        """
        answer = self._transport.request(
            "POST", PATH, body=self._prepare(spec), params={"validate_only": True}, slow=True
        )
        return Job.model_validate(answer)

    def get(self, name: str) -> Job:
        """One job with its steps as they stand now."""
        return Job.model_validate(self._transport.request("GET", self._path(name)))

    def list(
        self, *, status: str | None = None, experiment_name: str | None = None, limit: int | None = None
    ) -> Listing[Job]:
        """Jobs, newest first; at most ``limit`` of them."""
        params = {"status": status, "experiment_name": experiment_name, "limit": limit}
        found = [Job.model_validate(item) for item in self._transport.request("GET", PATH, params=params)]
        return Listing(
            found,
            (
                ("name", lambda job: job.name),
                ("display name", lambda job: job.display_name),
                ("experiment", lambda job: job.experiment_name),
                ("status", lambda job: job.status),
                ("created", lambda job: job.created_at),
                ("took", lambda job: seconds_of(job.started_at, job.ended_at)),
            ),
            what="jobs",
        )

    def cancel(self, name: str) -> Job:
        """Ask a job to stop; a training step stops at a checkpoint.

        Returns at once with the state ``CancelRequested``.
        """
        return Job.model_validate(self._transport.request("POST", f"{self._path(name)}/cancel"))

    def reproduce(self, name: str) -> Job:
        """Start a job that runs a completed one again: same inputs, code and values, nothing reused.

        Follow it with ``wait``, then ``compare`` the two.

        Raises:
            Conflict: the job did not complete, or wrote no losses to compare.
            ValidationFailed: inputs are gone or were changed since; every one is named.
        """
        return Job.model_validate(self._transport.request("POST", f"{self._path(name)}/reproduce", slow=True))

    def compare(self, name: str, other: str) -> Comparison:
        """The losses of two runs of a job, one beside the other, and what is recorded to differ.

        Args:
            name: The earlier job.
            other: The later one.

        Raises:
            Conflict: one of them wrote no losses.
        """
        return Comparison.model_validate(self._get(name, f"compare/{segment(other)}"))

    def delete(self, name: str) -> int | None:
        """Delete a job that has ended, with its files; return the bytes that were freed, where known.

        Raises:
            Conflict: it still runs, or something that lives on needs its outputs.
        """
        body = self._transport.request("DELETE", self._path(name), slow=True)
        return Deleted.model_validate(body or {}).freed_bytes

    def events(self, name: str, follow: bool = True, after: str | None = None) -> Iterator[JobEvent]:
        """What happened in a job, in order; with ``follow``, also what happens next, until the job is over.

        When the server goes away the stream waits for it to come back and goes on where it was: no event is lost or
        repeated.

        Args:
            name: Of the job.
            follow: Wait for further events until the job is over.
            after: The ``id`` of the last event that is known already.

        Raises:
            NotFound: there is no such job.
            Unreachable: the server stayed away for two minutes.
        """
        lost: float | None = None
        while True:
            try:
                params = {"follow": follow, "after": after}
                for event in self._transport.events(f"{self._path(name)}/events", params=params):
                    lost = None
                    if event.event == "end":
                        return
                    found = JobEvent.model_validate_json(event.data)
                    after = event.id or found.id
                    yield found
                if not follow:
                    return
            except Unreachable:
                if not follow:
                    raise
                lost = lost or time.monotonic()
                if time.monotonic() - lost > RECONNECT_SECONDS:
                    raise
            time.sleep(0.2)

    def stream(self, name: str, on_event: Callable[[JobEvent], None] | None = None) -> Job:
        """Follow a job to its end, and return it as it ended, whatever its outcome.

        Args:
            name: Of the job.
            on_event: Called for each event.
        """
        for event in self.events(name):
            if on_event is not None:
                on_event(event)
        return self.get(name)

    def wait(self, name: str) -> Job:
        """Follow a job to its end.

        Raises:
            JobFailed: it failed; the message is the cause and ``extra["job"]`` its name.
            JobCanceled: it was canceled.
        """
        job = self.stream(name)
        if job.status == JobStatus.FAILED:
            cause = error_from_dict(job.error or {"message": "the job failed"})
            raise JobFailed(
                cause.message,
                target=cause.target or job.name,
                way_out=cause.way_out or f"read its log: `tunesmith jobs logs {job.name}`",
                details=cause.details,
                extra={**cause.extra, "job": job.name},
            )
        if job.status == JobStatus.CANCELED:
            raise JobCanceled(f"the job {job.name} was canceled", target=job.name, extra={"job": job.name})
        return job

    def logs(self, name: str, step: str | None = None) -> str:
        """The text that a job's steps wrote; of one step where ``step`` names it."""
        path = f"{self._path(name)}/logs"
        return self._transport.text(f"{path}/{'/'.join(map(segment, step.split('/')))}" if step else path)

    def metrics(self, name: str) -> Listing[MetricPoint]:
        """Every value of every metric so far."""
        found = [MetricPoint.model_validate(item) for item in self._get(name, "metrics")]
        return Listing(
            found,
            (
                ("metric", lambda point: point.key),
                ("step", lambda point: point.step),
                ("value", lambda point: point.value),
                ("of", lambda point: point.job_step),
            ),
            what="metrics",
        )

    def outputs(self, name: str) -> dict[str, Output]:
        """A job's outputs by name, with their references and paths."""
        return {key: Output.model_validate(value) for key, value in self._get(name, "outputs").items()}

    def download(self, name: str, path: str | Path = ".", *, output: str | None = None) -> Path:
        """Copy a job's outputs into ``path/<output>``; return ``path``.

        Args:
            name: Of the job.
            path: The folder to write into; made where it does not exist.
            output: Only this one.

        Raises:
            NotFound: there is no such output (yet).
        """
        to = Path(path).absolute()
        for each in [output] if output else sorted(self.outputs(name)):
            self._files.fetch(f"{self._path(name)}/outputs/{segment(each)}/files", to / each)
        return to

    def explain(self, name: str) -> Listing[StepExplanation]:
        """Why each step ran or was reused, against the closest earlier run."""
        found = [StepExplanation.model_validate(item) for item in self._get(name, "explain")]
        return Listing(
            found,
            (
                ("step", lambda step: step.step),
                ("reused", lambda step: step.reused),
                ("reason", lambda step: step.reason),
                ("changed", lambda step: "\n".join(step.changed)),
            ),
            what="steps",
        )

    def _prepare(self, spec: SubmitJob | Mapping[str, Any] | str | Path) -> SubmitJob:
        if isinstance(spec, SubmitJob):
            body, base = spec.model_dump(mode="json", exclude_unset=True), Path.cwd()
        else:
            body, base = read_spec(spec)
        base = Path(body.get("base_path") or base)
        body["base_path"] = str(base)
        if not self._files.shared:
            body = self._sent(body, base)
        return parse(SubmitJob, body, what="job")

    def _sent(self, body: dict[str, Any], base: Path) -> dict[str, Any]:
        """The job with every local file uploaded: its inputs, its nodes' inputs and their code."""
        made = dict(body)
        made["inputs"] = self._files.inputs(made.get("inputs") or {}, base=base)
        if isinstance(made.get("code"), str):
            made["code"] = self._files.usable(made["code"], target="code", base=base)
        if isinstance(component := made.get("component"), Mapping):
            made["component"] = self._sent(dict(component), base) if "code" in component else component
        made["jobs"] = {
            key: self._sent(dict(node), base) if isinstance(node, Mapping) else node
            for key, node in (made.get("jobs") or {}).items()
        }
        return {key: value for key, value in made.items() if key in body or value}

    def _path(self, name: str) -> str:
        return f"{PATH}/{segment(name)}"

    def _get(self, name: str, what: str) -> Any:
        return self._transport.request("GET", f"{self._path(name)}/{what}")
