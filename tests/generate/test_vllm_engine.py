"""The vllm engine against a stand-in that speaks vLLM's documented command line and protocol."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.generate.conftest import Packages
from tests.support import vllm_server
from tests.support.workspace import until
from tunesmith.chat.messages import Message
from tunesmith.errors import (
    DeploymentFailed,
    InvalidData,
    InvalidModel,
    ModelFailed,
    NotFound,
    Unavailable,
    UnsupportedField,
    UserError,
)
from tunesmith.generate import GenerateRequest, collect, open_engine
from tunesmith.generate.engines.vllm_engine import VllmEngine
from tunesmith.models import ModelPackage


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stand-in's log; its command is the one that is found."""
    command = tmp_path / "vllm"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} {vllm_server.__file__} "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv("TUNESMITH_VLLM", str(command))
    monkeypatch.setenv("STAND_IN_LOG", str(tmp_path / "log"))
    return tmp_path / "log"


@pytest.fixture
def engines(packages: Packages, log: Path) -> Iterator[Callable[..., VllmEngine]]:
    opened: list[VllmEngine] = []

    def engine(**options: Any) -> VllmEngine:
        found = open_engine(packages("qwen2"), engine="vllm", **options)
        assert isinstance(found, VllmEngine)
        opened.append(found)
        return found

    yield engine
    for item in opened:
        item.close()


def said(log: Path, kind: str) -> list[dict[str, Any]]:
    return [line for line in map(json.loads, log.read_text().splitlines()) if line["kind"] == kind]


def ask(text: str = "Hello", **options: Any) -> GenerateRequest:
    return GenerateRequest((Message("user", text),), **{"temperature": 0, "max_tokens": 6, **options})


def adapter(folder: Path, rank: int) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": rank}))
    (folder / "adapter_model.safetensors").touch()
    return folder


async def test_prompts_go_and_answers_come_as_ids(engines: Callable[..., VllmEngine], log: Path) -> None:
    engine = engines()
    request = ask(temperature=0.7, top_p=0.9, top_k=40, seed=3, n=2, frequency_penalty=0.5, presence_penalty=0.25)
    result = await collect(engine.generate(request))
    prompt = engine.tokenizer.encode_prompt(request.messages)
    (sent,) = said(log, "request")
    assert sent["path"] == "/v1/completions"
    assert sent["body"] == {
        "model": "@base",
        "prompt": prompt,
        "max_tokens": 6,
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 40,
        "seed": 3,
        "n": 2,
        "frequency_penalty": 0.5,
        "presence_penalty": 0.25,
        "stop_token_ids": sorted(engine.tokenizer.contract.eos_token_ids),
        "stream": True,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
    }
    for index, choice in enumerate(result.choices):
        ids = [(prompt[-1] + step + 100 * index) % vllm_server.VOCABULARY for step in range(1, 7)]
        assert list(choice.token_ids) == ids
        assert choice.text == engine.tokenizer.decode(ids)
        assert choice.finish_reason == "length"
    assert (result.usage.prompt_tokens, result.usage.completion_tokens) == (len(prompt), 12)
    stats = engine.stats()
    assert (stats.running, stats.requests, stats.finished, stats.completion_tokens) == (0, 1, 1, 12)


async def test_logprobs_stop_strings_and_limits(engines: Callable[..., VllmEngine], log: Path) -> None:
    engine = engines()
    choice = (await collect(engine.generate(ask(logprobs=True, top_logprobs=2)))).choices[0]
    assert [item.token_id for item in choice.logprobs] == list(choice.token_ids)
    assert [top.logprob for top in choice.logprobs[0].top] == [-1.0, -2.0]
    pieces = [engine.tokenizer.decode(choice.token_ids[:count]) for count in range(6)]
    assert [item.offset for item in choice.logprobs] == [len(piece.rstrip("\ufffd")) for piece in pieces]
    assert choice.logprobs[0].token == engine.tokenizer.decode([choice.token_ids[0]], skip_special_tokens=False)
    stop = choice.text[2:4]
    stopped = (await collect(engine.generate(ask(stop=(stop,))))).choices[0]
    assert (stopped.text, stopped.finish_reason, stopped.stop) == (choice.text[: choice.text.index(stop)], "stop", stop)
    with pytest.raises(InvalidData, match="context"):
        await collect(engine.generate(ask("hello " * 600)))
    assert len(said(log, "request")) == 2


