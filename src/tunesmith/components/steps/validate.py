"""Step ``ft_nlp_common_validation``: everything that can be checked before anything heavy starts.

Imports neither torch nor the model rooms, so it starts and ends in seconds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import asdict, dataclass, make_dataclass
from pathlib import Path
from typing import Any

from tunesmith.components.checks import finetune_parameters as check_parameters
from tunesmith.components.steps.conversations import check_split
from tunesmith.components.steps.runtime import Step, run
from tunesmith.components.steps.settings import training_values
from tunesmith.components.steps.splits import split_files
from tunesmith.errors import Fault, TunesmithError, ValidationFailed
from tunesmith.evaluate.settings import EvaluationSettings
from tunesmith.finetune.inputs import INPUTS
from tunesmith.storage.atomic import write_json

SIZES = (
    "instance_type_model_import",
    "instance_type_preprocess",
    "instance_type_finetune",
    "instance_type_model_evaluation",
)


@dataclass(frozen=True)
class _Inputs:
    """Model, data and evaluation inputs, and where the facts go."""

    validation_info: Path
    huggingface_id: str | None = None
    pytorch_model_path: Path | None = None
    mlflow_model_path: Path | None = None
    finetune_config_path: Path | None = None
    trust_remote_code: str = "false"
    train_file_path: Path | None = None
    validation_file_path: Path | None = None
    test_file_path: Path | None = None
    train_mltable_path: Path | None = None
    validation_mltable_path: Path | None = None
    test_mltable_path: Path | None = None
    evaluation_config: Path | None = None
    evaluation_config_params: str | None = None
    instance_type_model_import: str | None = None
    instance_type_preprocess: str | None = None
    instance_type_finetune: str | None = None
    instance_type_model_evaluation: str | None = None
    shm_size_finetune: str | None = None
    batch_size: int = 1000


Arguments = make_dataclass(
    "Arguments",
    [(name, str | None, dataclasses.field(default=None)) for name in INPUTS],
    bases=(_Inputs,),
    frozen=True,
    namespace={"__doc__": "Every input of the pipeline that a check needs."},
)
Arguments.__module__ = __name__

_AZURE_SIZES = {
    "instance_type_model_import": "Standard_d12_v2",
    "instance_type_preprocess": "Standard_d12_v2",
    "instance_type_finetune": "Standard_nc24rs_v3",
    "instance_type_model_evaluation": "Standard_nc24rs_v3",
}


def main(arguments: Any, step: Step) -> None:
    """Check values, settings and conversations; every fault is in one error."""
    faults: list[Fault] = []
    values = asdict(arguments)
    checked: dict[str, Any] = {}
    try:
        checked = training_values(values, arguments.finetune_config_path, step.reporter)
        faults += check_parameters(
            {**{k: str(v) for k, v in checked.items()}, "trust_remote_code": arguments.trust_remote_code}
        )
    except TunesmithError as error:
        faults += _faults(error)
    try:
        EvaluationSettings.load(arguments.evaluation_config, arguments.evaluation_config_params)
    except TunesmithError as error:
        faults += _faults(error)
    facts: dict[str, Any] = {}
    try:
        files = split_files(arguments)
    except TunesmithError as error:
        files, faults = {}, faults + _faults(error)
    for split, paths in files.items():
        try:
            facts[split] = check_split(split, paths, step.reporter, on_faulty=str(checked.get("on_faulty") or "fail"))
        except TunesmithError as error:
            faults += _faults(error)
    faults += gpu_faults(checked, arguments.validation_info.parent)
    if faults:
        count = "one fault was" if len(faults) == 1 else f"{len(faults)} faults were"
        raise ValidationFailed(f"{count} found before anything was started", details=faults)
    say_sizes(arguments, step)
    say_splits(files, step)
    write_json(arguments.validation_info, facts)


def gpu_faults(values: Mapping[str, Any], disk: Path) -> list[Fault]:
    """What a machine with a GPU refuses; without one it is waived when training starts."""
    from tunesmith.compute.machine import detect
    from tunesmith.finetune.parameters import FinetuneParameters
    from tunesmith.finetune.refusals import deepspeed_faults

    if str(values.get("apply_deepspeed", "false")).lower() != "true":
        return []
    try:
        parameters = FinetuneParameters.from_strings({name: values[name] for name in values if name in INPUTS})
    except ValidationFailed:
        return []  # told already
    return deepspeed_faults(parameters, gpu=bool(detect(disk).gpus))


def say_sizes(arguments: Any, step: Step) -> None:
    """What the sizes that were asked for give here, and what has no effect at all."""
    from tunesmith.compute.machine import detect

    machine = detect(arguments.validation_info.parent)
    gpus = ", ".join(gpu.name for gpu in machine.gpus) or "no GPU"
    has = f"{machine.cores} cores, {machine.memory_bytes / 1e9:.0f} GB of memory, {gpus}"
    step.reporter.log(f"every step runs on this machine: {has}")
    asked = {name: getattr(arguments, name) for name in SIZES}
    chosen = sorted(
        {size for name, size in asked.items() if size and size.lower() not in (_AZURE_SIZES[name].lower(), "local")}
    )
    if chosen:
        step.reporter.notice("SizeDiffers", f"{', '.join(chosen)} was asked for; this machine has {has}", level="info")
    if arguments.shm_size_finetune and arguments.shm_size_finetune != "5g":
        step.reporter.notice(
            "ParameterWaived",
            f"shm_size_finetune {arguments.shm_size_finetune} has no effect: steps are processes, not containers",
            level="info",
        )
    if arguments.batch_size != 1000:
        step.reporter.notice(
            "ParameterWaived",
            f"batch_size {arguments.batch_size} has no effect: rows are streamed in bounded memory",
            level="info",
        )


def say_splits(files: dict[str, list[Path]], step: Step) -> None:
    """Which splits there are not, and what that means."""
    if "validation" not in files:
        step.reporter.log(
            "no validation conversations: there is no loss to choose the best model by; none are taken from train"
        )
    if "test" not in files:
        instead = (
            "the evaluation uses the validation conversations"
            if "validation" in files
            else "the evaluation is left out"
        )
        step.reporter.notice("NoTestSplit", f"no test conversations were given: {instead}", level="info")


def _faults(error: TunesmithError) -> list[Fault]:
    if error.details:
        return list(error.details)
    return [Fault(error.message, error.target, error.code, error.way_out)]


if __name__ == "__main__":
    run(Arguments, main)
