"""What a training run is asked to do: ``FinetuneParameters``.

Values may come as text ("5e-06", "true"), as Azure ML sends them, or as real numbers and booleans. ``from_strings``
finds every fault in one pass. Knows nothing of torch or of the machine; what a machine cannot honour is decided, and
said, by the trainer.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, cast

from tunesmith.errors import Fault, ValidationFailed
from tunesmith.finetune.inputs import INPUTS, PIPELINE_INPUTS, Input

Value = bool | int | float | str | None

_TRUE = ("true", "1", "yes", "on")
_FALSE = ("false", "0", "no", "off")


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneParameters:
    """Every training input with its value; ``INPUTS`` documents each.

    Raises:
        ValidationFailed: the values do not go together; every fault is in ``details``.
    """

    task_name: str = "ChatCompletion"
    max_seq_length: int = -1
    pad_to_max_length: bool = False
    apply_lora: bool = False
    merge_lora_weights: bool = True
    lora_alpha: int = 128
    lora_r: int = 8
    lora_dropout: float = 0.0
    num_train_epochs: int = 1
    max_steps: int = -1
    per_device_train_batch_size: int = 1
    per_device_eval_batch_size: int = 1
    auto_find_batch_size: bool = False
    optim: str = "adamw_torch"
    learning_rate: float = 2e-5
    warmup_steps: int = 0
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    gradient_accumulation_steps: int = 1
    eval_accumulation_steps: int = -1
    lr_scheduler_type: str = "linear"
    precision: str = "32"
    seed: int = 42
    enable_full_determinism: bool = False
    dataloader_num_workers: int = 0
    ignore_mismatched_sizes: bool = False
    max_grad_norm: float = 1.0
    evaluation_strategy: Literal["epoch", "steps", "disable"] = "epoch"
    evaluation_steps_interval: float = 0.0
    eval_steps: int = 500
    logging_strategy: Literal["epoch", "steps"] = "steps"
    logging_steps: int = 10
    metric_for_best_model: Literal["loss", "f1", "exact"] = "loss"
    resume_from_checkpoint: bool = False
    save_total_limit: int = -1
    apply_early_stopping: bool = False
    early_stopping_patience: int = 1
    early_stopping_threshold: float = 0.0
    apply_deepspeed: bool = False
    deepspeed: str | None = None
    deepspeed_stage: str = "2"
    apply_ort: bool = False
    number_of_gpu_to_use_finetuning: int = 1
    num_nodes_finetune: int = 1
    packing: bool = True
    loss_on: Literal["assistant", "last_assistant", "all"] = "assistant"
    on_too_long: Literal["truncate_turns", "drop", "fail"] = "truncate_turns"
    on_faulty: Literal["fail", "drop"] = "fail"
    lora_target_modules: str = "all-linear"
    use_dora: bool = False
    use_rslora: bool = False
    quantization: Literal["none", "8bit", "4bit"] = "none"
    attention: Literal["auto", "documents", "sdpa", "eager"] = "auto"
    gradient_checkpointing: bool = False
    neftune_noise_alpha: float = 0.0
    max_minutes: float = 0.0
    find_learning_rate: bool = False

    def __post_init__(self) -> None:
        faults: list[Fault] = []
        for entry in INPUTS.values():
            value, fault = _read(entry, getattr(self, entry.name))
            if fault is not None:
                faults.append(fault)
            else:
                object.__setattr__(self, entry.name, value)
        faults += _together(self) if not faults else []
        _raise(faults)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The names that ``from_strings`` takes."""
        return tuple(field.name for field in fields(cls))

    @classmethod
    def from_strings(cls, mapping: Mapping[str, Value]) -> FinetuneParameters:
        """Read values by Azure ML's names; ``None`` and ``""`` stand for the default.

        Raises:
            ValidationFailed: unknown names (with "did you mean"), wrong types, values out of bounds, values that do
            not go
                together; every fault is in ``details``, its ``target`` the input's name.
        """
        faults: list[Fault] = []
        values: dict[str, Value] = {}
        for name, given in mapping.items():
            entry = INPUTS.get(name)
            if entry is None:
                faults.append(_unknown(name))
            elif given is not None and given != "":
                value, fault = _read(entry, given)
                if fault is not None:
                    faults.append(fault)
                else:
                    values[name] = value
        if faults:
            # The faults of the rest are found too, so that one answer holds all of them.
            faults += _together_of(values)
            _raise(faults)
        return cls(**cast("dict[str, Any]", values))

    def to_dict(self) -> dict[str, Value]:
        """Every input with its value, in the table's order."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def to_strings(self) -> dict[str, str]:
        """As Azure ML writes them: booleans "true" and "false", numbers as text; unset ones are left out."""
        return {name: _text(value) for name, value in self.to_dict().items() if value is not None}

    @property
    def lora_scaling(self) -> float:
        """What the adapter's product is multiplied by."""
        return self.lora_alpha / (math.sqrt(self.lora_r) if self.use_rslora else self.lora_r)

    def changed(self) -> dict[str, Value]:
        """The inputs whose value is not the default."""
        return {name: value for name, value in self.to_dict().items() if value != INPUTS[name].default}


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """A hint with the closest known name, or ``None``."""
    close = difflib.get_close_matches(name.lower(), list(known), n=1, cutoff=0.6)
    return f'did you mean "{close[0]}"?' if close else None


