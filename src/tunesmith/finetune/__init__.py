"""Fine-tuning: parameters, estimates and the run itself.

The names are loaded when they are first used, so that parameters and estimates cost no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tunesmith.finetune.estimates import Estimate, ModelShape, estimate, memory_remedies
    from tunesmith.finetune.inputs import INPUTS, PIPELINE_INPUTS, Input
    from tunesmith.finetune.parameters import FinetuneParameters
    from tunesmith.finetune.result import TrainResult
    from tunesmith.finetune.run import train

__all__ = [
    "INPUTS",
    "PIPELINE_INPUTS",
    "Estimate",
    "FinetuneParameters",
    "Input",
    "ModelShape",
    "TrainResult",
    "estimate",
    "memory_remedies",
    "train",
]

_HOMES = {
    "INPUTS": "inputs",
    "PIPELINE_INPUTS": "inputs",
    "Input": "inputs",
    "FinetuneParameters": "parameters",
    "Estimate": "estimates",
    "ModelShape": "estimates",
    "estimate": "estimates",
    "memory_remedies": "estimates",
    "TrainResult": "result",
    "train": "run",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
