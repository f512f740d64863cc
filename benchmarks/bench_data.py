"""Conversations at scale: rows a second and peak memory of checking and of preparing.

    python benchmarks/bench_data.py [check] [prepare] [--rows N] [--model PACKAGE] [--peer-python PYTHON | --no-peer]

``check`` reads ultrachat-like rows of about 1 kB without a tokenizer, on one core. ``prepare`` renders, encodes, finds
the answers and writes, for rows of about 6.5 kB (ultrachat's mean), on all cores; then TRL's SFTTrainer prepares the
same rows with its assistant mask, on as many processes as there are cores, and the last line is the ratio. The peer's
Python, with requirements/bench.txt, is made in build/peer unless one is named. The text is that of Python's own manual.
Each measurement is a process of its own; memory is that of it and all its children together. On a shared machine read
the rows per second of processor time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from material import peer_python, smollm2
from this_machine import describe

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "bench-data"
PEER = ROOT / "build" / "peer"
ROWS = 200_000
"""As many as ultrachat_200k has."""
MEMORY_LIMIT_MB = 1500
"""What preparing may take, all processes together."""
MAX_SEQ_LENGTH = 2048


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=["check", "prepare", []], help="default: both")
    parser.add_argument("--rows", type=int, default=ROWS, help=f"default: {ROWS:,}")
    parser.add_argument("--model", type=Path, help="a model package; SmolLM2-135M-Instruct is imported without it")
    parser.add_argument("--peer-python", help="a Python that has requirements/bench.txt; one is made without it")
    parser.add_argument("--no-peer", action="store_true", help="measure ours alone")
    parser.add_argument("--worker", nargs=3, metavar=("WHAT", "FILE", "MODEL"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return worker(*arguments.worker)
    print_machine()
    with tempfile.TemporaryDirectory(prefix="bench-data-") as folder:
        if "check" in arguments.what or not arguments.what:
            bench_check(Path(folder), arguments.rows)
        if "prepare" in arguments.what or not arguments.what:
            model = arguments.model or smollm2()
            peer = None if arguments.no_peer else arguments.peer_python or peer_python()
            bench_prepare(Path(folder), arguments.rows, model, peer)
    return None


def print_machine() -> None:
    from importlib.metadata import version

    names = (f"{name} {version(name)}" for name in ("tokenizers", "jinja2", "orjson", "pyarrow"))
    versions = ", ".join([f"Python {platform.python_version()}", *names])
    print(f"{time.strftime('%Y-%m-%d')}, {describe()}, {versions}")
    print(f"load when it began: {os.getloadavg()[0]:.1f}")


# ── rows


def conversations(count: int, words_a_turn: tuple[int, int]) -> Iterator[dict[str, Any]]:
    """Three questions and answers a row, in ultrachat's fields."""
    from pydoc_data.topics import topics

    draw = random.Random(0)
    pool = " ".join(topics[name] for name in sorted(topics)).split()

    def text(count: int, end: str) -> str:
        begin = draw.randrange(len(pool) - count)
        return " ".join(pool[begin : begin + count]).capitalize() + end

    asked, answered = words_a_turn
    for _ in range(count):
        messages = []
        for _ in range(3):
            messages.append({"content": text(asked, "?"), "role": "user"})
            messages.append({"content": text(answered, "."), "role": "assistant"})
        prompt = messages[0]["content"]
        yield {"prompt": prompt, "prompt_id": f"{draw.getrandbits(256):064x}", "messages": messages}


def write_lines(folder: Path, count: int, words_a_turn: tuple[int, int]) -> Path:
    """The rows as JSON lines."""
    path = folder / "rows.jsonl"
    with path.open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in conversations(count, words_a_turn))
    return path


def write_array(lines: Path) -> Path:
    """The rows of a file of JSON lines as a JSON array."""
    path = lines.with_suffix(".json")
    with lines.open() as rows, path.open("w") as file:
        file.write("[\n")
        for number, row in enumerate(rows):
            file.write((",\n" if number else "") + row.rstrip("\n"))
        file.write("\n]\n")
    return path


# ── measuring


