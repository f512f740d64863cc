"""The runner: a process that runs the steps of one job and outlives everybody who watches it.

    python -m tunesmith.pipelines.runner <job folder>

It reads ``job.json`` and ``graph.json``, runs steps in the graph's order, appends to ``events.jsonl`` and touches no
database. A new runner on the same folder goes on where an earlier one was cut: finished steps stay, the process of the
step that was cut is stopped, and the step starts again with its checkpoints. It imports neither torch nor the craft.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from tunesmith.compute import processes
from tunesmith.compute.processes import ProcessId
from tunesmith.errors import Fault, StepFailed, TunesmithError, error_from_dict
from tunesmith.pipelines.cache import CachedOutput, StepCache
from tunesmith.pipelines.graph import Graph, GraphStep
from tunesmith.pipelines.layout import JobFile, JobFolder, StepResult, append_line, read_json
from tunesmith.pipelines.steprun import Cut, StepRun
from tunesmith.pipelines.warm import PRELOAD, Nursery
from tunesmith.records.jobs import JobStatus
from tunesmith.storage.atomic import write_json
from tunesmith.storage.paths import WorkspacePaths

ALREADY_RUNNING = 3
"""Exit code when another runner holds the job."""


class Runner:
    """Runs one job to its end, or until it is told to stop."""

    def __init__(self, folder: Path) -> None:
        self.folder = JobFolder(folder)
        self.job = JobFile.model_validate_json(self.folder.job.read_text("utf-8"))
        self.graph = Graph.model_validate_json(self.folder.graph.read_text("utf-8"))
        paths = WorkspacePaths(Path(self.job.home))
        self.cache = StepCache(paths.step_cache, paths.hash_cache)
        self.results: dict[str, StepResult] = {}
        self.stopping = False
        named = [module for step in self.graph.steps for module in step.properties.get(PRELOAD, "").split()]
        self.nursery = Nursery(folder, [*dict.fromkeys(named)])

    # ── signals and states ──────────────────────────────────────────────────────────────────────────────────────

    def interrupted(self) -> bool:
        """Whether to stop: the job was canceled, or this process was told to go."""
        return self.stopping or self.canceled()

    def canceled(self) -> bool:
        """Whether somebody asked the job to stop."""
        return self.folder.cancel.exists()

    def stop(self, *_: object) -> None:
        """Signal handler: stop at the next look."""
        self.stopping = True

    def preloads_next(self, step: GraphStep) -> bool:
        """Whether the step after this one will need what a nursery imports."""
        following = self.graph.steps[self.graph.steps.index(step) + 1 :][:1]
        return any(PRELOAD in after.properties for after in following)

    def say(self, kind: str, **body: Any) -> None:
        """Append an event of the job, synced."""
        append_line(self.folder.events, {"t": round(time.time(), 3), "kind": kind, **body})

    # ── the run ─────────────────────────────────────────────────────────────────────────────────────────────────

    def run(self) -> int:
        """Run what is left to run. Exit code 0: the job has ended (whatever way); 1: it was cut and can go on."""
        me = ProcessId.of(os.getpid())
        assert me is not None
        write_json(self.folder.runner, {"pid": me.pid, "started": me.started})
        self.say("job", status=JobStatus.RUNNING, pid=me.pid, process_started=me.started)
        self._recall()
        try:
            return self._run_steps()
        finally:
            self.nursery.close()

    def _run_steps(self) -> int:
        for step in self.graph.steps:
            if step.name in self.results:
                continue
            if self.stopping and not self.canceled():
                return 1
            hindrance = self._hindrance(step)
            if hindrance is not None:
                self._finish(step, hindrance)
                continue
            try:
                self._finish(step, self._run_step(step))
            except Cut:
                return 1
        self._end()
        return 0

    def _recall(self) -> None:
        """Take over the results of earlier runners, and say those again that were not said."""
        said = set()
        for line in self.folder.events.read_text("utf-8", "replace").splitlines():
            with suppress(ValueError):
                event = json.loads(line)
                if event.get("kind") == "step" and JobStatus(event["status"]).terminal:
                    said.add(event["step"])
        for step in self.graph.steps:
            body = read_json(self.folder.step(step.folder).result)
            if body is None:
                continue
            result = StepResult.model_validate(body)
            self.results[step.name] = result
            if step.name not in said:
                self._say_result(step, result)

    def _hindrance(self, step: GraphStep) -> StepResult | None:
        """Why a step will not run, as its result; ``None`` when it may."""
        now = time.time()
        if self.canceled():
            self._stop_left(step)
            return StepResult(status=JobStatus.CANCELED, attempt=0, started_at=now, ended_at=now)
        failed = [name for name, result in self.results.items() if result.status == JobStatus.FAILED]
        bad = [name for name in step.needs if self.results[name].status != JobStatus.COMPLETED]
        if bad:
            message = f"not run: it needs {bad[0]}, which did not complete"
        elif failed and not self.job.settings.continue_on_step_failure:
            message = f"not run: {failed[0]} failed, and settings.continue_on_step_failure is false"
        else:
            return None
        error = StepFailed(message, target=step.name).to_dict()
        return StepResult(status=JobStatus.CANCELED, attempt=0, started_at=now, ended_at=now, error=error)

    def _stop_left(self, step: GraphStep) -> None:
        """Stop what an earlier runner, which was killed, left running of a step that will not run again."""
        body = read_json(self.folder.step(step.folder).process)
        if body is not None:
            processes.stop(ProcessId(int(body["pid"]), float(body["started"])), grace_s=self.job.grace_s)

    def _run_step(self, step: GraphStep) -> StepResult:
        outputs: dict[tuple[str, str], CachedOutput] = {
            (name, key): output for name, result in self.results.items() for key, output in result.cached().items()
        }
        begun = time.time()
        try:
            return StepRun(self, step, outputs).run()
        except Cut:
            raise
        except TunesmithError as error:
            print(f"{step.name}: {error}", flush=True)
            body = error.to_dict()
        except Exception as error:
            traceback.print_exc()
            body = StepFailed(
                f"the runner failed: {type(error).__name__}: {error}",
                target=step.name,
                way_out=f"read {self.folder.runner_log}",
            ).to_dict()
        return StepResult(status=JobStatus.FAILED, attempt=0, started_at=begun, ended_at=time.time(), error=body)

    def _finish(self, step: GraphStep, result: StepResult) -> None:
        self.results[step.name] = result
        lineage = read_json(self.folder.step(step.folder).lineage)
        if lineage is not None and result.status == JobStatus.COMPLETED:
            write_json(self.folder.lineage, lineage)
        write_json(self.folder.step(step.folder).result, result)
        self._say_result(step, result)

    def _say_result(self, step: GraphStep, result: StepResult) -> None:
        body: dict[str, Any] = {"step": step.name, "status": result.status, "attempt": result.attempt}
        body["started_at"] = result.started_at
        body["ended_at"] = result.ended_at
        if result.reused_from:
            body["reused_from"] = result.reused_from
        if result.error:
            body["error"] = result.error
        if result.outputs:
            body["outputs"] = {
                name: {key: output[key] for key in ("type", "path", "sha256")}
                for name, output in result.outputs.items()
            }
        self.say("step", **body)

    def _log(self, step: str) -> str:
        return f"read {self.folder.step(self.graph.step(step).folder).log}"

    def _end(self) -> None:
        results = list(self.results.items())
        failed = [(name, result) for name, result in results if result.status == JobStatus.FAILED]
        if failed:
            name, first = failed[0]
            others = [
                Fault(
                    f"failed: {error_from_dict(result.error or {}).message}", other, StepFailed.code, self._log(other)
                )
                for other, result in failed[1:]
            ]
            cause = error_from_dict(first.error or {})
            error = StepFailed(
                f"step {name} failed: {cause.message}",
                target=name,
                way_out=self._log(name),
                details=[*cause.details, *others],
            )
            self.say("job", status=JobStatus.FAILED, error=error.to_dict())
        elif any(result.status == JobStatus.CANCELED for _, result in results):
            self.say("job", status=JobStatus.CANCELED)
        else:
            self.say("job", status=JobStatus.COMPLETED)


def take(lock: Path) -> IO[bytes] | None:
    """Hold the job's lock for the life of this process; ``None`` when another runner has it."""
    file = lock.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file


def main(arguments: list[str]) -> int:
    """The command line."""
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    folder = Path(arguments[0]).resolve()
    lock = take(JobFolder(folder).runner_lock)
    if lock is None:
        print("another runner is at work on this job", file=sys.stderr)
        return ALREADY_RUNNING
    runner = Runner(folder)
    signal.signal(signal.SIGTERM, runner.stop)
    signal.signal(signal.SIGINT, runner.stop)
    with lock:
        return runner.run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
