"""DeepSpeed's configuration for a run: from the parameters, or from a file that must not contradict them.

In a file ``"auto"`` takes the parameter's value. A value that differs from a parameter's is a fault that names both,
and so is what the trainer does not honour. Knows nothing of torch or deepspeed.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import Fault
from tunesmith.finetune.parameters import FinetuneParameters, did_you_mean

CPU_DEEPSPEED = "TUNESMITH_INTERNAL_CPU_DEEPSPEED"
"""Internal, for tests: DeepSpeed's engine is used without a GPU, over gloo."""

OLDEST = "0.19"
"""The oldest DeepSpeed whose engine was tried."""

_PASSED = ("prescale_gradients", "gradient_predivide_factor", "steps_per_print",
           "wall_clock_breakdown", "memory_breakdown", "comms_logger", "dump_state")  # fmt: skip
"""What goes to DeepSpeed as the file has it."""
_OURS = ("communication_data_type", "train_batch_size", "train_micro_batch_size_per_gpu",
         "gradient_accumulation_steps", "gradient_clipping", "optimizer", "scheduler", "bf16", "fp16",
         "zero_optimization", "zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer")  # fmt: skip
_ZERO = ("stage", "allgather_partitions", "allgather_bucket_size", "overlap_comm", "reduce_scatter",
         "reduce_bucket_size", "contiguous_gradients", "round_robin_gradients", "offload_optimizer", "offload_param",
         "sub_group_size", "ignore_unused_parameters", "memory_efficient_linear")  # fmt: skip
_ZERO_3 = ("prefetch_bucket_size", "param_persistence_threshold", "model_persistence_threshold", "max_live_parameters",
           "max_reuse_distance", "gather_16bit_weights_on_model_save")  # fmt: skip
"""Keys of stage 3; each may have ``stage3_`` before it."""
_SCHEDULES = {"WarmupDecayLR": "linear", "WarmupLR": "constant_with_warmup", "WarmupCosineLR": "cosine"}
_AUTO = "auto"


