"""What is checked of a whole job when it is submitted: sizes that a model admits, and room on the disk.

Both need the workspace's services; what values alone can tell is in ``checks``. Knows nothing of torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from tunesmith.assets.models import ModelService
from tunesmith.compute.service import ComputeService
from tunesmith.errors import Fault, TunesmithError, ValidationFailed
from tunesmith.pipelines.graph import Graph, GraphStep, LiteralInput, PathInput
from tunesmith.storage.hashing import tree_size

FINETUNE = "chat_completion_finetune"
CONVERT = "ft_nlp_model_converter"
_MODELS = ("mlflow_model_path", "pytorch_model_path", "model_path")
_DATA_BYTES = 2.0
"""Prepared rows: ids and the conversations' text, for each byte of the files."""
_TOKEN_BYTES = 4
"""Bytes of a file for a token, roughly."""
_ROW_TOKENS = 512
_ROWS_COUNTED = 10_000

Admission = Callable[[Graph], list[Fault]]


def make_admission(computes: ComputeService, models: ModelService) -> Admission:
    """The check of a job's graph; its faults name the step and the field."""

    def admit(graph: Graph) -> list[Fault]:
        faults: list[Fault] = []
        for step in graph.steps:
            if step.component == FINETUNE:
                faults += _sizes(step, graph, computes, models)
                faults += _disk(step, graph, computes.machine().disk_free_bytes)
        return faults

    return admit


def _sizes(step: GraphStep, graph: Graph, computes: ComputeService, models: ModelService) -> Iterator[Fault]:
    """A compute that the allow-list of the base model does not admit."""
    model = next((found.model for found in _model_inputs(graph) if found.model is not None), None)
    if model is None:
        return
    tags = models.get(model.name, model.version, registry=model.registry).tags
    try:
        found = computes.check(model.name, tags, step.compute, "finetune")
    except TunesmithError as error:  # the model's tag is no list, or the compute went away
        yield Fault(error.message, f"{step.name}.compute", error.code, error.way_out)
        return
    if not found.allowed:
        way_out = "choose a compute of one of these sizes, or leave compute out to train on this machine"
        yield Fault(found.message, f"{step.name}.compute", "NotAllowed", way_out)


def _disk(step: GraphStep, graph: Graph, free: int) -> Iterator[Fault]:
    """More disk than is free; said by what takes it."""
    needs = forecast(step, graph)
    needed = sum(needs.values())
    if needed <= free:
        return
    parts = ", ".join(f"{name} {count / 1e9:,.1f} GB" for name, count in needs.items() if count > 1e7)
    yield Fault(
        f"the job needs about {needed / 1e9:,.1f} GB of disk ({parts}) and {free / 1e9:,.1f} GB are free",
        f"{step.name}.save_total_limit",
        "DiskFull",
        "free some space; save_total_limit 1 keeps only the last and the best checkpoint; apply_lora makes them small",
    )


def forecast(step: GraphStep, graph: Graph) -> Mapping[str, int]:
    """Bytes that the fine-tuning ``step`` of ``graph`` and the steps after it will write, by what they are.

    Empty where the model's package is not on this machine yet.
    """
    from tunesmith.finetune.estimates import estimate
    from tunesmith.finetune.inputs import INPUTS
    from tunesmith.finetune.parameters import FinetuneParameters
    from tunesmith.models.package import ModelPackage

    package = None
    for found in _model_inputs(graph):
        with suppress(TunesmithError):
            package = ModelPackage.open(Path(found.path))
    if package is None:
        return {}
    values = {name: found.value for name, found in step.inputs.items() if isinstance(found, LiteralInput)}
    try:
        parameters = FinetuneParameters.from_strings({name: value for name, value in values.items() if name in INPUTS})
    except ValidationFailed:
        return {}  # the step itself tells
    data = sum(tree_size(Path(path)) for path in _data_paths(graph))
    # What is written follows the weights; the rows only count the steps, of which more than these change nothing.
    rows = [_ROW_TOKENS] * min(max(1, data // (_TOKEN_BYTES * _ROW_TOKENS)), _ROWS_COUNTED)
    trained = estimate(
        package.config(),
        parameters,
        rows,
        parameter_count=package.manifest.parameter_count,
        context_length=package.manifest.context_length,
    )
    merges = any(other.component == CONVERT for other in graph.steps)
    return {
        "prepared conversations": int(_DATA_BYTES * data),
        "checkpoints and weights": trained.disk_bytes,
        "tuned model": package.size_bytes if merges and parameters.merge_lora_weights else 0,
    }


def _model_inputs(graph: Graph) -> Iterator[PathInput]:
    for step in graph.steps:
        for name in _MODELS:
            found = step.inputs.get(name)
            if isinstance(found, PathInput):
                yield found


def _data_paths(graph: Graph) -> set[str]:
    return {
        found.path
        for step in graph.steps
        for name, found in step.inputs.items()
        if isinstance(found, PathInput) and name.endswith(("_file_path", "_mltable_path"))
    }
