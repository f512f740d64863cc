"""Running a job again just as it ran, and telling whether it came out the same.

The graph on disk has everything bound, so the second run needs no registry: it takes the same files, the same code
snapshots and the same values. What was hashed when the job ran must have the same hash now. Nothing is reused and no
checkpoint is taken over: every step runs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.errors import Conflict, Fault, TunesmithError, ValidationFailed
from tunesmith.finetune.result import RESULT_FILE
from tunesmith.models.adapter_files import LOCK_FILE
from tunesmith.pipelines.cache import StepCache
from tunesmith.pipelines.events import metric_events
from tunesmith.pipelines.fingerprints import hash_code, text_sha256
from tunesmith.pipelines.graph import Graph, GraphStep, LiteralInput, OutputInput, PathInput
from tunesmith.pipelines.layout import JobFolder, read_json
from tunesmith.pipelines.resuming import RESUME
from tunesmith.records.jobs import Comparison, Job, JobStatus, LossDifference, Part

REPRODUCES = "reproduces"
"""Property of a job that runs another one again: the other's name."""
_LOSSES = ("loss", "eval_loss")
_MEASURED = ("precision.rates", "result")
"""What a lock tells that differs between equal runs: measured rates, and what came out."""

Series = dict[tuple[str, str], dict[int, float]]
"""By step of the job and name of the loss: the value at each optimiser step."""


def again(job: Job, graph: Graph, folder: JobFolder, cache: StepCache) -> Graph:
    """The graph to run ``job`` again.

    Raises:
        Conflict: the job did not complete, or wrote no losses that could be compared.
        ValidationFailed: inputs are gone or were changed; every one is named.
    """
    if job.status != JobStatus.COMPLETED:
        raise Conflict(
            f"the job {job.name} is {job.status}; only a completed job can be compared with",
            target=job.name,
            way_out=f"submit it anew, or wait for it: tunesmith jobs stream {job.name}",
        )
    if not losses(graph, folder):
        raise Conflict(
            f"the job {job.name} wrote no losses: there is nothing to compare",
            target=job.name,
            way_out="reproduce a job that trains",
        )
    faults = list(_lost(graph, folder, cache))
    if faults:
        raise ValidationFailed(f"the job {job.name} cannot be run again as it ran", details=faults)
    return graph.model_copy(update={"steps": [_afresh(step) for step in graph.steps]})


def _afresh(step: GraphStep) -> GraphStep:
    """The step, not asking for an earlier job's checkpoints."""
    resume = step.properties.get(RESUME, "")
    asked = step.inputs.get(resume)
    if not isinstance(asked, LiteralInput) or asked.value != "true":
        return step
    return step.model_copy(update={"inputs": {**step.inputs, resume: asked.model_copy(update={"value": "false"})}})


def _lost(graph: Graph, folder: JobFolder, cache: StepCache) -> Iterator[Fault]:
    """A fault for each input or code that is no longer what it was; each is told once."""
    told: set[str] = set()
    for step in graph.steps:
        recorded = {part.name: part.sha256 for part in _parts(folder, step)}
        for name, binding in step.inputs.items():
            sha256 = recorded.get(f"input:{name}")
            if not isinstance(binding, PathInput) or sha256 is None or binding.reference in told:
                continue
            message = _hindrance(binding, sha256, cache)
            if message is not None:
                told.add(binding.reference)
                yield Fault(message, f"{step.name}.inputs.{name}", "InputChanged", "put it back as it was")
        if step.code is not None and "code" in recorded and step.code not in told:
            code = Path(step.code)
            if not code.exists() or hash_code(code) != recorded["code"]:
                told.add(step.code)
                yield Fault("the snapshot of its code is gone or was changed", f"{step.name}.code", "InputChanged")


def _hindrance(binding: PathInput, sha256: str, cache: StepCache) -> str | None:
    model = binding.model
    if model is not None and sha256 == text_sha256(f"{binding.reference}\0{model.source}"):
        return None  # its weights were fetched by the job; where they come from is in the graph
    try:
        now = cache.path_sha256(binding)
    except TunesmithError:
        return f"{binding.reference} is no longer there"
    if now == sha256:
        return None
    if model is not None and not Path(binding.path).exists():
        return f"the weights of {binding.reference} are no longer there"
    return f"{binding.reference} was changed since: its hash was {sha256[:12]} and is {now[:12]}"


# ── comparing ────────────────────────────────────────────────────────────────────────────────────────────────────


