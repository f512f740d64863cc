"""What a machine cannot honour is waived with its reason, or refused."""

from __future__ import annotations

import importlib.machinery
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.finetune.support import Heard
from tests.support.packages import as_if_installed
from tunesmith.errors import ValidationFailed
from tunesmith.finetune.inputs import INPUTS
from tunesmith.finetune.parameters import FinetuneParameters
from tunesmith.finetune.refusals import deepspeed_faults
from tunesmith.finetune.waivers import say_waivers
from tunesmith.models.catalogue import CatalogueEntry, entries

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def said(device: torch.device, world: int = 1, **values: Any) -> list[str]:
    return said_of(FinetuneParameters(**{"apply_lora": True, **values}), device, world)


def said_of(parameters: FinetuneParameters, device: torch.device, world: int = 1) -> list[str]:
    heard = Heard()
    say_waivers(parameters, device=device, world=world, reporter=heard)
    return [message for _, message in heard.notices]


@pytest.fixture
def with_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package deepspeed as if it were installed; nothing here imports it."""
    as_if_installed("deepspeed", monkeypatch)


@pytest.fixture
def without_package(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, package=None: None if name == "deepspeed" else find(name, package)
    )


@pytest.mark.usefixtures("without_package")
def test_deepspeed_is_waived_without_the_package() -> None:
    asked = {"apply_deepspeed": True, "deepspeed": "zero3.json"}
    assert said(GPU, world=2, **asked) == [
        "apply_deepspeed True has no effect on several GPUs: the package deepspeed is not installed",
        "deepspeed zero3.json has no effect on several GPUs: DeepSpeed is not used",
    ]


@pytest.mark.usefixtures("with_package")
def test_deepspeed_is_waived_without_a_gpu() -> None:
    # The file is not read: it need not even be there.
    assert said(CPU, apply_deepspeed=True, deepspeed="zero3.json") == [
        "apply_deepspeed True has no effect on a CPU: DeepSpeed needs a GPU",
        "deepspeed zero3.json has no effect on a CPU: DeepSpeed is not used",
    ]
    assert deepspeed_faults(FinetuneParameters(apply_deepspeed=True, deepspeed="zero3.json"), gpu=False) == []


@pytest.mark.usefixtures("with_package")
def test_deepspeed_is_honoured_on_a_gpu_with_the_package() -> None:
    assert said(GPU, apply_deepspeed=True, deepspeed_stage="3") == []
    assert said(GPU, deepspeed="zero3.json") == [
        "deepspeed zero3.json has no effect on one GPU: apply_deepspeed is false"
    ]
    assert said(GPU, apply_deepspeed=True, auto_find_batch_size=True) == [
        "auto_find_batch_size True has no effect on one GPU: with DeepSpeed a step that ran out of memory cannot be "
        "begun again"
    ]


@pytest.mark.usefixtures("with_package")
def test_what_deepspeed_cannot_do_is_refused_before_anything_starts() -> None:
    asked: dict[str, Any] = {"apply_deepspeed": True, "deepspeed": "zero3.json", "optim": "adafactor"}
    with pytest.raises(ValidationFailed) as caught:
        said(GPU, **asked)
    (fault,) = caught.value.details
    assert (fault.target, fault.message) == ("deepspeed", "zero3.json cannot be read: No such file or directory")
    (fault,) = deepspeed_faults(FinetuneParameters(apply_deepspeed=True, optim="adafactor"), gpu=True)
    assert (fault.target, fault.code) == ("optim", "Unsupported")


@pytest.mark.usefixtures("with_package")
@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.name)
def test_the_catalogues_defaults_are_honoured(entry: CatalogueEntry) -> None:
    parameters = FinetuneParameters.from_strings(
        {name: value for name, value in (entry.tag("model_specific_defaults") or {}).items() if name in INPUTS}
    )
    assert deepspeed_faults(parameters, gpu=True) == []
    assert said_of(parameters, GPU) == []


def test_more_gpus_than_there_are() -> None:
    asked = {"number_of_gpu_to_use_finetuning": 4}
    assert said(GPU, world=4, **asked) == []
    assert said(GPU, world=2, **asked) == [
        "number_of_gpu_to_use_finetuning 4: the run has 2 processes, one for each GPU that is there"
    ]
    assert "the machine has one GPU" in said(GPU, **asked)[0]
    assert "the machine has no GPU" in said(CPU, **asked)[0]


def test_a_deepspeed_older_than_was_tried_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deepspeed.py").touch()
    about = tmp_path / "deepspeed-0.18.2.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: deepspeed\nVersion: 0.18.2\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    (fault,) = deepspeed_faults(FinetuneParameters(apply_deepspeed=True), gpu=True)
    assert (fault.target, fault.way_out) == ("apply_deepspeed", "pip install 'deepspeed>=0.19'")
    assert fault.message == "DeepSpeed 0.18.2 is installed, and its engine is used from 0.19 on"
