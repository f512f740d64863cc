"""Jobs for a person: the tree of steps, the outcome, and why a step ran."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.text import Text
from rich.tree import Tree

from tunesmith.display.units import duration, when

if TYPE_CHECKING:
    from tunesmith.records.jobs import Comparison, Job, Step, StepExplanation

STYLES = {
    "Completed": "green",
    "Failed": "bold red",
    "Canceled": "yellow",
    "CancelRequested": "yellow",
    "Running": "cyan",
    "Queued": "cyan",
    "NotStarted": "dim",
}


def job_tree(job: Job) -> RenderableType:
    """The job with its steps as a tree, its notices, outputs and error."""
    title = Text.assemble(
        (job.name, "bold"),
        "  ",
        (str(job.status), STYLES.get(str(job.status), "")),
        f"  {duration(job.started_at, job.ended_at)}",
    )
    tree = Tree(title)
    tree.add(
        Text(
            f"{job.type}, experiment {job.experiment_name}, compute {job.compute}, created {when(job.created_at)}",
            "dim",
        )
    )
    branches: dict[str, Tree] = {}
    for step in job.steps:
        parent = tree
        path = step.name.split("/")
        for depth in range(1, len(path)):
            key = "/".join(path[:depth])
            if key not in branches:
                branches[key] = parent.add(Text(path[depth - 1]))
            parent = branches[key]
        branches[step.name] = parent.add(_step_line(step))
    parts: list[RenderableType] = [tree]
    for notice in job.notices:
        place = f"{notice.step.rsplit('/', 1)[-1]}: " if notice.step else ""
        parts.append(Text(f"! {place}{notice.message}", style="yellow" if notice.level == "warning" else "dim"))
    for name, output in job.outputs.items():
        if output.path is not None:
            parts.append(Text.assemble("→ ", (name, "bold"), f"  {output.uri}"))
    if job.error:
        parts += error_lines(job.error)
    return Group(*parts)


def _step_line(step: Step) -> Text:
    status = str(step.status)
    line = Text.assemble(step.name.rsplit("/", 1)[-1], "  ", (status, STYLES.get(status, "")))
    if step.reused_from:
        line.append(f"  reused from {step.reused_from}", "dim")
    elif step.started_at:
        line.append(f"  {duration(step.started_at, step.ended_at)}", "dim")
    if step.attempt > 1:
        line.append(f"  attempt {step.attempt}", "yellow")
    if step.progress and not step.status.terminal:
        total = f"/{step.progress.total:,.0f}" if step.progress.total else ""
        line.append(f"  {step.progress.phase} {step.progress.done:,.0f}{total} {step.progress.unit}", "cyan")
    return line


def error_lines(error: dict[str, Any]) -> list[RenderableType]:
    """An error in its wire form: cause, places, way out."""
    inner = error.get("error", error)
    place = f"{inner['target']}: " if inner.get("target") else ""
    lines: list[RenderableType] = [Text.assemble(("Cause: ", "bold red"), place + str(inner.get("message", "")))]
    lines += [
        Text(f"  - {fault.get('target', '')}: {fault.get('message', '')}") for fault in inner.get("details", ()) or ()
    ]
    if inner.get("way_out"):
        lines.append(Text.assemble(("  Way out: ", "bold"), str(inner["way_out"])))
    return lines


def outcome(job: Job) -> RenderableType:
    """How a job ended, in a few lines."""
    status = str(job.status)
    head = Text.assemble(
        job.name,
        ": ",
        (status, STYLES.get(status, "")),
        f" in {duration(job.started_at or job.created_at, job.ended_at)}",
    )
    parts: list[RenderableType] = [head]
    if job.error:
        parts += error_lines(job.error)
        failed = [step for step in job.steps if str(step.status) == "Failed"]
        if failed:
            parts.append(
                Text(f"  Read: tunesmith jobs logs {job.name} --step {failed[0].name.rsplit('/', 1)[-1]}", "dim")
            )
    for name, output in job.outputs.items():
        if output.path is not None:
            parts.append(Text(f"  {name}: {output.uri}", "dim"))
    return Group(*parts)


def explanation_lines(found: Iterable[StepExplanation]) -> list[str]:
    """For each step: reused from where, or what changed."""
    lines = []
    for item in found:
        name = item.step.rsplit("/", 1)[-1]
        lines.append(f"{name}: {'reused from ' + str(item.reused_from) if item.reused else item.reason}")
        lines += [f"  {change}" for change in item.changed]
    return lines


def comparison_lines(found: Comparison) -> list[str]:
    """Whether two runs of a job are equal, where they first differ, and what is recorded to differ."""
    if found.equal:
        weights = "; the weights are equal" if found.weights_equal else ""
        lines = [f"Equal: all {found.values:,} losses over {found.steps:,} optimiser steps{weights}."]
    elif (first := found.first) is not None:
        values = " and ".join(
            f"{'no value' if value is None else repr(value)} in {job}"
            for job, value in ((found.before, first.before), (found.after, first.after))
        )
        lines = [f"Different: the first difference is {first.key} at optimiser step {first.step} ({first.job_step}):"]
        lines += [f"  {values}"]
    else:
        lines = [f"Different: all {found.values:,} losses are equal, the weights are not."]
    if found.changed:
        lines += ["Between the runs changed:", *(f"  {line}" for line in found.changed)]
    elif not found.equal:
        lines += ["Nothing that is recorded differs: versions, code, inputs, precision and threads are the same."]
    return lines
