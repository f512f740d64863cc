"""What a graph needs from the workspace: components, paths behind references, computes.

The graph is built against this protocol, so it knows nothing of registries; ``AssetResolver`` (in ``assets_resolver``)
answers it from the workspace's services.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tunesmith.errors import Fault
from tunesmith.pipelines.graph import ModelSource
from tunesmith.pipelines.schema import CommandComponent, PipelineComponent

DESCRIPTIVE = ("$schema", "description", "display_name", "tags", "version")


@dataclass(frozen=True, slots=True)
class ResolvedComponent:
    """A component with where it came from."""

    component: CommandComponent | PipelineComponent
    id: str
    sha256: str
    code: Path | None = None
    """Its code on this machine."""
    base: Path | None = None
    """The folder that its relative references start from."""


@dataclass(frozen=True, slots=True)
class ResolvedPath:
    """A file or folder on this machine, with what it was called."""

    path: Path
    reference: str
    type: str | None = None
    """The asset's own type, when it is one."""
    model: ModelSource | None = None


@dataclass(frozen=True, slots=True)
class ResolvedCompute:
    """A compute, with what it differs in from what its size promises."""

    name: str
    size: str | None = None
    difference: str | None = None


class Resolver(Protocol):
    """Answers references. Every method raises a ``TunesmithError`` that says what is wrong with the reference."""

    def component(self, reference: str) -> ResolvedComponent:
        """The component behind ``azureml:name:version``, ``azureml:name@label`` or ``azureml://registries/…``."""

    def path(self, reference: str, type: str) -> ResolvedPath:
        """The file or folder behind an ``azureml:`` reference for an input of ``type``."""

    def compute(self, name: str) -> ResolvedCompute:
        """The compute of that name."""

    def environment(self, reference: str) -> Mapping[str, Any] | None:
        """What the environment of that name asks for (``image``, ``conda_file``); ``None`` when it is not known."""

    def check(self, rule: str, values: Mapping[str, str]) -> list[Fault]:
        """Apply the rule that a component names in its property ``check`` to the values of its literal inputs.

        Each fault's target is the name of an input.
        """


def component_sha256(spec: Mapping[str, Any]) -> str:
    """Hash of what a component does: its spec without the words that only describe it."""
    kept = {key: value for key, value in spec.items() if key not in DESCRIPTIVE}
    inputs = kept.get("inputs")
    if isinstance(inputs, Mapping):
        kept["inputs"] = {
            name: {k: v for k, v in entry.items() if k != "description"} if isinstance(entry, Mapping) else entry
            for name, entry in inputs.items()
        }
    text = json.dumps(kept, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
