"""Writes the reference of the pipeline's inputs from the component's YAML and the table that training reads them by."""

from __future__ import annotations

from typing import Any

TARGET = "docs/pipeline-parameters.md"

INTRODUCTION = """\
# Inputs of `chat_completion_pipeline`

Made from the code by `make docs`; a test keeps it true. Names, types, defaults, enums and bounds are those of Azure
ML's component `chat_completion_pipeline` {version}, and a test compares them; inputs of ours stand in the group "Beyond
Azure ML" and are all optional. Booleans are the texts `"true"` and `"false"`; real ones do as well. Numbers may come as
text (`5e-06`).

A value of the wrong type, outside its enum or bounds, NaN or infinite, an unknown name, a path that is not there, none
or two of the model inputs: all of it is found before anything starts, every fault in one answer. An input that has no
effect here is *waived*: the job says so in its notices, with the reason, and goes on. How the pipeline works is told in
[Pipelines and components](pipelines.md).
"""

ELSEWHERE = {
    "instance_type_model_import": "said where it differs from this machine",
    "instance_type_preprocess": "said where it differs from this machine",
    "instance_type_finetune": "said where it differs from this machine",
    "instance_type_model_evaluation": "said where it differs from this machine",
    "shm_size_finetune": "waived, said",
    "batch_size": "waived, said",
    "trust_remote_code": "`true` is refused",
}


def render() -> str:
    """The page as Markdown."""
    from tunesmith.components.catalogue import entries
    from tunesmith.finetune.inputs import INPUTS
    from tunesmith.pipelines.parsing import parse_component

    spec = next(entry for entry in entries() if entry.name == "chat_completion_pipeline")
    component = parse_component(spec.spec)
    groups: dict[str, list[str]] = {}
    for name in component.inputs:
        entry = INPUTS.get(name)
        groups.setdefault(entry.group if entry else _group(name), []).append(name)
    lines = [INTRODUCTION.format(version=spec.version)]
    for group, names in groups.items():
        lines += [
            f"## {group}",
            "",
            "| input | type | default | what it does | on a CPU | on one GPU | on several GPUs |",
        ]
        lines += ["| --- | --- | --- | --- | --- | --- | --- |"]
        lines += [_row(component.inputs[name], INPUTS.get(name)) for name in names]
        lines += [""]
    lines += ["## Outputs", "", "| output | type | what it is |", "| --- | --- | --- |"]
    lines += [f"| `{o.name}` | {o.type} | {_flat(o.description)} |" for o in component.outputs.values()]
    return "\n".join(lines) + "\n"


def _group(name: str) -> str:
    if name.startswith(("instance_type", "compute_", "shm_size")):
        return "Compute"
    if "model_path" in name or name in ("huggingface_id", "trust_remote_code", "finetune_config_path"):
        return "Base model"
    return "Evaluation" if name.startswith("evaluation_config") else "Data"


def _row(spec: Any, entry: Any) -> str:
    default = "" if spec.default is None else f"`{spec.default}`"
    where = (entry.cpu, entry.one_gpu, entry.several_gpus) if entry else (ELSEWHERE.get(spec.name, "honoured"),) * 3
    cells = [f"`{spec.name}`", _type(spec, entry), default, _flat(spec.description), *where]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _type(spec: Any, entry: Any) -> str:
    """The type with what is allowed, the finer bounds of training among it."""
    if spec.enum:
        return " or ".join(f"`{value}`" for value in spec.enum)
    least = entry.minimum if entry is not None and entry.minimum is not None else spec.min
    bounds = [f"at least {_number(least)}"] if least is not None else []
    if entry is not None:
        bounds += [f"above {_number(entry.above)}"] if entry.above is not None else []
        bounds += [f"at most {_number(entry.maximum)}"] if entry.maximum is not None else []
        bounds += [f"below {_number(entry.below)}"] if entry.below is not None else []
        bounds += [f"or {_number(value)}" for value in entry.special]
    return str(spec.type) + (f", {', '.join(bounds)}" if bounds else "")


def _flat(text: str) -> str:
    return " ".join(text.split())


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
