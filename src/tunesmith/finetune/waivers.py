"""What was asked and cannot be had here: each is said, with the reason, before the run starts."""

from __future__ import annotations

import importlib.util

import torch

from tunesmith.errors import Fault, ValidationFailed
from tunesmith.finetune.parameters import FinetuneParameters
from tunesmith.finetune.sharding.settings import resolve, usable
from tunesmith.reporting import Reporter


def say_waivers(parameters: FinetuneParameters, *, device: torch.device, world: int, reporter: Reporter) -> None:
    """Say which parameters have no effect on this machine.

    Raises:
        ValidationFailed: quantised weights were asked on a GPU without the package they need, or DeepSpeed with what it
        cannot do.
    """
    on_cpu = device.type == "cpu"
    where = "a CPU" if on_cpu else ("one GPU" if world == 1 else "several GPUs")

    def waive(name: str, reason: str) -> None:
        reporter.notice("ParameterWaived", f"{name} {getattr(parameters, name)} has no effect on {where}: {reason}")

    if parameters.apply_deepspeed and usable(gpu=not on_cpu):
        settings, faults = resolve(parameters, world=world)
        if settings is None:
            raise ValidationFailed("DeepSpeed cannot run with these parameters", details=faults)
        if parameters.auto_find_batch_size and settings.stage > 0:
            waive("auto_find_batch_size", "with DeepSpeed a step that ran out of memory cannot be begun again")
    elif parameters.apply_deepspeed:
        waive("apply_deepspeed", "DeepSpeed needs a GPU" if on_cpu else "the package deepspeed is not installed")
        if parameters.deepspeed:
            waive("deepspeed", "DeepSpeed is not used")
    elif parameters.deepspeed:
        waive("deepspeed", "apply_deepspeed is false")
    if parameters.apply_ort:
        waive("apply_ort", "ONNX Runtime training was discontinued by its makers")
    if parameters.number_of_gpu_to_use_finetuning > 1 and world == 1:
        waive(
            "number_of_gpu_to_use_finetuning",
            "the machine has no GPU; its cores work together on one process" if on_cpu else "the machine has one GPU",
        )
    elif parameters.number_of_gpu_to_use_finetuning > world > 1:
        reporter.notice(
            "FewerGpus",
            f"number_of_gpu_to_use_finetuning {parameters.number_of_gpu_to_use_finetuning}: the run has {world} "
            "processes, one for each GPU that is there",
        )
    if parameters.quantization != "none":
        if on_cpu:
            waive("quantization", "quantised products need a GPU; precision bf16 halves the weights here")
        elif importlib.util.find_spec("bitsandbytes") is None:
            raise ValidationFailed(
                "quantised training needs a package that is not there",
                details=[
                    Fault(
                        "bitsandbytes is not installed",
                        "quantization",
                        "MissingPackage",
                        "pip install bitsandbytes, or set quantization to none",
                    )
                ],
            )
    if parameters.pad_to_max_length and on_cpu:
        reporter.notice(
            "Padding",
            "pad_to_max_length true: padding is computed and changes no number; false is faster",
            level="info",
        )
    if parameters.lora_dropout > 0 and parameters.apply_lora:
        reporter.notice(
            "DropoutCosts",
            "lora_dropout above 0 keeps base and adapter from being computed together: it costs speed",
            level="info",
        )
