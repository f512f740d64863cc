"""Speed of an engine itself, without HTTP: total tokens/s, time to the first token, time between tokens.

    python benchmarks/bench_engine.py PACKAGE [--engine openvino transformers] [--precision 32 8] [--concurrency 1 8 32]
                                      [--tokens 64] [--threads 2] [--exports FOLDER] [--against-transformers]

Every engine runs in a process of its own, one after the other, and the last lines are the ratios to the last engine
named. An export that is made is timed apart from the load.

Requests are greedy, of 20 prompts of different lengths, the end of a turn respected. ``--against-transformers`` also
runs transformers' own continuous batching on the same prompts, with a bounded cache, and says how many answers are
those of its plain ``generate``.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tunesmith.chat.messages import Message
from tunesmith.errors import UnsupportedField
from tunesmith.generate import Engine, GenerateRequest, open_engine
from tunesmith.models import ModelPackage

RESULT = "BENCH_ENGINE_RESULT"
"""Environment variable: the file that a process of one engine writes its speeds to."""
QUESTIONS = [
    "Hello! How are you today?",
    "What is the capital of France, and what is it known for?",
    "Write a short poem about the sea.",
    "Explain to a child why the sky is blue.",
    "Give me three ideas for dinner with rice, eggs and spinach.",
    "Translate to French: The weather is nice today.",
    "What is the difference between a list and a tuple in Python?",
    "My friend is sad because her cat ran away. What can I say to her?",
    "Summarise in one sentence: the meeting was moved from Tuesday to Thursday because the projector is broken.",
    "How do I boil an egg?",
]
FACT = "Fact {n}: the robot number {n} painted {m} pictures of the sea and sold {n} of them."
PROMPTS = QUESTIONS + [
    " ".join([*(FACT.format(n=n, m=3 * n) for n in range(count)), question])
    for count, question in enumerate(QUESTIONS, start=1)
]


async def one(engine: Engine, prompt: str, tokens: int) -> dict[str, Any]:
    request = GenerateRequest((Message("user", prompt),), temperature=0, max_tokens=tokens)
    began = time.perf_counter()
    times: list[float] = []
    ids: list[int] = []
    async for event in engine.generate(request):
        times.append(time.perf_counter())
        ids += event.token_ids
    gaps = [after - before for before, after in itertools.pairwise(times)]
    return {"first": times[0] - began, "gaps": gaps, "ids": ids}


async def load(engine: Engine, concurrency: int, tokens: int) -> tuple[float, list[dict[str, Any]]]:
    count = len(PROMPTS) if concurrency == 1 else max(2 * concurrency, 40)
    queue = list(range(count))
    found: list[dict[str, Any]] = [{} for _ in range(count)]

    async def worker() -> None:
        while queue:
            number = queue.pop(0)
            found[number] = await one(engine, PROMPTS[number % len(PROMPTS)], tokens)

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(concurrency)))
    return time.perf_counter() - began, found


def summary(concurrency: int, wall: float, found: list[dict[str, Any]], alone: list[list[int]]) -> str:
    first = sorted(item["first"] for item in found)
    gaps = sorted(gap for item in found for gap in item["gaps"])
    same = sum(item["ids"] == ids for item, ids in zip(found, alone, strict=False))

    def times(values: list[float]) -> str:
        return f"{1e3 * statistics.median(values):7.1f} ms (p99 {1e3 * values[int(0.99 * len(values))]:7.1f})"

    return (
        f"  {concurrency:3d} at once: {sum(len(item['ids']) for item in found) / wall:7.1f} tokens/s   "
        f"first token {times(first)}   between {times(gaps)}   same as alone {same} of {len(alone)}"
    )


def against(package: ModelPackage, precision: str, tokens: int, answers: list[list[int]]) -> None:
    import torch
    from transformers import ContinuousBatchingConfig, GenerationConfig

    from tunesmith.generate.precision import torch_dtype
    from tunesmith.models import load_model

    logging.getLogger("transformers").setLevel(logging.ERROR)
    model = load_model(package, dtype=torch_dtype(precision))
    tokenizer = package.tokenizer()
    prompts = [tokenizer.encode_prompt([Message("user", prompt)]) for prompt in PROMPTS]
    generation = GenerationConfig(
        max_new_tokens=tokens,
        do_sample=False,
        eos_token_id=list(tokenizer.contract.eos_token_ids),
        pad_token_id=tokenizer.pad_id,
    )
    config = ContinuousBatchingConfig(max_batch_tokens=256, page_size=16, num_blocks=400, max_requests_per_batch=8)
    began = time.perf_counter()
    out = model.generate_batch(
        prompts * 2, generation_config=generation, continuous_batching_config=config, progress_bar=False
    )
    wall = time.perf_counter() - began
    texts = [result.generated_tokens for result in out.values()]
    total = sum(map(len, texts))
    print(f"transformers generate_batch, 8 at once: {total / wall:7.1f} tokens/s ({total} tokens, {wall:.1f} s)")
    same = 0
    for prompt, ids in zip(prompts, answers, strict=True):
        with torch.inference_mode():
            alone = model.generate(
                torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                generation_config=generation,
            )
        same += alone[0, len(prompt) :].tolist() == ids
    print(f"answers equal to transformers' generate: {same} of {len(prompts)}")


def resident_mb() -> tuple[float, float]:
    """Now, and at most so far."""
    import resource

    import psutil

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return psutil.Process().memory_info().rss / 1e6, peak


def measure(options: argparse.Namespace, name: str, precision: str) -> dict[str, float] | None:
    """Tokens/s by concurrency of one engine, measured in this process; None where it has no such precision."""
    package = ModelPackage.open(options.package)
    began = time.perf_counter()
    try:
        engine = open_engine(
            package, engine=name, precision=precision, threads=options.threads, exports=options.exports
        )
    except UnsupportedField as error:
        print(f"{name} {precision}: {error.message}", flush=True)
        return None
    opened = time.perf_counter() - began
    described = engine.description
    export = described.details.get("export", {})
    exported = 0.0 if export.get("reused", True) else export["seconds"]
    print(
        f"{described.engine} {described.precision}, {described.threads} threads, opened in {opened - exported:.2f} s"
        + (f" after exporting for {exported:.1f} s" if exported else "")
        + f": {described.reason}",
        flush=True,
    )
    if described.details.get("quality"):
        print(f"  against the model in float32: {described.details['quality']}")
    print(f"  loaded: {resident_mb()[0]:.0f} MB")
    asyncio.run(one(engine, "Hello", 4))
    alone: list[list[int]] = []
    speeds: dict[str, float] = {}
    for concurrency in options.concurrency:
        wall, found = asyncio.run(load(engine, concurrency, options.tokens))
        ids = [item["ids"] for item in found[: len(PROMPTS)]]
        alone = alone or ids
        speeds[str(concurrency)] = sum(len(item["ids"]) for item in found) / wall
        print(summary(concurrency, wall, found, alone), flush=True)
    print(f"  memory: {resident_mb()[0]:.0f} MB now, {resident_mb()[1]:.0f} MB at most")
    print(f"  {engine.stats().to_dict()}")
    engine.close()
    if options.against_transformers:
        against(package, described.precision, options.tokens, alone)
    return speeds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path)
    parser.add_argument("--engine", nargs="+", default=["auto"])
    parser.add_argument("--precision", nargs="+", default=["auto"])
    parser.add_argument("--concurrency", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--exports", type=Path)
    parser.add_argument("--against-transformers", action="store_true")
    options = parser.parse_args()
    cases = list(itertools.product(options.engine, options.precision))
    if len(cases) == 1:
        speeds = measure(options, *cases[0])
        if RESULT in os.environ:
            Path(os.environ[RESULT]).write_text(json.dumps(speeds), encoding="utf-8")
        return
    found: dict[tuple[str, str], dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, precision) in enumerate(cases):
            result = Path(folder, str(number))
            command = [sys.executable, __file__, str(options.package), "--engine", name, "--precision", precision]
            command += ["--tokens", str(options.tokens), "--concurrency", *map(str, options.concurrency)]
            command += ["--threads", str(options.threads)] if options.threads else []
            command += ["--exports", str(options.exports)] if options.exports else []
            command += ["--against-transformers"] if options.against_transformers else []
            subprocess.run(command, check=True, env={**os.environ, RESULT: str(result)})
            if speeds := json.loads(result.read_text(encoding="utf-8")):
                found[name, precision] = speeds
    base = list(found)[-1]
    for case, speeds in found.items():
        for concurrency, speed in speeds.items() if case != base else ():
            ratio = speed / found[base][concurrency]
            print(f"ratio of {' '.join(case)} to {' '.join(base)} at concurrency {concurrency}: {ratio:.2f}")


if __name__ == "__main__":
    main()
