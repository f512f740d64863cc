"""One fine-tuning run in a process of its own, for ``bench_finetune.py``: ``python finetune_worker.py RUN.json``.

The last line it prints is ``RESULT`` and what was measured as JSON.
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Row = tuple[list[int], list[bool]]

RANK, ALPHA, SEED = 8, 16, 42
HALF_BILLION = {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151_936,
    "tie_word_embeddings": True,
}
"""A Qwen2 of 494 million random weights."""


@dataclass(frozen=True)
class Run:
    """What one process trains, and how. ``rows`` are pickled in the order in which steps take them."""

    name: str
    trainer: str
    """tunesmith or trl"""
    rows: str
    model: str
    """a package folder, or half-billion"""
    steps: int
    batch: int
    max_seq_length: int
    seconds: float = 1e9
    """no step begins after so long (two are made in any case)"""
    dtype: str = "float32"
    """of TRL's weights; ours are chosen by measuring"""
    learning_rate: float = 1e-3
    lora: bool = True
    packing: bool = False
    chunked_loss: bool = False
    checkpointing: bool = False
    off: tuple[str, ...] = ()
    """tricks that are off"""
    adapter: str | None = None
    """where ours writes its fresh adapter, and TRL reads it"""


@dataclass(frozen=True)
class Step:
    tokens: int
    trained: int
    seconds: float
    loss: float


@dataclass(frozen=True)
class Measured:
    """``steps`` are those after the first, which warms up. ``rate`` is in FLOP/s, ``peak`` in bytes."""

    name: str
    steps: list[Step]
    losses: list[float]
    peak: int
    rate: float
    layer_weights: int
    head_weights: int
    width: int
    layers: int
    lora: bool
    lengths: list[int]
    precision: str
    versions: dict[str, str] = field(default_factory=dict)