def _text(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _unknown(name: str) -> Fault:
    if name in PIPELINE_INPUTS:
        return Fault(
            f'"{name}" belongs to the pipeline, not to training ({PIPELINE_INPUTS[name]})',
            name,
            "UnknownInput",
            "leave it out here",
        )
    hint = did_you_mean(name, INPUTS) or "see the table of inputs in docs/finetuning.md"
    return Fault(f'there is no training input "{name}"', name, "UnknownInput", hint)


def _raise(faults: list[Fault]) -> None:
    if faults:
        count = "one training input is" if len(faults) == 1 else f"{len(faults)} training inputs are"
        raise ValidationFailed(f"{count} wrong", details=faults)


def _read(entry: Input, given: Value) -> tuple[Value, Fault | None]:
    """The value in its own type, or the fault."""

    def fault(message: str, way_out: str | None = None) -> tuple[None, Fault]:
        return None, Fault(f"{message}, not {given!r}", entry.name, "InvalidValue", way_out)

    if given is None:
        return (None, None) if entry.default is None else fault("a value is needed")
    if entry.kind == "boolean":
        if isinstance(given, bool):
            return given, None
        word = str(given).strip().lower()
        if word in _TRUE or word in _FALSE:
            return word in _TRUE, None
        return fault('must be "true" or "false"', did_you_mean(word, ("true", "false")))
    if entry.kind in ("integer", "number"):
        return _read_number(entry, given)
    if isinstance(given, bool) or not isinstance(given, str | int):
        return fault("must be text")
    text = str(given).strip()
    if entry.enum and text not in entry.enum:
        return fault("must be one of " + ", ".join(entry.enum), did_you_mean(text, entry.enum))
    return text, None


def _read_number(entry: Input, given: Value) -> tuple[Value, Fault | None]:
    def fault(message: str) -> tuple[None, Fault]:
        return None, Fault(f"{message}, not {given!r}", entry.name, "InvalidValue", None)

    what = "a whole number" if entry.kind == "integer" else "a number"
    if isinstance(given, bool):
        return fault(f"must be {what}")
    try:
        number = float(given) if given is not None else math.nan
    except (TypeError, ValueError):
        return fault(f"must be {what}")
    if not math.isfinite(number):
        return fault("must be a finite number")
    if entry.kind == "integer":
        try:
            exact = given if isinstance(given, int) else int(str(given))
        except ValueError:
            if number != int(number):
                return fault("must be a whole number")
            exact = int(number)
        number = exact
    if number in entry.special:
        return (int(number) if entry.kind == "integer" else float(number)), None
    bounds = bounds_text(entry)
    if (
        (entry.minimum is not None and number < entry.minimum)
        or (entry.maximum is not None and number > entry.maximum)
        or (entry.above is not None and number <= entry.above)
        or (entry.below is not None and number >= entry.below)
    ):
        return fault(f"must be {bounds}")
    return (number if entry.kind == "integer" else float(number)), None


def bounds_text(entry: Input) -> str:
    """The bounds in words, such as "at least 0 and below 1 (or -1)"; empty without bounds."""
    parts = []
    for words, bound in (
        ("at least", entry.minimum),
        ("above", entry.above),
        ("at most", entry.maximum),
        ("below", entry.below),
    ):
        if bound is not None:
            parts.append(f"{words} {bound:g}" if bound < 1e6 else f"{words} {int(bound)}")
    text = " and ".join(parts)
    return text + (f" (or {', '.join(f'{value:g}' for value in entry.special)})" if entry.special and text else "")


def _together_of(values: Mapping[str, Value]) -> list[Fault]:
    try:
        FinetuneParameters(**cast("dict[str, Any]", values))
    except ValidationFailed as error:
        return list(error.details)
    return []


def _together(p: FinetuneParameters) -> list[Fault]:
    """The faults of values that do not go together."""
    faults = []

    def fault(name: str, message: str, way_out: str) -> None:
        faults.append(Fault(message, name, "InvalidValue", way_out))

    if p.num_nodes_finetune > 1:
        fault(
            "num_nodes_finetune",
            f"{p.num_nodes_finetune} machines were asked for and this compute is one",
            "use 1, or attach a compute of several machines",
        )
    if p.apply_early_stopping and p.evaluation_strategy == "disable":
        fault("apply_early_stopping", "needs evaluations", "set evaluation_strategy to epoch or steps")
    if p.use_dora and not p.apply_lora:
        fault("use_dora", "is a kind of LoRA", "set apply_lora to true")
    if p.use_rslora and not p.apply_lora:
        fault("use_rslora", "is a kind of LoRA", "set apply_lora to true")
    if p.quantization != "none" and not p.apply_lora:
        fault("quantization", "quantised weights cannot be trained themselves", "set apply_lora to true")
    if p.pad_to_max_length and p.max_seq_length < 0:
        fault("pad_to_max_length", "needs to know the length", "set max_seq_length")
    if not [name for name in p.lora_target_modules.split(",") if name.strip()]:
        fault("lora_target_modules", "names no layer", "use all-linear, or names such as q_proj,v_proj")
    return faults
