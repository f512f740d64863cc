"""Fine-tune on this machine's cores, alternately with TRL's SFTTrainer, and print what each did.

    python benchmarks/bench_finetune.py [--part lora full half-billion memory curve ladder] [--rounds 2]
                                        [--model PACKAGE] [--data CONVERSATIONS.jsonl] [--peer-python PYTHON]

Every run is a process of its own: the same weights, rows, labels, order of rows, batch and LoRA (r=8, all linear
layers). Real tokens are those of the conversations, without padding, in the optimiser steps after the first (which
warms up); of a step that is run in several rounds the quickest counts, on both sides. Trained tokens carry loss.

Utilisation is the useful operations a second over the rate of matrix products measured in the same process (the
quicker of fp32 and bf16). Useful are, under LoRA, 4 operations for a weight of the layers and a real token and for a
weight of the output layer and a trained token (2 forward, 2 backward through activations; 6 where the weight itself is
trained), and the causal half of attention. Compare ratios: seconds belong to the machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import pickle
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from finetune_worker import HALF_BILLION, Measured, Row, Run, Step
from material import chitchat, peer_python, smollm2
from this_machine import describe

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "bench-finetune"
PARTS = ("lora", "full", "half-billion", "memory", "curve", "ladder")
DEFAULT = PARTS[:-1]
SLOWER = 0.5
"""A peer's bf16 runs are left out where the rate of bf16 products is below this share of fp32's."""
SECONDS, OPERATIONS = 180.0, 3.7e9
"""Steps are so many that the slowest peer needs about so long at so many operations of product rate for a token."""
FEWEST, MOST = 4, 16
CURVE_STEPS, CURVE_BATCH, CURVE_LENGTH, CURVE_AMONG = 50, 2, 96, 400


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=DEFAULT, help="what to measure")
    parser.add_argument("--model", type=Path, help="a package folder; SmolLM2-135M-Instruct is imported without it")
    parser.add_argument("--data", type=Path, help="conversations as messages JSONL; chitchat-dataset without it")
    parser.add_argument("--steps", type=int, help="optimiser steps of a run (default: by this machine's speed)")
    parser.add_argument("--batch", type=int, default=4, help="conversations in an optimiser step")
    parser.add_argument("--max-seq-length", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=2, help="how often ours and the best peer are run")
    parser.add_argument("--seconds", type=float, default=300, help="no step of a run begins after so long")
    parser.add_argument("--peer-python", help="a Python with requirements/bench.txt; one is made in build/ without it")
    Benchmark(parser.parse_args()).run()


class Benchmark:
    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.began = time.monotonic()
        self.model = arguments.model or smollm2()
        self.python = arguments.peer_python or peer_python()
        self.folder = Path()

    def run(self) -> None:
        rate, self.bf16_pays = self._print_machine()
        arguments = self.arguments
        if arguments.steps is None:
            arguments.steps = round(min(max(SECONDS * rate / OPERATIONS / (420 * arguments.batch), FEWEST), MOST))
        print(f"A run makes {arguments.steps} optimiser steps of {arguments.batch} conversations.\n", flush=True)
        ratio: float | None = None
        with tempfile.TemporaryDirectory() as folder:
            self.folder = Path(folder)
            rows = self._rows("rows", arguments.steps * arguments.batch, arguments.max_seq_length)
            for part in arguments.part:
                if part == "lora":
                    ratio = self._lora(rows)
                elif part == "full":
                    self._full(rows)
                elif part == "half-billion":
                    self._half_billion(rows)
                elif part == "memory":
                    self._memory(rows)
                elif part == "curve":
                    self._curve()
                else:
                    self._ladder(rows)
        print(f"\nall of it took {(time.monotonic() - self.began) / 60:.1f} minutes")
        if "lora" in self.arguments.part:
            print("no peer ran" if ratio is None else f"ratio to the best peer: {ratio:.2f}")

    # ── the parts ────────────────────────────────────────────────────────────────────────────────────────────────

    def _lora(self, rows: Path) -> float | None:
        ours = self._ours(rows, "tunesmith")
        peers = [self._theirs(rows, "TRL, padded"), self._theirs(rows, "TRL, padded, chunked loss", chunked_loss=True)]
        grouped = self._grouped(rows)
        peers.append(self._theirs(grouped, "TRL, grouped by length, chunked loss", chunked_loss=True))
        peers.append(self._theirs(rows, "TRL, packed", packing=True))
        if self.bf16_pays:
            peers.append(self._theirs(rows, "TRL, padded, bf16", dtype="bfloat16"))
            peers.append(self._theirs(grouped, "TRL, grouped, chunked loss, bf16", chunked_loss=True, dtype="bfloat16"))
            peers.append(self._theirs(rows, "TRL, packed, bf16", dtype="bfloat16", packing=True))
        mine = self._do(ours)
        theirs = [done for done in (self._do(peer) for peer in peers) if done]
        best = max(theirs, key=_speed, default=None)
        for _ in range(self.arguments.rounds - 1):
            if best is not None:
                again = next(peer for peer in peers if peer.name == best.name)
                best = _quickest(best, self._do(again))
            mine = _quickest(mine, self._do(ours))
        theirs = [best if best is not None and done.name == best.name else done for done in theirs]
        _table("LoRA, r=8, on all linear layers", [mine, *theirs])
        if mine is None or best is None:
            return None
        print(f"\npeak memory against the best peer's ({best.name}): {mine.peak / best.peak:.2f}")
        return _speed(mine) / _speed(best)

    def _full(self, rows: Path) -> None:
        few: dict[str, Any] = {"lora": False, "steps": FEWEST, "learning_rate": 2e-5}
        runs = [
            self._ours(rows, "tunesmith", **few),
            self._theirs(self._grouped(rows, FEWEST), "TRL, grouped by length, chunked loss", chunked_loss=True, **few),
        ]
        _table("All weights trained", [self._do(run) for run in runs])

    def _half_billion(self, rows: Path) -> None:
        few: dict[str, Any] = {"model": "half-billion", "steps": 3, "batch": 1}
        runs = [
            self._ours(rows, "tunesmith", **few),
            self._theirs(rows, "TRL, chunked loss", chunked_loss=True, **few),
        ]
        shape = f"{HALF_BILLION['num_hidden_layers']} layers of {HALF_BILLION['hidden_size']}"
        _table(f"LoRA on random weights of half a billion ({shape})", [self._do(run) for run in runs])

    def _memory(self, rows: Path) -> None:
        few: dict[str, Any] = {"checkpointing": True, "steps": FEWEST}
        runs = [
            self._ours(rows, "tunesmith", **few),
            self._theirs(self._grouped(rows, FEWEST), "TRL, grouped by length, chunked loss", chunked_loss=True, **few),
        ]
        _table("LoRA with gradient checkpointing", [self._do(run) for run in runs])

    def _ladder(self, rows: Path) -> None:
        from tunesmith.finetune.fast import Tricks

        runs = [
            self._ours(rows, "tunesmith, every trick on", steps=FEWEST),
            self._ours(rows, "every trick off", steps=FEWEST, off=("tricks",)),
        ]
        runs += [
            self._ours(rows, f"without {trick.name}", steps=FEWEST, off=(trick.name,))
            for trick in dataclasses.fields(Tricks)
        ]
        kept: list[Measured | None] = [None] * len(runs)
        for _ in range(self.arguments.rounds):
            kept = [_quickest(before, self._do(run)) for before, run in zip(kept, runs, strict=True)]
        _table("LoRA, with each trick off", kept)

    def _curve(self) -> None:
        rows = self._rows("curve", CURVE_STEPS * CURVE_BATCH, CURVE_LENGTH, among=CURVE_AMONG)
        same: dict[str, Any] = {
            "steps": CURVE_STEPS,
            "batch": CURVE_BATCH,
            "max_seq_length": CURVE_LENGTH,
            "seconds": 1e9,
            "adapter": str(self.folder / "adapter"),
        }
        ours = self._do(self._ours(rows, "tunesmith", **same))
        theirs = self._do(self._theirs(rows, "TRL", **same))
        if ours is None or theirs is None:
            return
        print(f"\n### Loss over {CURVE_STEPS} steps: the same weights, adapter, rows, order and hyper-parameters\n")
        print(f"| {'step':>4} | {'tunesmith':>9} | {'TRL':>9} | {'difference':>10} |\n| ---: | ---: | ---: | ---: |")
        differences = [abs(a - b) / b for a, b in zip(ours.losses, theirs.losses, strict=True)]
        for step in [0, *range(4, CURVE_STEPS, 5)]:
            a, b = ours.losses[step], theirs.losses[step]
            print(f"| {step + 1:>4} | {a:>9.4f} | {b:>9.4f} | {differences[step]:>10.3%} |")
        print(f"\nlargest relative difference of a step's loss: {max(differences):.3%}")

    # ── runs ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _new(self, rows: Path, name: str, trainer: str, changes: dict[str, Any]) -> Run:
        arguments = self.arguments
        base = Run(
            name=name,
            trainer=trainer,
            rows=str(rows),
            model=str(self.model),
            steps=arguments.steps,
            batch=arguments.batch,
            max_seq_length=arguments.max_seq_length,
            seconds=arguments.seconds,
        )
        return dataclasses.replace(base, **changes)

    def _ours(self, rows: Path, name: str, **changes: Any) -> Run:
        return self._new(rows, name, "tunesmith", changes)

    def _theirs(self, rows: Path, name: str, **changes: Any) -> Run:
        return self._new(rows, name, "trl", changes)

    def _do(self, run: Run) -> Measured | None:
        spec = self.folder / "run.json"
        spec.write_text(json.dumps(dataclasses.asdict(run)), encoding="utf-8")
        python = self.python if run.trainer == "trl" else sys.executable
        done = subprocess.run(
            [python, str(Path(__file__).with_name("finetune_worker.py")), str(spec)],
            check=False,
            capture_output=True,
            text=True,
            env={**os.environ, "BENCH_TOKENIZER": str(self.model)},
        )
        for line in done.stdout.splitlines():
            if line.startswith("RESULT "):
                found = json.loads(line[7:])
                measured = Measured(**{**found, "steps": [Step(**step) for step in found["steps"]]})
                if not measured.steps:
                    break
                print(
                    f"  {run.name}: {_speed(measured):.0f} real tokens/s in {len(measured.steps)} steps, "
                    f"{measured.peak / 1e9:.1f} GB, {measured.precision}",
                    flush=True,
                )
                return measured
        reason = (done.stderr or "no message").strip().splitlines()[-1]
        print(f"  {run.name}: failed: {reason}", flush=True)
        return None

    # ── what is trained on ───────────────────────────────────────────────────────────────────────────────────────

    def _rows(self, name: str, count: int, max_seq_length: int, *, among: int = 0) -> Path:
        """``count`` rows by the product's own preparation, in the order in which every trainer takes them: the first
        that fit of ``among`` conversations.
        """
        from tunesmith.chat.prepare import prepare
        from tunesmith.chat.tokens import ChatTokenizer
        from tunesmith.reporting import NullReporter

        among = max(among, count)
        data = self.arguments.data or chitchat(among)
        source = self.folder / f"{name}.jsonl"
        with data.open(encoding="utf-8") as lines:
            source.write_text("".join(line for line, _ in zip(lines, range(among), strict=False)), encoding="utf-8")
        prepared = prepare(
            source,
            ChatTokenizer.load(self.model),
            self.folder / name,
            max_seq_length=max_seq_length,
            on_too_long="truncate_turns",
            loss_on="assistant",
            reporter=NullReporter(),
        )
        rows: list[Row] = [(ids.tolist(), flags.tolist()) for ids, flags in map(prepared.row, range(prepared.rows))]
        if len(rows) < count:
            raise SystemExit(f"{data} gave {len(rows)} rows that fit {max_seq_length} tokens; {count} are needed")
        return self._keep(name, rows[:count])

    def _keep(self, name: str, rows: list[Row]) -> Path:
        path = self.folder / f"{name}.pickle"
        path.write_bytes(pickle.dumps(rows))
        return path

    def _grouped(self, rows: Path, steps: int | None = None) -> Path:
        """The rows in batches of like lengths, the longest first: the least padding there can be."""
        found: list[Row] = pickle.loads(rows.read_bytes())[: steps and steps * self.arguments.batch]
        return self._keep(f"grouped-{steps}", sorted(found, key=lambda row: -len(row[0])))

    def _print_machine(self) -> tuple[float, bool]:
        """The rate of products in FLOP/s, and whether bf16 is worth trying for a peer."""
        import torch

        from tunesmith.finetune.precision import matmul_rate

        rates = {dtype: matmul_rate(dtype, 1024, 576, 1536, seconds=1.0) for dtype in (torch.float32, torch.bfloat16)}
        fp32, bf16 = (rate / 1e9 for rate in rates.values())
        versions = subprocess.run(
            [self.python, "-c", _VERSIONS], check=False, capture_output=True, text=True
        ).stdout.strip()
        print(f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, {describe()},")
        print(f"Python {platform.python_version()}, {versions};")
        print(f"matrix products: fp32 {fp32:.0f}, bf16 {bf16:.0f} GFLOP/s on {torch.get_num_threads()} threads.")
        pays = bf16 >= SLOWER * fp32
        if not pays:
            print(f"TRL's bf16 runs are left out: bf16 products run at {bf16 / fp32:.0%} of fp32's rate here.")
        return 1e9 * max(fp32, bf16), pays


_VERSIONS = """
import importlib.metadata as m
print(", ".join(f"{n} {m.version(n)}" for n in ("torch", "transformers", "peft", "trl")))
"""


# ── numbers ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _speed(measured: Measured) -> float:
    return sum(step.tokens for step in measured.steps) / sum(step.seconds for step in measured.steps)


def _quickest(before: Measured | None, after: Measured | None) -> Measured | None:
    """Of each step the quicker of two rounds; the larger memory and product rate."""
    if before is None or after is None:
        return before or after
    steps = [min(pair, key=lambda step: step.seconds) for pair in zip(before.steps, after.steps, strict=False)]
    return dataclasses.replace(
        before, steps=steps, peak=max(before.peak, after.peak), rate=max(before.rate, after.rate)
    )


def _utilisation(measured: Measured) -> float:
    each = 4 if measured.lora else 6
    tokens = sum(step.tokens for step in measured.steps)
    trained = sum(step.trained for step in measured.steps)
    seconds = sum(step.seconds for step in measured.steps)
    # Six products of half a square each; the rows' mean square stands for those of the steps that were made.
    mean = sum(length * length for length in measured.lengths) / sum(measured.lengths)
    attention = 6 * mean * measured.width * measured.layers * tokens
    useful = each * (measured.layer_weights * tokens + measured.head_weights * trained) + attention
    return useful / seconds / measured.rate


def _table(title: str, found: list[Measured | None]) -> None:
    rows = [measured for measured in found if measured is not None]
    print(f"\n### {title}\n")
    if not rows:
        print("nothing ran")
        return
    columns = ("real tokens/s", "trained tokens/s", "peak memory, MB", "utilisation", "products, GFLOP/s", "first is")
    width = max(3, *(len(measured.name) for measured in rows))
    print(f"| {'run':<{width}} | " + " | ".join(columns) + " |")
    print("| --- |" + " ---: |" * len(columns))
    for measured in rows:
        trained = sum(step.trained for step in measured.steps) / sum(step.seconds for step in measured.steps)
        cells = (
            f"{_speed(measured):.0f}",
            f"{trained:.0f}",
            f"{measured.peak / 1e6:,.0f}",
            f"{_utilisation(measured):.0%}",
            f"{measured.rate / 1e9:.0f}",
            f"{_speed(rows[0]) / _speed(measured):.2f} x",
        )
        body = " | ".join(f"{cell:>{len(name)}}" for cell, name in zip(cells, columns, strict=True))
        print(f"| {measured.name:<{width}} | {body} |", flush=True)


# ── model, conversations, the peer's Python ──────────────────────────────────────────────────────────────────────


if __name__ == "__main__":
    main()