def compare(before: tuple[str, Graph, JobFolder], after: tuple[str, Graph, JobFolder], cache: StepCache) -> Comparison:
    """Every loss of one run beside the other's, and what is recorded to differ. Each run: name, graph, folder.

    Raises:
        Conflict: one of them wrote no losses.
    """
    series = []
    for name, graph, folder in (before, after):
        found = losses(graph, folder)
        if not found:
            raise Conflict(f"the job {name} wrote no losses", target=name, way_out=f"tunesmith jobs show {name}")
        series.append(found)
    first, values, last = _first_difference(*series)
    hashes = [_weights(graph, folder) for _, graph, folder in (before, after)]
    weights_equal = hashes[0] == hashes[1] if all(hashes) else None
    return Comparison(
        before=before[0],
        after=after[0],
        equal=first is None and weights_equal is not False,
        values=values,
        steps=last,
        first=first,
        weights_equal=weights_equal,
        changed=_changed(before, after, cache),
    )


def losses(graph: Graph, folder: JobFolder) -> Series:
    """The losses that steps wrote: of every optimiser step where training kept them, else as they were logged."""
    found: Series = {}
    for step in graph.steps:
        for event in metric_events(folder.step(step.folder).events):
            for key, value in event.get("values", {}).items():
                if key in _LOSSES:
                    found.setdefault((step.name, key), {})[int(event.get("step", 0))] = float(value)
        for result in _documents(folder, step, RESULT_FILE):
            each = result.get("losses") or []
            if each:
                found[step.name, "loss"] = {number: float(value) for number, value in enumerate(each, 1)}
    return found


def _first_difference(before: Series, after: Series) -> tuple[LossDifference | None, int, int]:
    """The first difference, how many losses both have, and the last optimiser step of these."""
    values = last = 0
    first: tuple[tuple[int, str, str], LossDifference] | None = None
    for job_step, key in {**before, **after}:
        old, new = before.get((job_step, key), {}), after.get((job_step, key), {})
        for step in sorted(old.keys() | new.keys()):
            one, other = old.get(step), new.get(step)
            if one is not None and other is not None:
                values, last = values + 1, max(last, step)
                if one == other or (one != one and other != other):
                    continue
            place = (step, job_step, key)
            if first is None or place < first[0]:
                first = (place, LossDifference(job_step=job_step, key=key, step=step, before=one, after=other))
            break
    return (first[1] if first else None), values, last


def _weights(graph: Graph, folder: JobFolder) -> dict[str, str]:
    return {
        step.name: str(result["weights_sha256"])
        for step in graph.steps
        for result in _documents(folder, step, RESULT_FILE)
        if "weights_sha256" in result
    }


def _changed(before: tuple[str, Graph, JobFolder], after: tuple[str, Graph, JobFolder], cache: StepCache) -> list[str]:
    lines: list[str] = []
    new_steps = {step.name: step for step in after[1].steps}
    for step in before[1].steps:
        other = new_steps.get(step.name)
        if other is None:
            lines.append(f"{step.name} is not a step of {after[0]}")
            continue
        lines += cache.changes(_own(before[2], step), _own(after[2], other))
        old, new = ({} for _ in range(2))
        for document in _documents(before[2], step, LOCK_FILE):
            old = _flat(document)
        for document in _documents(after[2], other, LOCK_FILE):
            new = _flat(document)
        lines += [
            f"{LOCK_FILE}: {name} {old.get(name, 'not set')} -> {new.get(name, 'not set')}"
            for name in sorted(old.keys() | new.keys())
            if old.get(name) != new.get(name) and not name.startswith(_MEASURED)
        ]
    return list(dict.fromkeys(lines))


def _own(folder: JobFolder, step: GraphStep) -> list[Part]:
    """The parts of a step's key that came from outside; what another step wrote holds times, and so differs anyway."""
    written = {f"input:{name}" for name, binding in step.inputs.items() if isinstance(binding, OutputInput)}
    resume = f"parameter:{step.properties.get(RESUME)}"
    return [part for part in _parts(folder, step) if part.name not in written and part.name != resume]


def _parts(folder: JobFolder, step: GraphStep) -> Sequence[Part]:
    body = read_json(folder.step(step.folder).explanation) or {}
    return [Part.model_validate(part) for part in body.get("parts", ())]


def _documents(folder: JobFolder, step: GraphStep, name: str) -> Iterator[dict[str, Any]]:
    """The JSON files of that name in a step's outputs."""
    outputs = folder.step(step.folder).outputs
    for path in sorted(outputs.glob(f"*/{name}")) if outputs.is_dir() else ():
        body = read_json(path)
        if isinstance(body, dict):
            yield body


def _flat(body: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted names to values as text."""
    found: dict[str, str] = {}
    for key, value in body.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            found.update(_flat(value, f"{name}."))
        else:
            found[name] = value if isinstance(value, str) else json.dumps(value)
    return found
