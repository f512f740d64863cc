from __future__ import annotations

from typing import Any

import pytest

from tunesmith.errors import ValidationFailed
from tunesmith.finetune.inputs import INPUTS, PIPELINE_INPUTS
from tunesmith.finetune.parameters import FinetuneParameters

AZURE_DEFAULTS = {
    "task_name": "ChatCompletion",
    "pad_to_max_length": False,
    "max_seq_length": -1,
    "apply_lora": False,
    "merge_lora_weights": True,
    "lora_alpha": 128,
    "lora_r": 8,
    "lora_dropout": 0.0,
    "num_train_epochs": 1,
    "max_steps": -1,
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "auto_find_batch_size": False,
    "optim": "adamw_torch",
    "learning_rate": 2e-05,
    "warmup_steps": 0,
    "weight_decay": 0.0,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_epsilon": 1e-8,
    "gradient_accumulation_steps": 1,
    "eval_accumulation_steps": -1,
    "lr_scheduler_type": "linear",
    "precision": "32",
    "seed": 42,
    "enable_full_determinism": False,
    "dataloader_num_workers": 0,
    "ignore_mismatched_sizes": False,
    "max_grad_norm": 1.0,
    "evaluation_strategy": "epoch",
    "evaluation_steps_interval": 0.0,
    "eval_steps": 500,
    "logging_strategy": "steps",
    "logging_steps": 10,
    "metric_for_best_model": "loss",
    "resume_from_checkpoint": False,
    "save_total_limit": -1,
    "apply_early_stopping": False,
    "early_stopping_patience": 1,
    "early_stopping_threshold": 0.0,
    "apply_deepspeed": False,
    "deepspeed": None,
    "deepspeed_stage": "2",
    "apply_ort": False,
    "num_nodes_finetune": 1,
    "number_of_gpu_to_use_finetuning": 1,
}


def test_the_defaults_are_azures() -> None:
    values = FinetuneParameters().to_dict()
    assert {name: values[name] for name in AZURE_DEFAULTS} == AZURE_DEFAULTS
    assert {name for name, entry in INPUTS.items() if entry.azure} == set(AZURE_DEFAULTS)


def test_every_one_of_the_69_inputs_has_its_place() -> None:
    assert len(AZURE_DEFAULTS) + len(PIPELINE_INPUTS) == 69
    assert not set(INPUTS) & set(PIPELINE_INPUTS)


def test_the_table_and_the_class_agree() -> None:
    assert set(INPUTS) == set(FinetuneParameters.names())
    assert FinetuneParameters().to_dict() == {name: entry.default for name, entry in INPUTS.items()}
    assert all(entry.help.endswith(".") for entry in INPUTS.values())


def test_texts_are_read_as_azure_sends_them() -> None:
    read = FinetuneParameters.from_strings(
        {
            "apply_lora": "true",
            "learning_rate": "5e-06",
            "adam_epsilon": "1e-8",
            "num_train_epochs": "3",
            "max_seq_length": "512",
            "merge_lora_weights": "False",
            "deepspeed": "",
            "lora_r": None,
        }
    )
    assert (read.apply_lora, read.learning_rate, read.num_train_epochs) == (True, 5e-06, 3)
    assert (read.max_seq_length, read.merge_lora_weights, read.deepspeed, read.lora_r) == (512, False, None, 8)
    assert read.changed().keys() == {
        "apply_lora",
        "learning_rate",
        "num_train_epochs",
        "max_seq_length",
        "merge_lora_weights",
    }


def test_texts_and_values_go_round() -> None:
    read = FinetuneParameters(apply_lora=True, learning_rate=3.3e-7, use_dora=True, lora_target_modules="q_proj,v_proj")
    assert FinetuneParameters.from_strings(read.to_strings()) == read


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("learning_rate", "nan", "finite"),
        ("learning_rate", 0, "above 0"),
        ("learning_rate", "fast", "must be a number"),
        ("num_train_epochs", "1.5", "whole number"),
        ("num_train_epochs", True, "whole number"),
        ("num_train_epochs", 0, "at least 1"),
        ("max_steps", -2, "(or -1, 0)"),
        ("lora_dropout", 1, "below 1"),
        ("apply_lora", "ture", 'did you mean "true"?'),
        ("optim", "adam", "adamw_torch, adafactor"),
        ("lr_scheduler_type", "cosin", 'did you mean "cosine"?'),
        ("precision", "8", "32, 16, bf16, auto"),
        ("seed", -1, "at least 0"),
        ("num_nodes_finetune", 2, "attach a compute of several machines"),
        ("use_dora", "true", "set apply_lora to true"),
        ("quantization", "4bit", "set apply_lora to true"),
        ("pad_to_max_length", "true", "set max_seq_length"),
        ("lora_target_modules", " , ", "names no layer"),
    ],
)
def test_a_wrong_value_says_what_is_right(name: str, value: Any, says: str) -> None:
    with pytest.raises(ValidationFailed) as caught:
        FinetuneParameters.from_strings({name: value})
    (fault,) = caught.value.details
    assert fault.target == name
    assert says in str(fault)


def test_every_fault_is_in_one_answer() -> None:
    with pytest.raises(ValidationFailed) as caught:
        FinetuneParameters.from_strings(
            {"lerning_rate": "1", "lora_r": "x", "precision": "64", "use_dora": "true", "train_file_path": "a.jsonl"}
        )
    faults = {fault.target: str(fault) for fault in caught.value.details}
    assert set(faults) == {"lerning_rate", "lora_r", "precision", "use_dora", "train_file_path"}
    assert 'did you mean "learning_rate"?' in faults["lerning_rate"]
    assert "belongs to the pipeline" in faults["train_file_path"]


def test_the_constructor_checks_as_well() -> None:
    with pytest.raises(ValidationFailed, match="must be a finite number"):
        FinetuneParameters(learning_rate=float("inf"))


def test_the_scale_of_the_adapter() -> None:
    assert FinetuneParameters(lora_alpha=16, lora_r=4).lora_scaling == 4.0
    assert FinetuneParameters(lora_alpha=16, lora_r=4, use_rslora=True, apply_lora=True).lora_scaling == 8.0