async def test_a_stream_that_is_given_up_is_closed(engines: Callable[..., VllmEngine], log: Path) -> None:
    engine = engines()
    stream = engine.generate(ask(max_tokens=400, n=2))
    await anext(stream)
    assert engine.stats().running == 2
    await stream.aclose()  # type: ignore[attr-defined]
    await asyncio.to_thread(until, lambda: said(log, "gone"), "the server saw its client go")
    stats = engine.stats()
    assert (stats.running, stats.cancelled) == (0, 1)


async def test_the_command_line(
    engines: Callable[..., VllmEngine], log: Path, packages: Packages, tmp_path: Path
) -> None:
    adapters = {"french": adapter(tmp_path / "french", 4), "poet": adapter(tmp_path / "poet", 12)}
    engine = engines(precision="bf16", max_answers=7, cache_bytes=10**9, adapters=adapters)
    (started,) = said(log, "started")
    arguments = started["arguments"]
    assert arguments[:4] == ["serve", str(packages("qwen2").path), "--host", "127.0.0.1"]
    assert arguments[6:] == [
        *("--served-model-name", "@base", "--dtype", "bfloat16", "--max-model-len", "512", "--max-num-seqs", "7"),
        *("--generation-config", "vllm", "--max-logprobs", "20", "--disable-uvicorn-access-log"),
        *("--kv-cache-memory-bytes", "1000000000"),
        *("--enable-lora", "--max-loras", "2", "--max-lora-rank", "16", "--max-cpu-loras", "32"),
        *("--lora-modules", f"french={adapters['french']}", f"poet={adapters['poet']}"),
    ]
    await collect(engine.generate(ask(adapter="poet")))
    assert said(log, "request")[-1]["body"]["model"] == "poet"
    with pytest.raises(NotFound):
        await collect(engine.generate(ask(adapter="german")))


def asked(log: Path) -> list[tuple[str, str]]:
    """(route, adapter) of what was loaded and unloaded."""
    return [
        (line["path"].removeprefix("/v1/"), line["body"]["lora_name"])
        for line in said(log, "request")
        if "lora_name" in line["body"]
    ]


async def test_adapters_come_and_go_while_it_serves(
    engines: Callable[..., VllmEngine], log: Path, tmp_path: Path
) -> None:
    folders = {name: adapter(tmp_path / name, rank) for name, rank in (("french", 4), ("poet", 12), ("german", 16))}
    later = adapter(tmp_path / "later", 8)
    engine = engines(adapters={"french": folders["french"], "poet": folders["poet"]})
    # French is another version, poet goes, german comes; who began with the old french ends with it.
    stream = engine.generate(ask(adapter="french", max_tokens=400))
    await anext(stream)
    await engine.use_adapters({"french": later, "german": folders["german"]})
    await asyncio.to_thread(until, lambda: len(asked(log)) == 3, "poet to be unloaded")
    assert asked(log) == [
        ("load_lora_adapter", "french@1"),
        ("load_lora_adapter", "german@2"),
        ("unload_lora_adapter", "poet"),
    ]
    loads = [line["body"]["lora_path"] for line in said(log, "request") if line["path"] == "/v1/load_lora_adapter"]
    assert loads == [str(later), str(folders["german"])]
    assert engine.capabilities().adapters == ("french", "german")
    assert engine.description.details["adapters"] == ["french", "german"]
    assert (await anext(stream)).token_ids
    await stream.aclose()  # type: ignore[attr-defined]
    await asyncio.to_thread(until, lambda: asked(log)[3:] == [("unload_lora_adapter", "french")], "the old one to go")

    for name, known_as in (("french", "french@1"), ("german", "german@2")):
        await collect(engine.generate(ask(adapter=name)))
        assert said(log, "request")[-1]["body"]["model"] == known_as
    with pytest.raises(NotFound):
        await collect(engine.generate(ask(adapter="poet")))
    await engine.use_adapters({"french": later, "german": folders["german"]})
    assert len(asked(log)) == 4, "nothing had changed"
    await engine.use_adapters({})
    await asyncio.to_thread(until, lambda: len(asked(log)) == 6, "all to go")
    with pytest.raises(UnsupportedField):
        await collect(engine.generate(ask(adapter="french")))
    await engine.use_adapters({"french": later})
    assert asked(log)[6:] == [("load_lora_adapter", "french@3")]


