"""One step of a job, from its content key to its outputs: reuse it, or run its command and keep what it wrote."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from tunesmith.compute import processes
from tunesmith.compute.processes import ProcessId
from tunesmith.errors import Fault, StepFailed
from tunesmith.pipelines import expressions
from tunesmith.pipelines.cache import MODULES, CachedOutput, Place, StepCache, key_of
from tunesmith.pipelines.causes import exit_message, last_error, last_line
from tunesmith.pipelines.fingerprints import code_files
from tunesmith.pipelines.graph import GraphStep, LiteralInput, OutputInput, PathInput
from tunesmith.pipelines.layout import JobFile, JobFolder, StepFolder, StepResult, read_json
from tunesmith.pipelines.resuming import find_checkpoints, wants_checkpoints
from tunesmith.pipelines.warm import PRELOAD, Nursery, Process
from tunesmith.records.jobs import JobStatus, Part, StepExplanation
from tunesmith.reporting import EVENTS_VARIABLE
from tunesmith.storage.atomic import disk_full_named, remove, sync_tree, write_json
from tunesmith.storage.links import link_tree

CRASH_LOOP = 3
"""A step whose runner died this often in a row within ``CRASH_LOOP_S`` of the start is given up."""
CRASH_LOOP_S = 60.0
MODEL_OUTPUTS = ("mlflow_model", "custom_model", "triton_model", "mltable")
LOOSE = ("outputs", "logs")
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
QUIET = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
}


class Cut(Exception):
    """The runner has to go before the step is done; the next runner starts the step again."""


class Host(Protocol):
    """What a step needs from its runner."""

    folder: JobFolder
    job: JobFile
    cache: StepCache
    nursery: Nursery

    def preloads_next(self, step: GraphStep) -> bool:
        """Whether the step after this one will need what a nursery imports."""

    def interrupted(self) -> bool:
        """Whether to stop now."""

    def canceled(self) -> bool:
        """Whether the job was canceled."""

    def say(self, kind: str, **body: Any) -> None:
        """Append an event of the job."""


class StepRun:
    """Runs one step. ``outputs``: those of the steps before it, by step and name."""

    def __init__(self, host: Host, step: GraphStep, outputs: Mapping[tuple[str, str], CachedOutput]) -> None:
        self.host = host
        self.step = step
        self.before = outputs
        self.folder = host.folder.step(step.folder)
        self.begun = time.time()

    def run(self) -> StepResult:
        """Reuse or run the step.

        Raises:
            Cut: the runner was told to go; nothing is kept but checkpoints.
        """
        self.folder.root.mkdir(parents=True, exist_ok=True)
        attempt = self._recover()
        self.host.say("step", step=self.step.name, status=JobStatus.PREPARING, attempt=attempt)
        parts = self.host.cache.parts(self.step, self.before)
        key = key_of(parts)
        place, explanation = self._decide(key, parts)
        told = {"key": key, "component": self.step.component, **explanation.model_dump()}
        write_json(self.folder.explanation, told)
        if place is not None:
            return self._reuse(key, parts, place)
        outcome = self._execute(attempt, parts)
        if outcome.status == JobStatus.COMPLETED:
            self._remember(key, parts, outcome.cached())
        return outcome

    # ── reuse ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _decide(self, key: str, parts: list[Part]) -> tuple[Place | None, StepExplanation]:
        """The place to reuse, if any, and the explanation."""

        def runs(reason: str) -> tuple[None, StepExplanation]:
            return None, StepExplanation(step=self.step.name, reused=False, reason=reason, parts=parts)

        if self.host.job.settings.force_rerun:
            return runs("settings.force_rerun is true")
        if not self.step.deterministic:
            return runs("its component says is_deterministic: false")
        place = self.host.cache.find(key)
        if place is None:
            return None, self.host.cache.explain_miss(self.host.job.name, self.step, parts)
        where = f"{place.job}/{place.step}"
        return place, StepExplanation(
            step=self.step.name, reused=True, reused_from=where, reason="every part is the same", parts=parts
        )

    def _reuse(self, key: str, parts: list[Part], place: Place) -> StepResult:
        """Link another step's outputs, log and events into this step's folder."""
        self._write_inputs(parts)
        aside = self.folder.outputs_aside
        remove(aside)
        remove(self.folder.outputs)
        with disk_full_named(aside):
            aside.mkdir(parents=True)
            for name, output in place.outputs.items():
                link_tree(output.path, aside / name)
            source, target = StepFolder(place.folder), self.folder
            for old, new in (
                (source.log, target.log),
                (source.events, target.events),
                (source.lineage, target.lineage),
            ):
                if old.exists() and not new.exists():
                    shutil.copyfile(old, new)
            if source.loose.is_dir() and not target.loose.exists():
                link_tree(source.loose, target.loose)
        aside.rename(self.folder.outputs)
        outputs = {
            name: CachedOutput(output.type, self.folder.outputs / name, output.sha256, output.files)
            for name, output in place.outputs.items()
        }
        self._remember(key, parts, outputs)
        return StepResult(
            status=JobStatus.COMPLETED,
            attempt=0,
            started_at=self.begun,
            ended_at=time.time(),
            reused_from=f"{place.job}/{place.step}",
            outputs={name: output.to_dict() for name, output in outputs.items()},
        )

    def _remember(self, key: str, parts: list[Part], outputs: Mapping[str, CachedOutput]) -> None:
        if self.step.deterministic:
            place = Place(self.host.job.name, self.step.name, self.folder.root, outputs)
            self.host.cache.store(key, self.step.component, parts, place)

    # ── running ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _recover(self) -> int:
        """Stop what an earlier runner left running; the number of the attempt that begins now.

        Raises:
            StepFailed: earlier attempts were cut too often, too soon.
        """
        body = read_json(self.folder.process)
        if body is None:
            return 1
        left = ProcessId(int(body["pid"]), float(body["started"]))
        lived = max(0.0, _modified(self.folder.events, self.folder.log) - float(body["started"]))
        if left.alive:
            print(f"{self.step.name}: stopping process {left.pid}, which an earlier runner left", flush=True)
            lived = time.time() - left.started
        processes.stop(left, grace_s=self.host.job.grace_s)
        lives = [*body.get("lives", []), round(lived, 1)]
        write_json(self.folder.process, {**body, "lives": lives})
        recent = lives[-CRASH_LOOP:]
        if len(recent) == CRASH_LOOP and all(life < CRASH_LOOP_S for life in recent):
            raise StepFailed(
                f"its runner died {CRASH_LOOP} times within {CRASH_LOOP_S:.0f} s of the step's start",
                target=self.step.name,
                way_out=f"read {self.folder.log} and {self.host.folder.runner_log}; memory may have run out",
            )
        return len(lives) + 1

    def _execute(self, attempt: int, parts: list[Part]) -> StepResult:
        aside = self.folder.outputs_aside
        remove(aside)
        remove(self.folder.outputs)
        with disk_full_named(aside):
            self._prepare_folders(aside)
            if attempt == 1 and wants_checkpoints(self.step):
                self._take_checkpoints(parts)
        self._write_inputs(parts)
        values = {name: self._value(name) for name in self.step.inputs}
        targets = {name: str(aside / name) for name in self.step.outputs}
        command = expressions.render_command(self.step.command, inputs=values, outputs=targets, name=self.host.job.name)
        if self.host.interrupted():
            return self._interrupted(attempt)
        with self.folder.log.open("ab") as log:
            if attempt > 1:
                log.write(f"\n── attempt {attempt} ──\n".encode())
            else:
                log.write("".join(f"{line}\n" for line in self.step.told).encode("utf-8", "replace"))
            log_start = log.tell()
        events_start = self.folder.events.stat().st_size if self.folder.events.exists() else 0
        lives = (read_json(self.folder.process) or {}).get("lives", [])

        def record(process: ProcessId) -> None:
            write_json(self.folder.process, {"pid": process.pid, "started": process.started, "lives": lives})

        environment = self._environment()
        if self.host.preloads_next(self.step):
            self.host.nursery.wake(environment)  # it imports while this step works
        process = self.host.nursery.start(
            command,
            preload=PRELOAD in self.step.properties,
            cwd=self.folder.work,
            environment=environment,
            log=self.folder.log,
            record=record,
            interrupted=self.host.interrupted,
        )
        self.host.say("step", step=self.step.name, status=JobStatus.RUNNING, attempt=attempt, pid=process.pid)
        identity = ProcessId.of(process.pid)
        stopped = self._wait(process)
        if identity is not None:
            processes.kill_leftovers(identity)
        if stopped:
            return self._interrupted(attempt)
        code = process.wait()
        if code != 0:
            return self._failed(attempt, code, log_start, events_start)
        return self._completed(attempt)

    def _wait(self, process: Process) -> bool:
        """Wait for the end. Whether it ended because it was told to stop."""
        delay = 0.002
        while process.poll() is None:
            if self.host.interrupted():
                self._stop(process)
                return True
            time.sleep(delay)
            delay = min(delay * 1.5, 0.1)
        if process.returncode in (-signal.SIGTERM, 128 + signal.SIGTERM):
            # The machine goes down: everybody gets SIGTERM, the step may have it first.
            deadline = time.monotonic() + 1.0
            while not self.host.interrupted() and time.monotonic() < deadline:
                time.sleep(0.05)
            return self.host.interrupted()
        return False

    def _stop(self, process: Process) -> None:
        processes.signal_group(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=self.host.job.grace_s)
        except subprocess.TimeoutExpired:
            print(f"{self.step.name}: killed after {self.host.job.grace_s:g} s", flush=True)
            processes.signal_group(process.pid, signal.SIGKILL)
            process.wait()

    def _interrupted(self, attempt: int) -> StepResult:
        if not self.host.canceled():
            raise Cut
        return StepResult(status=JobStatus.CANCELED, attempt=attempt, started_at=self.begun, ended_at=time.time())

    def _completed(self, attempt: int) -> StepResult:
        aside = self.folder.outputs_aside
        missing = [name for name, kind in self.step.outputs.items() if not _written(aside / name, kind)]
        if missing:
            raise StepFailed(
                f"it ended well but wrote nothing to {', '.join(missing)}",
                target=self.step.name,
                way_out=f"read {self.folder.log}",
            )
        with disk_full_named(aside):
            sync_tree(aside)
        aside.rename(self.folder.outputs)
        self._keep_loose()
        remove(self.folder.work)
        outputs = {
            name: self.host.cache.output(self.folder.outputs / name, kind) for name, kind in self.step.outputs.items()
        }
        return StepResult(
            status=JobStatus.COMPLETED,
            attempt=attempt,
            started_at=self.begun,
            ended_at=time.time(),
            outputs={name: output.to_dict() for name, output in outputs.items()},
        )

    def _keep_loose(self) -> None:
        """Keep what a command of the user left where Azure ML keeps files too: ``./outputs`` and ``./logs``.

        A folder of that name that came with the code is not one.
        """
        if MODULES in self.step.properties:
            return
        remove(self.folder.loose)
        code = Path(self.step.code) if self.step.code else None
        for name in LOOSE:
            written = self.folder.work / name
            if written.is_dir() and not (code is not None and (code / name).exists()):
                self.folder.loose.mkdir(exist_ok=True)
                written.rename(self.folder.loose / name)

    def _failed(self, attempt: int, code: int, log_start: int, events_start: int) -> StepResult:
        cause = last_error(self.folder.events, events_start)
        extra: dict[str, Any] = {"exit_code": code, "log": str(self.folder.log)}
        way_out = f"read {self.folder.log}"
        if cause is not None:
            message = str(cause.get("message", "it failed"))
            if cause.get("target"):
                message = f"{cause['target']}: {message}"
            extra["cause"] = cause
            way_out = f"{cause['way_out']}; the log: {self.folder.log}" if cause.get("way_out") else way_out
        else:
            message = exit_message(code, last_line(self.folder.log, log_start))
        told = cause.get("details", ()) if cause is not None else ()
        details = [Fault.from_dict(detail) for detail in told if isinstance(detail, dict)]
        error = StepFailed(message, target=self.step.name, way_out=way_out, details=details, extra=extra)
        return StepResult(
            status=JobStatus.FAILED,
            attempt=attempt,
            started_at=self.begun,
            ended_at=time.time(),
            error=error.to_dict(),
        )

    def _take_checkpoints(self, parts: list[Part]) -> None:
        """Link the checkpoints of an earlier job into this step's folder, and say so in its log."""
        jobs = self.host.folder.root.parent
        earlier = find_checkpoints(jobs, self.folder.root, self.step, parts)
        if earlier is None:
            return
        for entry in earlier.checkpoints.iterdir():
            link_tree(entry, self.folder.checkpoints / entry.name)
        with self.folder.log.open("a") as log:
            log.write(f"checkpoints taken over from {earlier.root.relative_to(jobs)}\n")

    # ── what the process gets ───────────────────────────────────────────────────────────────────────────────────

    def _prepare_folders(self, aside: Path) -> None:
        aside.mkdir(parents=True)
        for name, kind in self.step.outputs.items():
            if kind != "uri_file":
                (aside / name).mkdir()
        self.folder.checkpoints.mkdir(exist_ok=True)
        remove(self.folder.work)
        self.folder.work.mkdir()
        if self.step.code:
            code = Path(self.step.code)
            for relative in [code.name] if code.is_file() else code_files(code):
                source = code if code.is_file() else code / relative
                target = self.folder.work / relative
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)

    def _value(self, name: str) -> str:
        binding = self.step.inputs[name]
        if isinstance(binding, LiteralInput):
            # Azure ML gives booleans to commands as Python writes them; the product's own steps read them as JSON does.
            own = MODULES in self.step.properties
            return binding.value if own or binding.type != "boolean" else binding.value.capitalize()
        if isinstance(binding, PathInput):
            return binding.path
        return str(self.before[binding.step, binding.output].path)

    def _write_inputs(self, parts: list[Part]) -> None:
        """``inputs.json``: what a step needs to tell where its results came from."""
        hashes = {part.name.removeprefix("input:"): part.sha256 for part in parts if part.name.startswith("input:")}
        inputs: dict[str, Any] = {}
        for name, binding in self.step.inputs.items():
            entry = {**binding.model_dump(exclude_none=True), "value": self._value(name)}
            if isinstance(binding, OutputInput | PathInput):
                entry["sha256"] = hashes[name]
            inputs[name] = entry
        body = {
            "job": self.host.job.name,
            "step": self.step.name,
            "component": {
                "name": self.step.component,
                "version": self.step.component_version,
                "id": self.step.component_id,
                "sha256": self.step.component_sha256,
            },
            "parts": {part.name: part.sha256 for part in parts if part.name in ("component", "code", "environment")},
            "compute": self.step.compute,
            "resources": self.step.resources,
            "inputs": inputs,
        }
        write_json(self.folder.inputs, body)

    def _environment(self) -> dict[str, str]:
        environment = dict(os.environ)
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', os.defpath)}"
        environment.update(QUIET)
        if self.step.properties.get("network", "").lower() == "true":
            for name in OFFLINE:
                environment.pop(name, None)
        else:
            environment.update(OFFLINE)
        environment.setdefault("OMP_NUM_THREADS", str(_cores()))
        # Threads that spin at a barrier take the cores from whatever else runs here, such as the instances of an
        # endpoint: two busy processes side by side are twice as fast when threads sleep instead.
        environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        environment.update(self.host.job.environment)
        environment.update(self.step.environment_variables)
        environment.update(
            {
                EVENTS_VARIABLE: str(self.folder.events),
                "TUNESMITH_STEP_DIR": str(self.folder.root),
                "TUNESMITH_JOB_DIR": str(self.host.folder.root),
                "TUNESMITH_CHECKPOINTS": str(self.folder.checkpoints),
                "TUNESMITH_HOME": self.host.job.home,
            }
        )
        return environment


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1


def _written(path: Path, kind: str) -> bool:
    """Whether an output is there; a model or a table that is an empty folder is not."""
    if kind == "uri_file":
        return path.is_file()
    return path.is_dir() and (kind not in MODEL_OUTPUTS or any(path.iterdir()))


def _modified(*paths: Path) -> float:
    return max((path.stat().st_mtime for path in paths if path.exists()), default=0.0)
