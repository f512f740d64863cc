"""Azure ML's component schema: command and pipeline components, and the nodes of a pipeline.

The value objects and their YAML; ``parsing`` makes them from mappings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tunesmith.errors import NotFound, ValidationFailed
from tunesmith.pipelines.values import LITERAL_TYPES

WAIVED: Mapping[str, str] = {
    "distribution": "a step is one process tree on this machine",
    "limits": "a step runs as long as it needs",
    "identity": "a step runs as the user that runs the server",
    "services": "nothing is exposed beside a step",
}
"""Fields of Azure ML's schema that are read and have no effect here, each with the reason."""


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One declared input. ``type`` is in lower case; ``min`` and ``max`` are inclusive."""

    name: str
    type: str
    description: str = ""
    default: str | None = None
    """The canonical text of a literal; ``None`` when there is no default."""
    optional: bool = False
    enum: tuple[Any, ...] = ()
    min: float | None = None
    max: float | None = None
    mode: str | None = None

    @property
    def literal(self) -> bool:
        """Whether its value is text, a number or a boolean, not a path."""
        return self.type in LITERAL_TYPES


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """One declared output, always a path."""

    name: str
    type: str
    description: str = ""
    mode: str | None = None


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """A node of a pipeline: which component, with what bound to its inputs and outputs."""

    name: str
    component: str | Mapping[str, Any]
    inputs: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, Any] = field(default_factory=dict)
    compute: str | None = None
    environment_variables: Mapping[str, str] = field(default_factory=dict)
    resources: Mapping[str, Any] = field(default_factory=dict)
    display_name: str = ""
    waived: tuple[str, ...] = ()
    """Fields that were given and have no effect here; see ``WAIVED``."""


@dataclass(frozen=True, slots=True)
class Component:
    """What command and pipeline components have in common."""

    name: str
    version: str
    display_name: str
    description: str
    inputs: Mapping[str, InputSpec]
    outputs: Mapping[str, OutputSpec]
    tags: Mapping[str, str]
    properties: Mapping[str, str]
    is_deterministic: bool
    spec: Mapping[str, Any]
    """The mapping it was read from."""


@dataclass(frozen=True, slots=True)
class CommandComponent(Component):
    """A typed command line."""

    command: str
    code: str | None
    environment: str | Mapping[str, Any] | None
    environment_variables: Mapping[str, str]
    resources: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PipelineComponent(Component):
    """A graph of other components."""

    nodes: Mapping[str, NodeSpec]


def load_spec(path: Path) -> dict[str, Any]:
    """The mapping in a YAML or JSON file.

    Raises:
        NotFound: no such file.
        ValidationFailed: not YAML, or not a mapping; names the line.
    """
    try:
        text = path.read_text("utf-8")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise NotFound("there is no such file", target=str(path)) from None
    except UnicodeDecodeError:
        raise ValidationFailed("not a UTF-8 text file", target=str(path)) from None
    try:
        body = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ValidationFailed(f"not YAML: {getattr(error, 'problem', None) or error}", target=place) from None
    if not isinstance(body, dict):
        raise ValidationFailed("a component or job is a mapping of fields", target=str(path))
    return body


_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The compiled parser where PyYAML has it: the system's specs are read five times as fast."""


class _Loader(_Base):  # type: ignore[misc]
    """YAML 1.2's numbers: ``5e-06`` is a number there, and text in PyYAML's 1.1."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d[\d_]*)(?:\.[\d_]*)?[eE][-+]?\d+$"),
    list("-+0123456789"),
)
