"""The table of inputs as Markdown, made from ``INPUTS`` so that the page cannot drift."""

from __future__ import annotations

from tunesmith.finetune.inputs import INPUTS, PIPELINE_INPUTS, Input
from tunesmith.finetune.parameters import bounds_text


def parameter_table() -> str:
    """Every training input: name, values, default, what it does, and what differs on a CPU, one GPU and several."""
    lines = ["| input | values | default | what it does here | CPU | one GPU | several GPUs |", "| --- " * 7 + "|"]
    lines += [_row(entry) for entry in INPUTS.values()]
    return "\n".join(lines)


def pipeline_table() -> str:
    """The pipeline's other inputs, which its other steps read."""
    rows = [f"| `{name}` | {what} |" for name, what in PIPELINE_INPUTS.items()]
    return "\n".join(["| input | what it does here |", "| --- | --- |", *rows])


def _row(entry: Input) -> str:
    name = f"`{entry.name}`" + ("" if entry.azure else " (ours)")
    values = " / ".join(entry.enum) or bounds_text(entry) or entry.kind
    default = "" if entry.default is None else str(entry.default).lower() if entry.kind == "boolean" else entry.default
    return f"| {name} | {values} | {default} | {entry.help} | {entry.cpu} | {entry.one_gpu} | {entry.several_gpus} |"
