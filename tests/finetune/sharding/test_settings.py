"""DeepSpeed's configuration: made from the parameters, completed from "auto", and every contradiction named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tunesmith.finetune.parameters import FinetuneParameters
from tunesmith.finetune.sharding.settings import ShardingSettings, resolve

OURS: dict[str, Any] = {
    "apply_deepspeed": True,
    "apply_lora": True,
    "learning_rate": 5e-6,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 4,
    "max_grad_norm": 0.5,
    "precision": "16",
}


def parameters(**values: Any) -> FinetuneParameters:
    return FinetuneParameters(**{**OURS, **values})


def written(folder: Path, content: Any) -> str:
    path = folder / "ds.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def sound(asked: FinetuneParameters, **known: Any) -> ShardingSettings:
    settings, faults = resolve(asked, **known)
    assert faults == []
    assert settings is not None
    return settings


def test_without_a_file_the_parameters_make_it() -> None:
    settings = sound(parameters(deepspeed_stage="3"), world=2, bf16=True, hidden=64)
    assert (settings.stage, settings.notes, settings.offloads) == (3, (), ())
    assert settings.config == {
        "train_micro_batch_size_per_gpu": 2,
        "gradient_accumulation_steps": 4,
        "gradient_clipping": 0.5,
        # Adapters stay fp32 over a bf16 base.
        "bf16": {"enabled": False},
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "zero_optimization": {"stage": 3},
        "zero_force_ds_cpu_optimizer": False,
    }


@pytest.mark.parametrize(
    ("lora", "bf16", "expected"),
    [
        (True, True, {"enabled": False}),
        (False, True, {"enabled": True, "check_grad_overflow": True}),
        (False, False, {"enabled": False}),
    ],
)
def test_bf16_is_the_engines_business_where_bf16_weights_are_trained(
    lora: bool, bf16: bool, expected: dict[str, bool]
) -> None:
    assert sound(parameters(apply_lora=lora), bf16=bf16).config["bf16"] == expected


def test_auto_takes_ours(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        {
            "train_batch_size": "auto",
            "train_micro_batch_size_per_gpu": "auto",
            "gradient_accumulation_steps": "auto",
            "gradient_clipping": "auto",
            "fp16": {"enabled": "auto", "loss_scale": 0},
            "bf16": {"enabled": "auto"},
            "optimizer": {
                "type": "AdamW",
                "params": {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto"},
            },
            "scheduler": {"type": "WarmupDecayLR", "params": {"warmup_max_lr": "auto", "total_num_steps": "auto"}},
            "zero_optimization": {
                "stage": 3,
                "reduce_bucket_size": "auto",
                "stage3_prefetch_bucket_size": "auto",
                "stage3_param_persistence_threshold": "auto",
                "overlap_comm": "auto",
                "offload_optimizer": {"device": "cpu", "pin_memory": True},
                "offload_param": {"device": "none"},
            },
            "steps_per_print": 2000,
            "wall_clock_breakdown": False,
        },
    )
    settings = sound(parameters(deepspeed=file), world=2, bf16=True, hidden=100)
    assert settings.stage == 3
    assert settings.offloads == ("optimizer",)
    assert settings.config["zero_optimization"] == {
        "stage": 3,
        "reduce_bucket_size": 10_000,
        "stage3_prefetch_bucket_size": 9_000,
        "stage3_param_persistence_threshold": 1_000,
        "offload_optimizer": {"device": "cpu", "pin_memory": True},
    }
    assert settings.config["train_micro_batch_size_per_gpu"] == 2
    assert settings.config["steps_per_print"] == 2000
    assert settings.config["wall_clock_breakdown"] is False
    assert "optimizer" not in settings.config
    assert settings.notes == (
        "deepspeed: ZeRO stage 3 is taken from the file; deepspeed_stage 2 is for runs without one",
    )


def test_the_same_values_are_no_contradiction(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        {
            "train_batch_size": 16,
            "train_micro_batch_size_per_gpu": 2,
            "gradient_accumulation_steps": 4,
            "gradient_clipping": 0.5,
            "bf16": {"enabled": True},
            "fp16": {"enabled": False},
            "optimizer": {"type": "adam", "params": {"lr": 0.000005, "betas": [0.9, 0.999], "eps": 1e-8}},
            "scheduler": {"type": "WarmupLR", "params": {"warmup_num_steps": 3, "warmup_min_lr": 0}},
            "zero_optimization": {"stage": 2},
        },
    )
    asked = parameters(deepspeed=file, lr_scheduler_type="constant_with_warmup", warmup_steps=3)
    assert sound(asked, world=2, bf16=True).notes == ()


@pytest.mark.parametrize(
    ("content", "target", "said"),
    [
        (
            {"train_batch_size": 64},
            "train_batch_size",
            "has train_batch_size 64 and per_device_train_batch_size x gradient_accumulation_steps x 2 processes is 16",
        ),
        (
            {"train_micro_batch_size_per_gpu": 1},
            "train_micro_batch_size_per_gpu",
            "has train_micro_batch_size_per_gpu 1 and per_device_train_batch_size is 2",
        ),
        (
            {"gradient_accumulation_steps": 1},
            "gradient_accumulation_steps",
            "has gradient_accumulation_steps 1 and gradient_accumulation_steps is 4",
        ),
        ({"gradient_clipping": 1.0}, "gradient_clipping", "has gradient_clipping 1.0 and max_grad_norm is 0.5"),
        (
            {"optimizer": {"type": "AdamW", "params": {"lr": 1e-4}}},
            "optimizer.params.lr",
            "has optimizer.params.lr 0.0001 and learning_rate is 5e-06",
        ),
        (
            {"optimizer": {"params": {"betas": [0.9, 0.95]}}},
            "optimizer.params.betas",
            "has optimizer.params.betas 0.95 and adam_beta2 is 0.999",
        ),
        ({"optimizer": {"type": "Lamb"}}, "optimizer.type", 'has optimizer.type "Lamb" and optim is adamw_torch'),
        (
            {"optimizer": {"type": "Adam", "params": {"adam_w_mode": False}}},
            "optimizer.type",
            'has optimizer.type "Adam" and optim is adamw_torch',
        ),
        (
            {"scheduler": {"type": "WarmupCosineLR"}},
            "scheduler.type",
            'has scheduler.type "WarmupCosineLR" and lr_scheduler_type is linear',
        ),
        (
            {"scheduler": {"type": "WarmupDecayLR", "params": {"total_num_steps": 100}}},
            "scheduler.params.total_num_steps",
            "has scheduler.params.total_num_steps 100 and num_train_epochs decides the steps",
        ),
        (
            {"bf16": {"enabled": False}},
            "bf16.enabled",
            "has bf16.enabled false and precision 16 is bf16 here",
        ),
        (
            {"fp16": {"enabled": True}},
            "fp16.enabled",
            "has fp16.enabled true and precision is 16: half precision is trained as bf16, "
            "which needs no scaling of the loss",
        ),
    ],
)
def test_a_contradiction_names_both(content: dict[str, Any], target: str, said: str, tmp_path: Path) -> None:
    file = written(tmp_path, {"zero_optimization": {"stage": 2}, **content})
    settings, faults = resolve(parameters(deepspeed=file), world=2)
    assert settings is None
    assert [(fault.target, fault.message, fault.code) for fault in faults] == [
        (f"deepspeed: {target}", f"{file} {said}", "Contradiction")
    ]
    assert all(fault.way_out for fault in faults)


@pytest.mark.parametrize(
    ("content", "target", "said"),
    [
        ({"curriculum_learning": {}}, "curriculum_learning", 'asks for "curriculum_learning", which is not supported'),
        (
            {"zero_optimization": {"stage": 2, "zenflow": {}}},
            "zero_optimization.zenflow",
            'asks for "zero_optimization.zenflow", which is not supported',
        ),
        (
            {"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme"}}},
            "zero_optimization.offload_param.device",
            "has zero_optimization.offload_param.device 'nvme': what lies on a disk cannot be brought into a "
            "checkpoint",
        ),
        (
            {
                "zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}},
                "zero_force_ds_cpu_optimizer": True,
            },
            "zero_force_ds_cpu_optimizer",
            "wants DeepSpeed's own Adam on the processor; the update is torch's AdamW everywhere",
        ),
    ],
)
def test_what_is_not_supported_is_refused_by_its_key(
    content: dict[str, Any], target: str, said: str, tmp_path: Path
) -> None:
    file = written(tmp_path, content)
    _, faults = resolve(parameters(deepspeed=file))
    assert [(fault.target, fault.message, fault.code) for fault in faults] == [
        (f"deepspeed: {target}", f"{file} {said}", "Unsupported")
    ]


def test_a_wrong_key_gets_a_hint(tmp_path: Path) -> None:
    (fault,) = resolve(parameters(deepspeed=written(tmp_path, {"zero_optimisation": {"stage": 2}})))[1]
    assert fault.way_out == 'did you mean "zero_optimization"?'


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"zero_optimization": }', ":1 is not JSON: Expecting value"),
        ("[]", " holds no JSON object"),
    ],
)
def test_a_file_that_is_no_configuration(content: str, said: str, tmp_path: Path) -> None:
    file = written(tmp_path, content)
    (fault,) = resolve(parameters(deepspeed=file))[1]
    assert (fault.target, fault.message) == ("deepspeed", file + said)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    (fault,) = resolve(parameters(deepspeed=str(tmp_path / "none.json")))[1]
    assert fault.message == f"{tmp_path}/none.json cannot be read: No such file or directory"


@pytest.mark.parametrize("stage", [4, True, "three"])
def test_a_stage_that_is_none(stage: Any, tmp_path: Path) -> None:
    file = written(tmp_path, {"zero_optimization": {"stage": stage}})
    (fault,) = resolve(parameters(deepspeed=file))[1]
    assert fault.target == "deepspeed: zero_optimization.stage"
    assert fault.message == f"{file}: the stage must be 0, 1, 2 or 3, not {stage!r}"


def test_a_file_without_a_stage_shards_nothing(tmp_path: Path) -> None:
    assert sound(parameters(deepspeed=written(tmp_path, {"gradient_clipping": 0.5}))).stage == 0


@pytest.mark.parametrize(
    ("values", "target", "said"),
    [
        (
            {"optim": "adafactor"},
            "optim",
            "adafactor with DeepSpeed: it needs whole matrices, and ZeRO's shards are flat",
        ),
        (
            {"quantization": "4bit", "deepspeed_stage": "3"},
            "quantization",
            "4bit with ZeRO stage 3: quantised weights cannot be sharded",
        ),
    ],
)
def test_what_does_not_go_together(values: dict[str, Any], target: str, said: str) -> None:
    (fault,) = resolve(parameters(**values))[1]
    assert (fault.target, fault.message, fault.code) == (target, said, "Unsupported")


def test_quantised_weights_go_with_stage_2() -> None:
    assert sound(parameters(quantization="4bit")).stage == 2


def test_every_fault_is_found_in_one_pass(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"zero_optimization": {"stage": 2}, "communication_data_type": "bf16"}
    file = written(tmp_path, {**asked, "gradient_clipping": 1.0, "bf16": {"enabled": False}, "amp": {}})
    targets = [fault.target for fault in resolve(parameters(deepspeed=file, optim="adafactor"))[1]]
    assert targets == [
        "deepspeed: amp",
        "optim",
        "deepspeed: gradient_clipping",
        "deepspeed: bf16.enabled",
        "deepspeed: communication_data_type",
    ]
