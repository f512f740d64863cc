"""Checkpoints of an earlier job for a step that asks to go on from them.

A component says by the property ``resume`` which of its inputs asks for it, and by ``resume_ignores`` which parameters
may differ between a run and its resumption. The newest earlier step of the same component whose other inputs are the
same gives its checkpoints, whether its job failed, was canceled or ran to its end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tunesmith.pipelines.graph import GraphStep, LiteralInput
from tunesmith.pipelines.layout import StepFolder, read_json
from tunesmith.records.jobs import Part

RESUME = "resume"
RESUME_IGNORES = "resume_ignores"
_FREE_PARTS = ("component", "code", "environment", "environment_variables")
"""Parts that do not decide whether a checkpoint fits; the step itself checks what is in it."""


def wants_checkpoints(step: GraphStep) -> bool:
    """Whether the step was asked to go on from an earlier job's checkpoints."""
    asked = step.inputs.get(step.properties.get(RESUME, ""))
    return isinstance(asked, LiteralInput) and asked.value == "true"


def find_checkpoints(jobs: Path, own: Path, step: GraphStep, parts: Sequence[Part]) -> StepFolder | None:
    """The newest step below ``jobs`` whose checkpoints fit; ``own`` is the folder of the step that asks."""
    free = {step.properties[RESUME], *step.properties.get(RESUME_IGNORES, "").split()}
    wanted = _deciding({part.name: part.sha256 for part in parts}, free)
    found: tuple[float, StepFolder] | None = None
    for explanation in jobs.glob("*/steps/*/explanation.json"):
        folder = StepFolder(explanation.parent)
        body = read_json(explanation)
        if explanation.parent == own or body is None or body.get("component") != step.component:
            continue
        if _deciding({part["name"]: part["sha256"] for part in body["parts"]}, free) != wanted:
            continue
        written = max((entry.stat().st_mtime for entry in _entries(folder.checkpoints)), default=None)
        if written is not None and (found is None or written > found[0]):
            found = (written, folder)
    return found[1] if found else None


def _deciding(parts: Mapping[str, str], free: set[str]) -> dict[str, str]:
    return {
        name: sha256
        for name, sha256 in parts.items()
        if name not in _FREE_PARTS and name.removeprefix("parameter:") not in free
    }


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []
