"""What a run will need, before it starts: memory, time and disk. Knows nothing of torch.

Steps are counted by packing the rows as the trainer does. Memory is weights + what is trained + what is kept for the
backward pass + the logits of one chunk + the process itself. Time is floating-point operations over the rate of the
machine. Memory and time are estimates; the trainer's first steps give the true time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunesmith.finetune.inputs import INPUTS
from tunesmith.finetune.limits import KEPT_WEIGHTS, PIECE_TOKENS
from tunesmith.finetune.parameters import FinetuneParameters
from tunesmith.finetune.planning import capacity, packed_rows, steps_of
from tunesmith.finetune.sharding.settings import ShardingSettings

PROCESS_BYTES = 700e6
"""Python with torch, transformers and tokenizers loaded."""
LOGITS_BYTES = 4 * 6 * 1024 * 1024 * 4
"""The logits of one chunk, their gradient and the copies between."""
UTILISATION = 0.58
"""Share of the matrix products' rate that a whole step reaches: measured for LoRA on SmolLM2-135M, in fp32 on a CPU."""
_ADAFACTOR_SHARE = 0.02


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The numbers of a model that memory and time depend on."""

    parameters: int
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool

    @classmethod
    def of(cls, config: Mapping[str, Any], parameters: int | None = None) -> ModelShape:
        """From ``config.json``; the count of ``parameters`` is worked out when not given."""
        text = config.get("text_config", config)
        hidden, heads = int(text["hidden_size"]), int(text["num_attention_heads"])
        shape = cls(
            parameters=0,
            layers=int(text["num_hidden_layers"]),
            hidden=hidden,
            intermediate=int(text.get("intermediate_size") or 4 * hidden),
            heads=heads,
            kv_heads=int(text.get("num_key_value_heads") or heads),
            head_dim=int(text.get("head_dim") or hidden // heads),
            vocabulary=int(text["vocab_size"]),
            tied=bool(text.get("tie_word_embeddings", False)),
        )
        if parameters is None:
            embeddings = shape.vocabulary * shape.hidden * (1 if shape.tied else 2)
            parameters = shape.layers * shape.linear_per_layer + embeddings + (2 * shape.layers + 1) * shape.hidden
        return cls(
            **{name: getattr(shape, name) for name in cls.__slots__ if name != "parameters"}, parameters=parameters
        )

    @property
    def linear_per_layer(self) -> int:
        """Weights of one layer's matrices."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return attention + 3 * self.hidden * self.intermediate

    @property
    def adapter_features(self) -> int:
        """Sum of inputs and outputs over all linear layers: the adapter has this many weights per rank."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = 2 * (self.hidden + q) + 2 * (self.hidden + kv)
        return self.layers * (attention + 3 * (self.hidden + self.intermediate))


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run will need. ``parts`` splits the memory, in bytes."""

    memory_bytes: int
    seconds: float | None
    disk_bytes: int
    steps: int
    tokens: int
    trainable_parameters: int
    parts: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {name: getattr(self, name) for name in self.__slots__}