def measure(what: str, file: Path, model: Path | str = "-", *, python: str = sys.executable) -> dict[str, Any]:
    """Run a worker; its numbers, with the peak memory of all its processes together."""
    command = [python, __file__, "--worker", what, str(file), str(model)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    peak = [0]
    watcher = threading.Thread(target=watch, args=(process, peak))
    watcher.start()
    output, errors = process.communicate()
    watcher.join()
    if process.returncode:
        sys.exit(f"{what} failed:\n{errors[-2000:]}")
    return {**json.loads(output.splitlines()[-1]), "peak_mb": peak[0] / 1e6}


def watch(process: subprocess.Popen[str], peak: list[int]) -> None:
    import psutil

    while process.poll() is None:
        try:
            parent = psutil.Process(process.pid)
            family = [parent, *parent.children(recursive=True)]
            peak[0] = max(peak[0], sum(member.memory_info().rss for member in family))
        except psutil.NoSuchProcess:
            continue
        time.sleep(0.1)


def show(name: str, found: dict[str, Any], size: int) -> None:
    print(
        f"{name:<28}{found['rows'] / found['seconds']:>10,.0f}{found['rows'] / found['processor_seconds']:>12,.0f}"
        f"{size / found['seconds'] / 1e6:>8,.1f}{found['peak_mb']:>10,.0f}"
    )


def heading(title: str) -> None:
    print(f"\n{title}\n{'':<28}{'rows/s':>10}{'rows/cpu s':>12}{'MB/s':>8}{'peak MB':>10}")


def bench_check(folder: Path, rows: int) -> None:
    lines = write_lines(folder, rows, (10, 30))
    files = lines, write_array(lines)
    heading(f"check, {rows:,} rows of {files[0].stat().st_size / rows:,.0f} bytes, no tokenizer, one core")
    for name, file in zip(("JSON lines", "JSON array"), files, strict=True):
        show(name, measure("check", file), file.stat().st_size)
        file.unlink()


def bench_prepare(folder: Path, rows: int, model: Path, peer_python: str | None) -> None:
    lines = write_lines(folder, rows, (36, 255))
    size = lines.stat().st_size
    heading(
        f"prepare, {rows:,} rows of {size / rows:,.0f} bytes ({size / 1e9:.2f} GB), {model.name}, "
        f"max_seq_length {MAX_SEQ_LENGTH}"
    )
    ours = measure("prepare", lines, model)
    show("Tunesmith", ours, size)
    print(f"{'':<28}{ours['tokens'] / ours['seconds']:>10,.0f} tokens/s, {ours['tokens']:,.0f} tokens")
    peer = None
    if peer_python is not None:
        peer = measure("trl", lines, model, python=peer_python)
        show(f"TRL {peer['version']} SFTTrainer", peer, size)
    print(f"\nmemory of all processes together: {ours['peak_mb']:,.0f} MB, the limit is {MEMORY_LIMIT_MB:,} MB")
    if peer is None:
        print("no peer ran")
        return
    by_processor = peer["processor_seconds"] / ours["processor_seconds"]
    print(f"ratio by processor time: {by_processor:.2f}")
    print(f"ratio to TRL's preparation: {peer['seconds'] / ours['seconds']:.2f}")


# ── workers


def worker(what: str, file: str, model: str) -> None:
    run = {"check": run_check, "prepare": run_prepare, "trl": run_trl}[what]
    print(json.dumps(run(Path(file), Path(model))))


def processor_seconds() -> float:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def run_check(file: Path, _: Path) -> dict[str, float]:
    from tunesmith.chat import check

    began, used = time.perf_counter(), processor_seconds()
    report = check(file)
    assert report.sound
    return {
        "rows": report.rows,
        "seconds": time.perf_counter() - began,
        "processor_seconds": processor_seconds() - used,
    }


def run_prepare(file: Path, model: Path) -> dict[str, float]:
    from tunesmith.chat.prepare import prepare
    from tunesmith.chat.tokens import ChatTokenizer

    tokenizer = ChatTokenizer.load(model)
    began, used = time.perf_counter(), processor_seconds()
    prepared = prepare(file, tokenizer, file.parent / "prepared", max_seq_length=MAX_SEQ_LENGTH)
    return {
        "rows": prepared.report.rows_read,
        "tokens": prepared.report.tokens,
        "seconds": time.perf_counter() - began,
        "processor_seconds": processor_seconds() - used,
    }


def run_trl(file: Path, model: Path) -> dict[str, Any]:
    """TRL's own preparation: ``datasets.map`` with the chat template and the mask of the assistant's tokens.

    The template is the model's with the ``generation`` block that TRL needs around the answer; the model that would be
    trained is not used, so it is a tiny one.
    """
    import trl
    from datasets import load_dataset
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = (
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
        "{% if message['role'] == 'assistant' %}"
        "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
        "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    )
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    tiny = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=8192, **shape))
    settings = SFTConfig(
        output_dir=str(file.parent / "trl"),
        assistant_only_loss=True,
        max_length=MAX_SEQ_LENGTH,
        dataset_num_proc=os.cpu_count(),
        report_to=[],
        bf16=False,
        use_cpu=True,
    )
    began, used = time.perf_counter(), processor_seconds()
    rows = load_dataset("json", data_files=str(file), split="train", cache_dir=str(file.parent / "cache"))
    rows = rows.select_columns(["messages"])
    SFTTrainer(model=tiny, args=settings, train_dataset=rows, processing_class=tokenizer)
    return {
        "version": trl.__version__,
        "rows": len(rows),
        "seconds": time.perf_counter() - began,
        "processor_seconds": processor_seconds() - used,
    }


if __name__ == "__main__":
    main()
