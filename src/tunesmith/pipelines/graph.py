"""The flat graph of a job: command steps in an order that works, each input bound to its value.

A value is a literal, a path or what another step wrote.

It is what ``graph.json`` holds. The runner needs nothing else to run the job, so a component that changes or goes
after the job was submitted does not touch it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from tunesmith.records.base import Record
from tunesmith.records.jobs import Notice

FORMAT = 1


class LiteralInput(Record):
    """A text, number or boolean, as the one text a step gets."""

    kind: Literal["literal"] = "literal"
    type: str
    value: str


class ModelSource(Record):
    """A registry's model: where its package lies or is going to lie once it is imported."""

    registry: str
    name: str
    version: str
    source: str | None = None
    """Where its weights come from."""
    sha256: str | None = None
    """Of the package, once imported."""


class PathInput(Record):
    """A file or folder on this machine."""

    kind: Literal["path"] = "path"
    type: str
    path: str
    reference: str
    """What the caller named."""
    model: ModelSource | None = None


class OutputInput(Record):
    """What another step wrote."""

    kind: Literal["output"] = "output"
    type: str
    step: str
    output: str


Binding = Annotated[LiteralInput | PathInput | OutputInput, Field(discriminator="kind")]


class GraphStep(Record):
    """One command to run."""

    name: str
    """Path in the graph, such as ``chat_completion_pipeline/chat_completion_finetune``."""
    display_name: str = ""
    component: str
    """Name of the component."""
    component_version: str
    component_id: str
    """Its reference, or the place it was written at."""
    component_sha256: str
    """Hash of its interface and command."""
    command: str
    code: str | None = None
    """A folder (or one file) on this machine; the step works in a copy of it."""
    environment: Any = None
    environment_variables: dict[str, str] = Field(default_factory=dict)
    inputs: dict[str, Binding] = Field(default_factory=dict)
    outputs: dict[str, str] = Field(default_factory=dict)
    """Name and type of each output."""
    deterministic: bool = True
    properties: dict[str, str] = Field(default_factory=dict)
    compute: str = "local"
    resources: dict[str, Any] = Field(default_factory=dict)
    told: list[str] = Field(default_factory=list)
    """What the step's log says at its head."""

    @property
    def folder(self) -> str:
        """The step's folder below ``steps/``."""
        return self.name.replace("/", ".")

    @property
    def needs(self) -> list[str]:
        """The steps whose outputs it reads."""
        return sorted({binding.step for binding in self.inputs.values() if isinstance(binding, OutputInput)})


class GraphOutput(Record):
    """An output of the job: which step writes it."""

    type: str
    step: str
    output: str


class Graph(Record):
    """A whole job."""

    format: int = FORMAT
    steps: list[GraphStep]
    """Every step stands after the steps it needs."""
    outputs: dict[str, GraphOutput] = Field(default_factory=dict)
    notices: list[Notice] = Field(default_factory=list)

    def step(self, name: str) -> GraphStep:
        """The step of that name (``KeyError`` when there is none)."""
        return next(step for step in self.steps if step.name == name)