async def test_adapters_that_cannot_be_taken_leave_all_as_it_was(
    engines: Callable[..., VllmEngine], log: Path, tmp_path: Path
) -> None:
    french, wide = adapter(tmp_path / "french", 4), adapter(tmp_path / "wide", 12)
    engine = engines(adapters={"french": french})
    with pytest.raises(UnsupportedField, match="'wide' has rank 12 and vLLM was started for up to 8") as caught:
        await engine.use_adapters({"french": french, "wide": wide})
    assert caught.value.target == "adapters.wide"
    with pytest.raises(InvalidModel, match=r"has no adapter_config\.json"):
        await engine.use_adapters({"nowhere": tmp_path})
    assert asked(log) == []
    # What vLLM refuses: the one that it took before is let go again.
    first, second = adapter(tmp_path / "first", 4), adapter(tmp_path / "second", 4)
    (second / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "target_modules": ["no"]}))
    with pytest.raises(ModelFailed, match=r"vLLM answered 500 to load_lora_adapter of second@2: .*modules \['no'\]"):
        await engine.use_adapters({"french": french, "first": first, "second": second})
    await asyncio.to_thread(until, lambda: len(asked(log)) == 3, "the first to go")
    assert asked(log) == [
        ("load_lora_adapter", "first@1"),
        ("load_lora_adapter", "second@2"),
        ("unload_lora_adapter", "first@1"),
    ]
    assert engine.capabilities().adapters == ("french",)
    await collect(engine.generate(ask(adapter="french")))
    bare = engines()
    with pytest.raises(UnsupportedField, match="started without adapters"):
        await bare.use_adapters({"french": french})


async def test_what_cannot_be_honoured_and_what_fails(engines: Callable[..., VllmEngine], log: Path) -> None:
    engine = engines()
    with pytest.raises(UnsupportedField) as caught:
        await collect(engine.generate(ask(response_format={"type": "json_object"})))
    assert caught.value.target == "response_format"
    with pytest.raises(ModelFailed, match=r"vLLM answered 400: .*this temperature is refused"):
        await collect(engine.generate(ask(temperature=1.25)))
    assert engine.stats().failed == 1
    engine._server._process.kill()
    engine._server._process.wait()
    with pytest.raises(Unavailable, match="has ended"):
        await collect(engine.generate(ask()))
    engine.close()
    with pytest.raises(Unavailable, match="closed"):
        await collect(engine.generate(ask()))
    for option, value in (("precision", "8"), ("threads", 2)):
        with pytest.raises(UnsupportedField) as refused:
            engines(**{option: value})
        assert refused.value.target == option


def test_a_server_that_does_not_come_up_shows_its_log(
    engines: Callable[..., VllmEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_OPTIONS", "--fail")
    with pytest.raises(DeploymentFailed, match=r"status 3 while it started: torch\.OutOfMemoryError"):
        engines()


def test_no_server_is_left_behind_by_a_package_without_a_tokenizer(
    packages: Packages, log: Path, tmp_path: Path
) -> None:
    shutil.copytree(packages("qwen2").path, tmp_path / "package")
    package = ModelPackage.open(tmp_path / "package")
    (package.path / "tokenizer.json").unlink()
    with pytest.raises(Exception, match=r"tokenizer"):
        open_engine(package, engine="vllm")
    assert not log.exists()  # it was not even started


def test_no_vllm_is_said(packages: Packages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TUNESMITH_VLLM", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="vLLM is not on this machine"):
        open_engine(packages("qwen2"), engine="vllm")
