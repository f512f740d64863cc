"""Serve SmolLM2-135M-Instruct on this machine's cores, with Tunesmith and with others, and print how fast each is.

    python benchmarks/bench_serving.py [--concurrency 1 8 32] [--seconds 30] [--tokens 64] [--only NAME …]

Each server is alone on the machine while it is measured; this process is the client. Prompts are real conversations
up to a user's turn, answers are greedy with at most ``--tokens`` tokens. For every concurrency so many callers ask one
after the other for ``--seconds``; what they got by then is counted with the model's own tokenizer, the same for all.
TTFT is the time to the first text, inter-token the time between two pieces of text; a server that does not stream has
its whole answer as the first. Compare ratios: seconds belong to the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from material import chitchat, smollm2
from serving_subjects import (
    BUILD,
    Skipped,
    Subject,
    Tunesmith,
    llama_server,
    mlflow_serve,
    transformers_serve,
)
from this_machine import describe

Messages = list[dict[str, str]]
PROMPT_MESSAGES = 3


@dataclass
class Answer:
    """What one caller saw of one answer. Times are ``time.perf_counter()``."""

    asked: float
    pieces: list[tuple[float, str]] = field(default_factory=list)
    error: str | None = None


@dataclass(frozen=True)
class Level:
    """One server at one concurrency."""

    tokens_per_second: float
    ttft: list[float]
    gaps: list[float]
    answers: int
    failed: int


@dataclass(frozen=True)
class Measured:
    subject: Subject
    levels: dict[int, Level]


def conversations(count: int) -> list[Messages]:
    """Real conversations, each up to a user's turn."""
    rows = [json.loads(line)["messages"] for line in chitchat(count).read_text(encoding="utf-8").splitlines()]
    return [row[:PROMPT_MESSAGES] for row in rows]


async def ask(session: aiohttp.ClientSession, subject: Subject, messages: Messages, tokens: int, into: Answer) -> None:
    body: dict[str, Any] = {"messages": messages, "max_tokens": tokens, **subject.options}
    if subject.streams:
        body |= {"model": subject.model, "stream": True}
    async with session.post(subject.url, json=body, headers=subject.headers) as response:
        if response.status != 200:
            into.error = f"{response.status}: {(await response.text())[:200]}"
            return
        if not subject.streams:
            answer = await response.json()
            into.pieces.append((time.perf_counter(), _text(answer)))
            return
        async for line in response.content:
            if not line.startswith(b"data:") or line.strip() == b"data: [DONE]":
                continue
            chunk = json.loads(line[5:])
            if "error" in chunk:
                into.error = str(chunk["error"])[:200]
                return
            text = "".join((choice.get("delta") or {}).get("content") or "" for choice in chunk.get("choices", ()))
            if text:
                into.pieces.append((time.perf_counter(), text))


def _text(answer: Any) -> str:
    first = answer[0] if isinstance(answer, list) else answer
    return str(first["choices"][0]["message"]["content"])


