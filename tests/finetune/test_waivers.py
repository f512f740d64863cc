"""What a machine cannot honour is waived with its reason, or refused."""

from __future__ import annotations

import importlib.machinery
import importlib.util
from typing import Any

import pytest
import torch

from tests.finetune.support import Heard
from tunesmith.errors import ValidationFailed
from tunesmith.finetune.parameters import FinetuneParameters
from tunesmith.finetune.waivers import say_waivers

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def said(device: torch.device, world: int = 1, **values: Any) -> list[str]:
    heard = Heard()
    parameters = FinetuneParameters(**{"apply_lora": True, **values})
    say_waivers(parameters, device=device, world=world, reporter=heard)
    return [message for _, message in heard.notices]


def test_deepspeed_is_waived_without_a_gpu_or_the_package_and_refused_with_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: dict[str, Any] = {"apply_deepspeed": True, "deepspeed": "zero3.json"}
    assert said(CPU, **asked) == [
        "apply_deepspeed True has no effect on a CPU: DeepSpeed needs a GPU",
        "deepspeed zero3.json has no effect on a CPU: DeepSpeed is not used",
    ]
    assert "the package deepspeed is not installed" in said(GPU, world=2, **asked)[0]
    find = importlib.util.find_spec

    def found(name: str, package: str | None = None) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(name, None) if name == "deepspeed" else find(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", found)
    with pytest.raises(ValidationFailed) as caught:
        said(GPU, world=2, **asked)
    (fault,) = caught.value.details
    assert (fault.target, fault.code) == ("apply_deepspeed", "Unsupported")
    assert "number_of_gpu_to_use_finetuning" in str(fault.way_out)
    assert said(CPU, **asked)[0].endswith("DeepSpeed needs a GPU")


def test_more_gpus_than_there_are() -> None:
    asked = {"number_of_gpu_to_use_finetuning": 4}
    assert said(GPU, world=4, **asked) == []
    assert said(GPU, world=2, **asked) == [
        "number_of_gpu_to_use_finetuning 4: the run has 2 processes, one for each GPU that is there"
    ]
    assert "the machine has one GPU" in said(GPU, **asked)[0]
    assert "the machine has no GPU" in said(CPU, **asked)[0]
