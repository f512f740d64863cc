"""Rows and models for the tests of fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
import torch

from tests.support.tiny import tiny_model
from tunesmith.finetune.checkpoints import Checkpoints
from tunesmith.finetune.parameters import FinetuneParameters
from tunesmith.finetune.run import prepare
from tunesmith.finetune.seeding import seed_everything
from tunesmith.finetune.trainer import Trainer
from tunesmith.reporting import Level, NullReporter, Reporter

VOCABULARY = 500


class MemoryRows:
    """Prepared rows in memory."""

    def __init__(self, rows: list[tuple[list[int], list[bool]]]) -> None:
        self._rows = rows
        self.lengths = numpy.array([len(ids) for ids, _ in rows], dtype=numpy.int32)

    def row(self, index: int) -> tuple[list[int], list[bool]]:
        return self._rows[index]


def random_rows(count: int = 12, *, seed: int = 0, shortest: int = 6, longest: int = 40) -> MemoryRows:
    """Rows of random tokens with one or two trained stretches each."""
    generator = numpy.random.default_rng(seed)
    rows = []
    for _ in range(count):
        length = int(generator.integers(shortest, longest + 1))
        ids = generator.integers(10, VOCABULARY, length).tolist()
        trained = [False] * length
        for _ in range(int(generator.integers(1, 3))):
            start = int(generator.integers(1, length))
            for place in range(start, min(length, start + int(generator.integers(1, 8)))):
                trained[place] = True
        rows.append((ids, trained))
    return MemoryRows(rows)


class Heard:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.metrics: list[tuple[int, dict[str, float]]] = []
        self.notices: list[tuple[str, str]] = []
        self.phases: dict[str, tuple[float, float | None]] = {}
        self.values: dict[str, Any] = {}
        self.lines: list[str] = []

    def progress(
        self, phase: str, done: float, total: float | None, *, unit: str = "", values: Mapping[str, Any] | None = None
    ) -> None:
        self.phases[phase] = (done, total)
        self.values.update(values or {})

    def metric(self, step: int, values: Mapping[str, float]) -> None:
        self.metrics.append((step, dict(values)))

    def notice(self, code: str, message: str, *, level: Level = "warning", count: int | None = None) -> None:
        self.notices.append((code, message))

    def log(self, message: str) -> None:
        self.lines.append(message)


FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "phi3", "gemma3")
"""The architectures that are trained document by document."""


def random_model(family: str, *, dtype: torch.dtype = torch.float32, seed: int = 0) -> Any:
    """A tiny random model of any tested family, with its peculiarities on (windows, partial rotation, biases)."""
    import transformers

    shape: dict[str, Any] = {
        "vocab_size": 512,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "pad_token_id": 0,
    }
    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        "llama": ("Llama", {"tie_word_embeddings": True}),
        "mistral": ("Mistral", {"sliding_window": 24, "head_dim": 12}),
        "qwen2": ("Qwen2", {}),
        "qwen3": ("Qwen3", {"head_dim": 16}),
        "phi3": ("Phi3", {"sliding_window": 40, "original_max_position_embeddings": 256}),
        "gemma3": (
            "Gemma3",
            {
                "head_dim": 16,
                "sliding_window": 16,
                "query_pre_attn_scalar": 16,
                "layer_types": ["sliding_attention", "full_attention"],
            },
        ),
        "gemma2": ("Gemma2", {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 16}),
        "granite": ("Granite", {"logits_scaling": 4.0}),
    }
    name, more = kinds[family]
    config = getattr(transformers, "Gemma3TextConfig" if name == "Gemma3" else f"{name}Config")(**shape, **more)
    torch.manual_seed(seed)
    model = getattr(transformers, f"{name}ForCausalLM")(config)
    with torch.no_grad():
        for weight_name, weight in model.named_parameters():
            if weight.ndim == 1:  # norms and biases away from their neutral start
                weight.add_(torch.randn_like(weight) * 0.1)
            elif "embed" not in weight_name:
                weight.mul_(4.0)  # so that attention is not flat
    return model.to(dtype).eval()


def with_adapters(model: Any, *, seed: int = 1, **values: Any) -> Any:
    """Adapters on ``model`` whose product is not zero."""
    from tunesmith.finetune.lora import LoraLinear, add_adapters

    torch.manual_seed(seed)
    add_adapters(model, FinetuneParameters(**{"apply_lora": True, "lora_alpha": 16, **values}))
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, LoraLinear):
                torch.nn.init.normal_(module.lora_B, std=0.05)
    return model


def load_tiny(family: Any, folder: Path, *, dtype: torch.dtype = torch.float32) -> Any:
    """A tiny model as transformers loads it."""
    from transformers import AutoModelForCausalLM

    path = folder / f"tiny-{family}"
    if not path.exists():
        tiny_model(family, path)
    return AutoModelForCausalLM.from_pretrained(path, dtype=dtype)


def make_trainer(
    folder: Path,
    *,
    family: Any = "llama",
    train: Any = None,
    validation: Any = None,
    reporter: Reporter | None = None,
    run: str = "run",
    **values: Any,
) -> Trainer:
    """A trainer for a tiny model with ``values`` as parameters."""
    values = {"logging_steps": 1, "learning_rate": 1e-3, "max_seq_length": 64, **values}
    parameters = FinetuneParameters(**values)
    seed_everything(parameters.seed)
    dtype = torch.bfloat16 if parameters.precision == "bf16" else torch.float32
    return prepare(
        load_tiny(family, folder, dtype=dtype),
        train if train is not None else random_rows(),
        validation,
        parameters,
        context_length=512,
        checkpoints=Checkpoints(folder / run, keep=parameters.save_total_limit, reporter=reporter or NullReporter()),
        reporter=reporter or NullReporter(),
    )