async def level(subject: Subject, prompts: list[Messages], concurrency: int, seconds: float, tokens: int) -> Level:
    """Ask ``concurrency`` at a time for ``seconds``."""
    from tunesmith.chat.tokens import ChatTokenizer

    answers: list[Answer] = []
    turn = iter(range(10**9))
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None), trust_env=False
    ) as session:

        async def caller() -> None:
            while True:
                answer = Answer(time.perf_counter())
                answers.append(answer)
                try:
                    await ask(session, subject, prompts[next(turn) % len(prompts)], tokens, answer)
                except aiohttp.ClientError as error:
                    answer.error = f"{type(error).__name__}: {error}"
                if answer.error is not None:
                    await asyncio.sleep(0.1)  # a server that refuses at once is not hammered

        begin = time.perf_counter()
        callers = [asyncio.ensure_future(caller()) for _ in range(concurrency)]
        await asyncio.wait(callers, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
        end = time.perf_counter()
        for task in callers:
            task.cancel()
        for outcome in await asyncio.gather(*callers, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome
    tokenizer = ChatTokenizer.load(smollm2())
    count = sum(len(tokenizer.encode_text("".join(text for _, text in answer.pieces))) for answer in answers)
    spoken = [answer for answer in answers if answer.pieces]
    errors = [answer.error for answer in answers if answer.error is not None]
    if errors:
        print(f"  {len(errors)} requests failed, such as: {errors[0]}", flush=True)
    return Level(
        tokens_per_second=count / (end - begin),
        ttft=[1000 * (answer.pieces[0][0] - answer.asked) for answer in spoken],
        gaps=[
            1000 * (later[0] - earlier[0])
            for answer in spoken
            for earlier, later in zip(answer.pieces, answer.pieces[1:], strict=False)
        ],
        answers=len(spoken),
        failed=len(errors),
    )


async def measure(subject: Subject, arguments: argparse.Namespace, prompts: list[Messages]) -> Measured:
    print(f"\n{subject.name} ({subject.version})", flush=True)
    await level(subject, prompts, 2, min(3.0, arguments.seconds), arguments.tokens)  # warms up
    levels = {}
    for concurrency in arguments.concurrency:
        levels[concurrency] = found = await level(subject, prompts, concurrency, arguments.seconds, arguments.tokens)
        print(f"  {concurrency:>3} at a time: {_shown(found)}", flush=True)
    return Measured(subject, levels)


def _shown(found: Level) -> str:
    return (
        f"{found.tokens_per_second:7.1f} tokens/s   TTFT p50 {_percentile(found.ttft, 50)} p99 "
        f"{_percentile(found.ttft, 99)} ms   inter-token p50 {_percentile(found.gaps, 50)} p99 "
        f"{_percentile(found.gaps, 99)} ms   {found.answers} answers"
    )


def _percentile(values: list[float], percent: int) -> str:
    if len(values) < 2:
        return f"{values[0]:7.1f}" if values else "      -"
    return f"{statistics.quantiles(values, n=100, method='inclusive')[percent - 1]:7.1f}"


def report(results: list[Measured]) -> None:
    """Ratios of our default engine to every other server, and the last line."""
    ours = next((result for result in results if result.subject.name.startswith("tunesmith")), None)
    if ours is None:
        print("\nTunesmith was not measured")
        return
    print(f"\n{ours.subject.name} against, in tokens/s:")
    for other in results:
        if other is ours:
            continue
        ratios = [
            f"{number} at a time {ours.levels[number].tokens_per_second / found.tokens_per_second:.2f}"
            for number, found in other.levels.items()
            if found.tokens_per_second
        ]
        print(f"  {other.subject.name:<24}{', '.join(ratios)}")
    peer = next((result for result in results if result.subject.name == "transformers serve"), None)
    if peer is None or 8 not in peer.levels or not peer.levels[8].tokens_per_second:
        print("no ratio to transformers serve at concurrency 8: it was not measured")
        return
    ratio = ours.levels[8].tokens_per_second / peer.levels[8].tokens_per_second
    print(f"ratio to transformers serve at concurrency 8: {ratio:.2f}")


PEERS: dict[str, Callable[[Path], AbstractContextManager[Subject]]] = {
    "transformers": transformers_serve,
    "mlflow": mlflow_serve,
    "llama.cpp": llama_server,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=30.0, help="time at each concurrency")
    parser.add_argument("--tokens", type=int, default=64, help="longest answer")
    parser.add_argument("--only", nargs="+", choices=["tunesmith", *PEERS], default=["tunesmith", *PEERS])
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # so that the servers end too
    BUILD.mkdir(parents=True, exist_ok=True)
    package = smollm2()
    prompts = conversations(64)
    print(f"{describe()}, Python {platform.python_version()}")
    results: list[Measured] = []

    def attempt(subject: AbstractContextManager[Subject], name: str) -> str | None:
        """Measure; the name of what was measured."""
        try:
            with subject as running:
                if any(result.subject.name == running.name for result in results):
                    return running.name  # what auto chose
                results.append(asyncio.run(measure(running, arguments, prompts)))
                return running.name
        except Skipped as reason:
            print(f"\n{name}: skipped: {reason}", flush=True)
            return None

    if "tunesmith" in arguments.only:
        from tunesmith.generate import ENGINES

        with tempfile.TemporaryDirectory(prefix="bench-serving-") as home:
            tunesmith = Tunesmith(package, Path(home))
            try:
                chosen = attempt(tunesmith.deployed("auto"), "tunesmith auto")
                for engine in ENGINES:
                    if f"tunesmith {engine}" != chosen:
                        attempt(tunesmith.deployed(engine), f"tunesmith {engine}")
            finally:
                tunesmith.close()
    for name in PEERS:
        if name in arguments.only:
            attempt(PEERS[name](package), name)
    report(results)


if __name__ == "__main__":
    main()