def main() -> None:
    run = Run(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    rows: list[Row] = pickle.loads(Path(run.rows).read_bytes())
    measured = _trl(run, rows) if run.trainer == "trl" else _tunesmith(run, rows)
    print("RESULT " + json.dumps(asdict(measured)), flush=True)


class _Rows:
    def __init__(self, rows: list[Row]) -> None:
        import numpy

        self._rows = rows
        self.lengths = numpy.array([len(ids) for ids, _ in rows], dtype=numpy.int32)

    def row(self, index: int) -> Row:
        return self._rows[index]


def _load(run: Run, dtype: Any) -> Any:
    if run.model == "half-billion":
        import torch
        from transformers import Qwen2Config, Qwen2ForCausalLM

        torch.manual_seed(SEED)
        return Qwen2ForCausalLM(Qwen2Config(**HALF_BILLION)).to(dtype)
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(run.model, dtype=dtype, local_files_only=True)


def _measured(run: Run, rows: list[Row], model_facts: dict[str, Any], steps: list[Step], precision: str) -> Measured:
    import torch

    from tunesmith.finetune.precision import matmul_rate

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    width, outputs = model_facts["width"], model_facts.pop("outputs")
    rate = max(matmul_rate(dtype, 1024, width, outputs, seconds=1.5) for dtype in (torch.float32, torch.bfloat16))
    return Measured(
        name=run.name,
        steps=steps[1:],
        losses=[step.loss for step in steps],
        peak=peak,
        rate=rate,
        lora=run.lora,
        lengths=[len(ids) for ids, _ in rows],
        precision=precision,
        versions=_versions(),
        **model_facts,
    )


def _facts(model: Any) -> dict[str, Any]:
    """Counted before adapters are put on."""
    import torch

    head = model.get_output_embeddings()
    linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear) and module is not head]
    return {
        "layer_weights": sum(module.weight.numel() for module in linear),
        "head_weights": head.weight.numel(),
        "width": model.config.num_attention_heads * (model.config.hidden_size // model.config.num_attention_heads),
        "outputs": model.config.intermediate_size,
        "layers": model.config.num_hidden_layers,
    }


def _versions() -> dict[str, str]:
    import importlib.metadata

    import torch

    names = ("torch", "transformers", "peft", "trl")
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {**found, "threads": str(torch.get_num_threads())}


def _tunesmith(run: Run, rows: list[Row]) -> Measured:
    import torch

    from tunesmith.finetune.adapters import save_adapter
    from tunesmith.finetune.checkpoints import Checkpoints
    from tunesmith.finetune.fast import Tricks
    from tunesmith.finetune.parameters import FinetuneParameters
    from tunesmith.finetune.precision import choose_precision
    from tunesmith.finetune.run import prepare
    from tunesmith.finetune.seeding import seed_everything
    from tunesmith.reporting import NullReporter

    parameters = FinetuneParameters(
        apply_lora=run.lora,
        lora_alpha=ALPHA,
        lora_r=RANK,
        learning_rate=run.learning_rate,
        max_seq_length=run.max_seq_length,
        packing=False,
        max_steps=run.steps,
        per_device_train_batch_size=run.batch,
        gradient_checkpointing=run.checkpointing,
        logging_steps=1,
        evaluation_strategy="disable",
    )
    quiet = NullReporter()
    seed_everything(SEED)
    if run.model == "half-billion":
        width, outputs = HALF_BILLION["hidden_size"], HALF_BILLION["intermediate_size"]
    else:
        config = json.loads((Path(run.model) / "config.json").read_text(encoding="utf-8"))
        width, outputs = config["hidden_size"], config["intermediate_size"]
    precision = choose_precision("auto", device=torch.device("cpu"), width=width, outputs=outputs, reporter=quiet)
    model = _load(run, precision.dtype)
    facts = _facts(model)
    tricks = Tricks.none() if run.off == ("tricks",) else Tricks(**dict.fromkeys(run.off, False))
    began = 0.0

    def stop() -> bool:
        return trainer.progress.step >= 2 and time.perf_counter() - began > run.seconds

    with tempfile.TemporaryDirectory() as folder:
        seed_everything(SEED)
        trainer = prepare(
            model,
            _Rows(rows),
            None,
            parameters,
            context_length=8192,
            checkpoints=Checkpoints(Path(folder), keep=1, reporter=quiet),
            reporter=quiet,
            stop=stop,
            tricks=tricks,
        )
        trainer.plan.step = lambda number: [list(range(number * run.batch, (number + 1) * run.batch))]  # type: ignore[method-assign]
        if run.adapter:
            save_adapter(trainer.forward.model, Path(run.adapter), parameters, "benchmark")
        began = time.perf_counter()
        trainer.run()
    steps = []
    before = 0
    points = [point.values for point in trainer.progress.history if "loss" in point.values]
    for number, values in enumerate(points):
        tokens = sum(len(ids) for ids, _ in rows[number * run.batch : (number + 1) * run.batch])
        trained = int(values["trained_tokens"]) - before
        before += trained
        steps.append(Step(tokens, trained, tokens / values["tokens_per_second"], values["loss"]))
    return _measured(run, rows, facts, steps, precision.used)


def _trl(run: Run, rows: list[Row]) -> Measured:
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from datasets import Dataset
    from peft import LoraConfig, set_peft_model_state_dict
    from transformers import AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    model = _load(run, getattr(torch, run.dtype))
    facts = _facts(model)
    labels = [[i if t else -100 for i, t in zip(ids, trained, strict=True)] for ids, trained in rows]
    data = Dataset.from_dict({"input_ids": [ids for ids, _ in rows], "labels": labels})
    marks: list[tuple[float, int, int]] = []
    seen = [0, 0]
    began = 0.0

    class Clock(TrainerCallback):  # type: ignore[misc]  # of a package that is not always there
        def on_train_begin(self, *unused: Any, **more: Any) -> None:
            nonlocal began
            began = time.perf_counter()
            marks.append((began, 0, 0))

        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            marks.append((time.perf_counter(), seen[0], seen[1]))
            if len(marks) > 2 and time.perf_counter() - began > run.seconds:
                control.should_training_stop = True

    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder,
            per_device_train_batch_size=1 if run.packing else run.batch,
            max_length=run.max_seq_length,
            packing=run.packing,
            loss_type="chunked_nll" if run.chunked_loss else "nll",
            train_sampling_strategy="sequential",
            gradient_checkpointing=run.checkpointing,
            learning_rate=run.learning_rate,
            max_steps=run.steps,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            bf16=False,
            disable_tqdm=True,
            seed=SEED,
        )
        tokenizer = AutoTokenizer.from_pretrained(_tokenizer(run))
        lora = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
        trainer = SFTTrainer(
            model,
            args=config,
            train_dataset=data,
            processing_class=tokenizer,
            peft_config=lora if run.lora else None,
            callbacks=[Clock()],
        )
        if run.adapter:
            from safetensors.torch import load_file

            fresh = load_file(Path(run.adapter) / "adapter_model.safetensors")
            outcome = set_peft_model_state_dict(trainer.model, fresh)
            assert not outcome.unexpected_keys, outcome.unexpected_keys
        whole = trainer.training_step

        def counting(model: Any, inputs: Any, *more: Any, **named: Any) -> Any:
            mask = inputs.get("attention_mask")
            seen[0] += int(mask.sum()) if mask is not None else inputs["input_ids"].numel()
            seen[1] += int((inputs["labels"] != -100).sum())
            return whole(model, inputs, *more, **named)

        trainer.training_step = counting
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    steps = [
        Step(tokens - tokens_before, trained - trained_before, end - start, loss)
        for (start, tokens_before, trained_before), (end, tokens, trained), loss in zip(
            marks[:-1], marks[1:], losses, strict=True
        )
    ]
    return _measured(run, rows, facts, steps, run.dtype)


def _tokenizer(run: Run) -> str:
    """The folder of a tokenizer: rows come as ids, and TRL wants one nevertheless."""
    return os.environ["BENCH_TOKENIZER"] if run.model == "half-billion" else run.model


if __name__ == "__main__":
    main()