def estimate(
    config: Mapping[str, Any],
    parameters: FinetuneParameters,
    lengths: Any,
    *,
    parameter_count: int | None = None,
    flops: float | None = None,
    context_length: int | None = None,
    processes: int = 1,
    sharding: ShardingSettings | None = None,
) -> Estimate:
    """Estimate a run of the model with this ``config`` (``config.json``'s content) over rows of these ``lengths`` in
    tokens.

    Steps and tokens are exact for the lengths of prepared rows. ``flops`` is the rate in FLOP/s at which the machine
    multiplies at the model's shapes (``precision.training_rate`` measures it); without it no time is told.
    ``processes`` share each optimiser step; memory is that of one, on its GPU where there is one. ``sharding`` divides
    the optimiser, the gradients and the weights among them, or keeps them in the machine's memory.
    """
    shape = ModelShape.of(config, parameter_count)
    text = config.get("text_config", config)
    context = context_length or int(text.get("max_position_embeddings", 2048))
    rows = [int(length) for length in lengths]
    total = sum(rows)
    longest = max(rows, default=1)
    row_tokens = capacity(rows, parameters, context)
    bins = len(packed_rows(rows, parameters, row_tokens, seed=parameters.seed))
    steps_per_epoch, steps = steps_of(bins, parameters, world=processes)
    tokens = int(total * steps / steps_per_epoch)

    width = 2 if parameters.precision in ("16", "bf16") else 4
    trainable = parameters.lora_r * shape.adapter_features if parameters.apply_lora else shape.parameters
    moments = 2.0 if parameters.optim == "adamw_torch" else _ADAFACTOR_SHARE
    master = 0 if parameters.apply_lora or width == 4 else 4
    micro = longest if not parameters.packing else row_tokens
    piece = min(micro * parameters.per_device_train_batch_size, max(PIECE_TOKENS, longest))
    parts = {
        "weights": shape.parameters * width + (trainable * 4 if parameters.apply_lora else 0),
        "gradients and optimiser": _trained_bytes(trainable, 4 * moments + master, processes, sharding),
        "activations": int(
            piece
            * activation_bytes(shape, width, total / max(1, len(rows)), checkpointing=parameters.gradient_checkpointing)
        ),
        "logits": int(LOGITS_BYTES),
        "process": int(PROCESS_BYTES),
    }
    if sharding is not None and sharding.stage == 3:
        parts["weights"] = 0 if "param" in sharding.offloads else parts["weights"] // processes
    if parameters.find_learning_rate:
        parts["weights before the search"] = trainable * 4
    # Forward 2 and backward through activations 2 operations a weight; weight gradients 2 more where weights are
    # trained.
    per_weight = 4 if parameters.apply_lora else 6
    if parameters.gradient_checkpointing:
        per_weight += 2
    operations = per_weight * shape.layers * shape.linear_per_layer + per_weight * shape.vocabulary * shape.hidden / 2
    # Causal scores and what they weigh: 2 operations a pair each, forward once and backward twice, half of the pairs.
    attended = sum(length * length for length in rows) / max(1, total)
    operations += (
        (8 if parameters.gradient_checkpointing else 6) * attended * shape.layers * shape.heads * shape.head_dim
    )
    kept = parameters.save_total_limit + 1 if parameters.save_total_limit > 0 else max(1, steps // steps_per_epoch)
    checkpoint = trainable * (4 + 4 * moments)
    result = trainable * 4 if parameters.apply_lora else shape.parameters * width
    return Estimate(
        memory_bytes=sum(parts.values()),
        seconds=tokens * operations / (UTILISATION * flops) / processes if flops else None,
        disk_bytes=int(kept * checkpoint + result),
        steps=steps,
        tokens=tokens,
        trainable_parameters=trainable,
        parts=parts,
    )


def _trained_bytes(trainable: int, states: float, processes: int, sharding: ShardingSettings | None) -> int:
    """Gradients (fp32) and the optimiser's ``states`` (bytes a weight) of the trained weights, on one process."""
    if sharding is None:
        return int(trainable * (4 + states))
    if "optimizer" in sharding.offloads:
        return 0
    gradients = 4 / processes if sharding.stage >= 2 else 4
    return int(trainable * (gradients + (4 + 8) / processes))  # its own fp32 copy, and AdamW's two moments


def activation_bytes(shape: ModelShape, width: int, length: float, *, checkpointing: bool) -> float:
    """Bytes kept for the backward pass for each token; ``width`` is bytes a number, ``length`` the mean row's."""
    heads = (shape.heads + 2 * shape.kv_heads) * shape.head_dim
    scores = shape.heads * length / 2 if length <= KEPT_WEIGHTS else 0.0
    layer = 4 * shape.hidden + 2 * heads + 2 * shape.intermediate + scores
    if checkpointing:
        # One layer at a time, and the input of every layer.
        return width * (layer + shape.layers * shape.hidden)
    return float(width * shape.layers * layer)


@dataclass(frozen=True, slots=True)
class Remedy:
    """A change that lowers memory, and by how much."""

    change: str
    saves_bytes: int

    def __str__(self) -> str:
        return f"{self.change} (saves about {self.saves_bytes / 1e6:,.0f} MB)"


def memory_remedies(
    config: Mapping[str, Any],
    parameters: FinetuneParameters,
    lengths: Any,
    count: int = 3,
    *,
    context_length: int | None = None,
    processes: int = 1,
    sharding: ShardingSettings | None = None,
) -> list[Remedy]:
    """The changes that save memory, those that cost the result least first, at most ``count``; as ``estimate``."""
    machine: dict[str, Any] = {"context_length": context_length, "processes": processes, "sharding": sharding}
    now = estimate(config, parameters, lengths, **machine).memory_bytes
    longest = max((int(length) for length in lengths), default=1)
    row = parameters.max_seq_length if parameters.max_seq_length > 0 else max(longest, PIECE_TOKENS)
    candidates: list[tuple[str, dict[str, Any]]] = []
    if parameters.per_device_train_batch_size > 1:
        half = parameters.per_device_train_batch_size // 2
        accumulation = parameters.gradient_accumulation_steps * 2
        candidates.append(
            (
                f"per_device_train_batch_size {half} with gradient_accumulation_steps {accumulation}: the same numbers",
                {"per_device_train_batch_size": half, "gradient_accumulation_steps": accumulation},
            )
        )
    if not parameters.gradient_checkpointing:
        candidates.append(
            ("gradient_checkpointing true: the same numbers, about a third slower", {"gradient_checkpointing": True})
        )
    if parameters.precision not in ("16", "bf16"):
        candidates.append(("precision bf16", {"precision": "bf16"}))
    if not parameters.apply_lora:
        candidates.append(("apply_lora true", {"apply_lora": True}))
    if parameters.optim != "adafactor" and not parameters.apply_deepspeed:
        candidates.append(("optim adafactor", {"optim": "adafactor"}))
    if row > 256:
        candidates.append(
            (f"max_seq_length {row // 2}: long conversations are shortened", {"max_seq_length": row // 2})
        )
    remedies = []
    for words, change in candidates:
        values = {**parameters.to_dict(), **change}
        cut = [min(int(length), row // 2) for length in lengths] if "max_seq_length" in change else lengths
        changed = FinetuneParameters(**{k: values[k] for k in INPUTS})
        saved = now - estimate(config, changed, cut, **machine).memory_bytes
        if saved > 0:
            remedies.append(Remedy(words, saved))
    # Changes that keep the numbers come first whatever they save; among them, and among the rest, the greatest saving
    # first.
    remedies.sort(key=lambda remedy: ("the same numbers" not in remedy.change, -remedy.saves_bytes))
    return remedies[:count]