@dataclass(frozen=True, slots=True)
class ShardingSettings:
    """What DeepSpeed is given. ``config`` lacks nothing; ``notes`` are what a run says about it."""

    stage: int
    """0: nothing is sharded, and the trainer needs no engine; 1: the optimiser; 2: gradients too; 3: weights too."""
    config: dict[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def offloads(self) -> tuple[str, ...]:
        """What lies in the machine's memory instead of the GPU's: optimizer, param."""
        zero = self.config["zero_optimization"]
        return tuple(
            part for part in ("optimizer", "param") if zero.get(f"offload_{part}", {}).get("device", "none") != "none"
        )


def usable(*, gpu: bool) -> bool:
    """Whether DeepSpeed is used here: it needs a GPU and its package."""
    return (gpu or os.environ.get(CPU_DEEPSPEED) == "1") and importlib.util.find_spec("deepspeed") is not None


def resolve(
    parameters: FinetuneParameters, *, world: int | None = None, bf16: bool | None = None, hidden: int | None = None
) -> tuple[ShardingSettings | None, list[Fault]]:
    """DeepSpeed's settings for ``parameters``, or every reason why not.

    ``world`` processes, whether the weights are ``bf16`` and the model's ``hidden`` width are left out where they are
    not known yet: what depends on them is then not checked.
    """
    reader = _Reader(parameters, world=world, bf16=bf16, hidden=hidden)
    settings = reader.read()
    return (None, reader.faults) if reader.faults else (settings, [])


class _Reader:
    def __init__(
        self, parameters: FinetuneParameters, *, world: int | None, bf16: bool | None, hidden: int | None
    ) -> None:
        self.p = parameters
        self.world, self.bf16, self.hidden = world, bf16, hidden
        self.faults: list[Fault] = []
        self.notes: list[str] = []
        self.file = parameters.deepspeed or ""

    def fault(self, name: str, message: str, way_out: str, code: str = "InvalidValue") -> None:
        self.faults.append(Fault(message, name, code, way_out))

    def within(self, key: str) -> str:
        """A key of the file, as a fault's target has it."""
        return f"deepspeed: {key}"

    def read(self) -> ShardingSettings:
        given = self._load()
        known = (*_OURS, *_PASSED)
        for key in given:
            if key not in known:
                hint = did_you_mean(key, known) or "remove it from the file"
                self.fault(
                    self.within(key), f'{self.file} asks for "{key}", which is not supported', hint, "Unsupported"
                )
        zero = self._zero(given)
        stage = int(zero["stage"])
        self._combinations(stage)
        self._batch(given)
        self._precision(given)
        self._optimiser(given, zero)
        self._scheduler(given)
        exchanged = given.get("communication_data_type")
        if exchanged not in (None, _AUTO, "fp32"):
            self.fault(
                self.within("communication_data_type"),
                f"{self.file} has {json.dumps(exchanged)}, and gradients are exchanged in fp32",
                'write "auto" in the file',
                "Unsupported",
            )
        config = {key: given[key] for key in _PASSED if key in given and given[key] != _AUTO}
        full_bf16 = bool(self.bf16) and not self.p.apply_lora
        config |= {
            "train_micro_batch_size_per_gpu": self.p.per_device_train_batch_size,
            "gradient_accumulation_steps": self.p.gradient_accumulation_steps,
            "gradient_clipping": self.p.max_grad_norm,
            # With adapters only fp32 weights are trained, over a base in its own type; DeepSpeed's bf16 would turn
            # the adapters into bf16 as well.
            "bf16": {"enabled": full_bf16, **({"check_grad_overflow": True} if full_bf16 else {})},
            "data_types": {"grad_accum_dtype": "fp32"},
            "zero_optimization": zero,
            # The update is torch's AdamW wherever the optimiser lies.
            "zero_force_ds_cpu_optimizer": False,
            "communication_data_type": "fp32",
        }
        return ShardingSettings(stage, config, tuple(self.notes))

    # ── the file ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _load(self) -> dict[str, Any]:
        if not self.file:
            return {"zero_optimization": {"stage": int(self.p.deepspeed_stage)}}
        try:
            given = json.loads(Path(self.file).read_text(encoding="utf-8"))
        except OSError as error:
            self.fault("deepspeed", f"{self.file} cannot be read: {error.strerror}", "give the path of a JSON file")
            return {}
        except ValueError as error:
            place = f"{self.file}:{error.lineno}" if isinstance(error, json.JSONDecodeError) else self.file
            cause = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            self.fault("deepspeed", f"{place} is not JSON: {cause}", "give DeepSpeed's configuration as JSON")
            return {}
        if not isinstance(given, dict):
            self.fault("deepspeed", f"{self.file} holds no JSON object", "give DeepSpeed's configuration as JSON")
            return {}
        return given

    def _section(self, given: Mapping[str, Any], key: str, inside: str = "") -> dict[str, Any]:
        """A section of the file, or of a section; missing, null and "auto" are an empty one."""
        value = given.get(key)
        if value is None or value == _AUTO:
            return {}
        if not isinstance(value, dict):
            self.fault(
                self.within(inside + key), f"{self.file}: {inside}{key} must be an object, not {value!r}", "use { }"
            )
            return {}
        return value

    def _unknown(self, section: Mapping[str, Any], name: str, known: tuple[str, ...]) -> None:
        for key in section:
            if key not in known:
                hint = did_you_mean(key, known) or "remove it from the file"
                message = f'{self.file} asks for "{name}.{key}", which is not supported'
                self.fault(self.within(f"{name}.{key}"), message, hint, "Unsupported")

    def same(self, key: str, value: Any, name: str, ours: Any) -> None:
        """A value of the file must be the parameter's, or "auto"."""
        if value is None or value == _AUTO:
            return
        if isinstance(value, int | float) and not isinstance(value, bool) and isinstance(ours, int | float):
            if math.isclose(float(value), float(ours), rel_tol=1e-9):
                return
        elif value == ours and type(value) is type(ours):
            return
        self.fault(
            self.within(key),
            f"{self.file} has {key} {json.dumps(value)} and {name} is {json.dumps(ours)}",
            f'write "auto" in the file, or give {name} the same value',
            "Contradiction",
        )

    # ── its parts ────────────────────────────────────────────────────────────────────────────────────────────────

    def _zero(self, given: Mapping[str, Any]) -> dict[str, Any]:
        zero = dict(self._section(given, "zero_optimization"))
        known = (*_ZERO, *_ZERO_3, *(f"stage3_{key}" for key in _ZERO_3))
        self._unknown(zero, "zero_optimization", known)
        if self.file:
            stage = zero.get("stage", 0)
            if stage == _AUTO:
                stage = int(self.p.deepspeed_stage)
            if isinstance(stage, bool) or stage not in (0, 1, 2, 3):
                key = self.within("zero_optimization.stage")
                self.fault(key, f"{self.file}: the stage must be 0, 1, 2 or 3, not {stage!r}", "choose one of them")
                stage = 2
            zero["stage"] = stage
            if str(stage) != self.p.deepspeed_stage:
                self.notes.append(
                    f"deepspeed: ZeRO stage {stage} is taken from the file; deepspeed_stage {self.p.deepspeed_stage} "
                    "is for runs without one"
                )
        for part in ("optimizer", "param"):
            self._offload(zero, part)
        automatic = self._automatic()
        for key, value in list(zero.items()):
            if value != _AUTO:
                continue
            short = key.removeprefix("stage3_")
            if short in automatic:
                zero[key] = automatic[short]
            else:
                del zero[key]  # DeepSpeed's own default
        return zero

    def _automatic(self) -> dict[str, int]:
        """What transformers gives for "auto": sizes that follow the model's width."""
        if self.hidden is None:
            return {}
        square = self.hidden * self.hidden
        return {
            "reduce_bucket_size": square,
            "prefetch_bucket_size": int(0.9 * square),
            "param_persistence_threshold": 10 * self.hidden,
        }

    def _offload(self, zero: dict[str, Any], part: str) -> None:
        name = f"offload_{part}"
        section = self._section(zero, name, "zero_optimization.")
        if not section:
            zero.pop(name, None)
            return
        key = f"zero_optimization.{name}"
        self._unknown(section, key, ("device", "pin_memory", "fast_init", "max_in_cpu", "buffer_count", "buffer_size"))
        device = section.get("device", "none")
        if device not in ("cpu", "none", _AUTO):
            message = (
                f"{self.file} has {key}.device {device!r}: what lies on a disk cannot be brought into a checkpoint"
            )
            self.fault(self.within(f"{key}.device"), message, "use cpu or none", "Unsupported")
        if part == "param" and device == "cpu" and zero.get("stage") != 3:
            message = f"{self.file} has {key} with stage {zero.get('stage')}: only stage 3 moves the weights"
            self.fault(self.within(key), message, "use stage 3, or remove it")
        zero[name] = {name: value for name, value in section.items() if value != _AUTO}
        if zero[name].get("device", "none") == "none":
            del zero[name]

    def _combinations(self, stage: int) -> None:
        p = self.p
        if p.optim != "adamw_torch" and stage > 0:
            self.fault(
                "optim",
                f"{p.optim} with DeepSpeed: it needs whole matrices, and ZeRO's shards are flat",
                "use adamw_torch, or set apply_deepspeed to false",
                "Unsupported",
            )
        if p.quantization != "none" and stage == 3:
            self.fault(
                "quantization",
                f"{p.quantization} with ZeRO stage 3: quantised weights cannot be sharded",
                "use deepspeed_stage 2, or quantization none",
                "Unsupported",
            )

    def _batch(self, given: Mapping[str, Any]) -> None:
        p = self.p
        micro, steps = p.per_device_train_batch_size, p.gradient_accumulation_steps
        key = "train_micro_batch_size_per_gpu"
        self.same(key, given.get(key), "per_device_train_batch_size", micro)
        key = "gradient_accumulation_steps"
        self.same(key, given.get(key), key, steps)
        self.same("gradient_clipping", given.get("gradient_clipping"), "max_grad_norm", p.max_grad_norm)
        if self.world is not None:
            names = f"per_device_train_batch_size x gradient_accumulation_steps x {self.world} processes"
            self.same("train_batch_size", given.get("train_batch_size"), names, micro * steps * self.world)

    def _precision(self, given: Mapping[str, Any]) -> None:
        bf16, fp16 = self._section(given, "bf16"), self._section(given, "fp16")
        self._unknown(bf16, "bf16", ("enabled",))
        half = fp16.get("enabled", False)
        if half not in (False, _AUTO):
            self.fault(
                self.within("fp16.enabled"),
                f"{self.file} has fp16.enabled {json.dumps(half)} and precision is {self.p.precision}: half precision "
                "is trained as bf16, which needs no scaling of the loss",
                'write "auto" in the file, and use bf16 there',
                "Contradiction",
            )
        uses = self.bf16 if self.bf16 is not None else {"32": False, "16": True, "bf16": True}.get(self.p.precision)
        asked = bf16.get("enabled", _AUTO)
        if asked != _AUTO and uses is not None and asked is not uses:
            trained = "bf16" if uses else "float32"
            self.fault(
                self.within("bf16.enabled"),
                f"{self.file} has bf16.enabled {json.dumps(asked)} and precision {self.p.precision} is {trained} here",
                'write "auto" in the file, or give precision the same value',
                "Contradiction",
            )

    def _optimiser(self, given: Mapping[str, Any], zero: Mapping[str, Any]) -> None:
        section = self._section(given, "optimizer")
        self._unknown(section, "optimizer", ("type", "params"))
        kind = section.get("type", _AUTO)
        values = self._section(section, "params", "optimizer.")
        whole = values.get("adam_w_mode", True) is True
        if kind != _AUTO and not (str(kind).lower() == "adamw" or (str(kind).lower() == "adam" and whole)):
            self.fault(
                self.within("optimizer.type"),
                f"{self.file} has optimizer.type {json.dumps(kind)} and optim is {self.p.optim}",
                'write "AdamW" or remove the section',
                "Contradiction",
            )
        self._unknown(values, "optimizer.params", ("lr", "betas", "eps", "weight_decay", "torch_adam", "adam_w_mode"))
        if given.get("zero_force_ds_cpu_optimizer") is True and "offload_optimizer" in zero:
            self.fault(
                self.within("zero_force_ds_cpu_optimizer"),
                f"{self.file} wants DeepSpeed's own Adam on the processor; the update is torch's AdamW everywhere",
                "remove it from the file",
                "Unsupported",
            )
        p = self.p
        self.same("optimizer.params.lr", values.get("lr"), "learning_rate", p.learning_rate)
        self.same("optimizer.params.eps", values.get("eps"), "adam_epsilon", p.adam_epsilon)
        self.same("optimizer.params.weight_decay", values.get("weight_decay"), "weight_decay", p.weight_decay)
        betas = values.get("betas")
        if isinstance(betas, list) and len(betas) == 2:
            self.same("optimizer.params.betas", betas[0], "adam_beta1", p.adam_beta1)
            self.same("optimizer.params.betas", betas[1], "adam_beta2", p.adam_beta2)
        elif betas not in (None, _AUTO):
            key = "optimizer.params.betas"
            self.fault(self.within(key), f"{self.file}: {key} must be two numbers, not {betas!r}", 'write "auto"')

    def _scheduler(self, given: Mapping[str, Any]) -> None:
        section = self._section(given, "scheduler")
        self._unknown(section, "scheduler", ("type", "params"))
        kind = section.get("type", _AUTO)
        p = self.p
        if kind != _AUTO and _SCHEDULES.get(str(kind)) != p.lr_scheduler_type:
            self.fault(
                self.within("scheduler.type"),
                f"{self.file} has scheduler.type {json.dumps(kind)} and lr_scheduler_type is {p.lr_scheduler_type}",
                "remove the section: lr_scheduler_type and warmup_steps say it",
                "Contradiction",
            )
        values = self._section(section, "params", "scheduler.")
        known = ("warmup_min_lr", "warmup_max_lr", "warmup_num_steps", "warmup_type", "total_num_steps")
        self._unknown(values, "scheduler.params", known)
        self.same("scheduler.params.warmup_max_lr", values.get("warmup_max_lr"), "learning_rate", p.learning_rate)
        self.same("scheduler.params.warmup_min_lr", values.get("warmup_min_lr"), "the start of the warm-up", 0)
        self.same("scheduler.params.warmup_num_steps", values.get("warmup_num_steps"), "warmup_steps", p.warmup_steps)
        self.same("scheduler.params.warmup_type", values.get("warmup_type"), "the warm-up", "linear")
        key, total = "scheduler.params.total_num_steps", values.get("total_num_steps")
        if p.max_steps > 0:
            self.same(key, total, "max_steps", p.max_steps)
        elif total not in (None, _AUTO):
            message = f"{self.file} has {key} {json.dumps(total)} and num_train_epochs decides the steps"
            self.fault(self.within(key), message, 'write "auto" in the file, or set max_steps', "Contradiction")
