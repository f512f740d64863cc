"""The openvino engine against transformers' own generate, and what it shares with the engine over torch."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from tests.generate import test_architectures as special
from tests.generate.conftest import Packages, reference
from tests.support.exports import export_here
from tests.support.tiny import Family
from tests.support.workspace import until
from tunesmith.chat.messages import Message
from tunesmith.errors import InvalidModel, Unavailable, UnsupportedField
from tunesmith.generate import GenerateRequest, GenerateResult, collect, open_engine
from tunesmith.generate.engines import openvino_export
from tunesmith.generate.engines.exports import export_key, find_or_export
from tunesmith.generate.engines.openvino_engine import OpenVinoEngine, seconds_per_token
from tunesmith.generate.engines.openvino_export import export

PROMPTS = [
    "Hello, how are you?",
    "Tell me a long story about a robot that learns to paint, and about the quick brown fox. " * 4,
    "x",
    "0123456789 " * 20,
    "weather in Paris?",
]

Engines = Callable[..., OpenVinoEngine]


def ask(text: str, **options: object) -> GenerateRequest:
    return GenerateRequest((Message("user", text),), **{"temperature": 0, "max_tokens": 24, **options})  # type: ignore[arg-type]


async def answer(engine: Any, request: GenerateRequest) -> GenerateResult:
    return await collect(engine.generate(request))


def ids_of(result: GenerateResult) -> list[int]:
    return list(result.choices[0].token_ids)


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exports")


@pytest.fixture
def engines(packages: Packages, exports: Path) -> Iterator[Engines]:
    """Opens engines in float32 and closes them."""
    opened: list[OpenVinoEngine] = []

    def engine(family: Family = "qwen2", **options: object) -> OpenVinoEngine:
        package = packages(family)
        found = open_engine(
            package,
            engine="openvino",
            **{"precision": "32", "exports": export_here(package, exports), **options},  # type: ignore[arg-type]
        )
        assert isinstance(found, OpenVinoEngine)
        opened.append(found)
        return found

    yield engine
    for item in opened:
        item.close()


@pytest.mark.parametrize("family", ["phi3", "llama", "qwen2"])
async def test_greedy_is_transformers_greedy_alone_and_in_a_batch(
    family: Family, engines: Engines, packages: Packages
) -> None:
    engine = engines(family)
    wanted = [
        reference(packages(family), engine.tokenizer.encode_prompt([Message("user", text)]), 24) for text in PROMPTS
    ]
    alone = [await answer(engine, ask(text)) for text in PROMPTS]
    together = await asyncio.gather(*(answer(engine, ask(text)) for text in PROMPTS))
    assert [ids_of(result) for result in alone] == wanted
    assert [ids_of(result) for result in together] == wanted
    described = engine.description
    assert (described.engine, described.precision) == ("openvino", "32")
    quality = described.details["quality"]
    assert quality["top1_agreement"] == 1.0
    assert quality["mean_abs_logit_difference"] < 1e-5
    assert quality["positions"] > 50


@pytest.mark.heavy
@pytest.mark.parametrize(
    "make", [special.longrope, special.phi3_window, special.mistral, special.qwen3, special.gemma3]
)
async def test_special_attention_and_rotations(make: Callable[[], Any], tmp_path: Path) -> None:
    package = special.package_of(make, tmp_path)
    engine = open_engine(package, engine="openvino", precision="32", exports=export_here(package, tmp_path / "exports"))
    try:
        prompts = [[Message("user", "robot paint " * count)] for count in (1, 12, 48, 90)]
        wanted = [reference(package, engine.tokenizer.encode_prompt(prompt), 60) for prompt in prompts]
        requests = [GenerateRequest(tuple(prompt), temperature=0, max_tokens=60) for prompt in prompts]
        alone = [ids_of(await answer(engine, request)) for request in requests]
        together = await asyncio.gather(*(answer(engine, request) for request in requests))
    finally:
        engine.close()
    assert alone == wanted
    assert [ids_of(result) for result in together] == wanted


async def test_every_field_means_what_it_means_over_torch(engines: Engines, packages: Packages) -> None:
    here = engines()
    there = open_engine(packages("qwen2"), engine="transformers", precision="32")
    try:
        assert here.capabilities().fields == there.capabilities().fields
        for request in (
            ask("Hello", temperature=1.1, seed=2, logprobs=True, top_logprobs=3, max_tokens=8),
            ask("Hello", temperature=1.2, seed=1, n=3, top_p=0.9, top_k=40),
            ask("x", frequency_penalty=1.0, presence_penalty=0.5),
            ask("Hello", stop=("a",)),
        ):
            ours, theirs = await answer(here, request), await answer(there, request)
            assert [choice.token_ids for choice in ours.choices] == [choice.token_ids for choice in theirs.choices]
            assert [choice.text for choice in ours.choices] == [choice.text for choice in theirs.choices]
            assert [choice.finish_reason for choice in ours.choices] == [c.finish_reason for c in theirs.choices]
            assert ours.usage == theirs.usage
            for mine, other in zip(ours.choices[0].logprobs, theirs.choices[0].logprobs, strict=True):
                assert mine.logprob == pytest.approx(other.logprob, abs=1e-4)
                assert [top.token_id for top in mine.top] == [top.token_id for top in other.top]
    finally:
        there.close()


async def test_a_stream_that_is_given_up_frees_its_blocks(engines: Engines) -> None:
    engine = engines(max_answers=2)
    stream: Any = engine.generate(ask("Hello", n=2, max_tokens=400))
    await anext(stream)
    assert engine.stats().running == 2
    assert engine.stats().cache_bytes > 0
    await stream.aclose()
    assert len(ids_of(await answer(engine, ask("Hi")))) == 24
    stats = engine.stats()
    assert (stats.running, stats.cancelled, stats.finished, stats.cache_bytes) == (0, 1, 1, 0)
    engine.close()
    with pytest.raises(Unavailable):
        await answer(engine, ask("Hello"))


async def test_a_small_cache_lets_requests_wait_and_a_long_one_through(engines: Engines, packages: Packages) -> None:
    engine = engines(cache_bytes=1)
    wanted = [
        reference(packages("qwen2"), engine.tokenizer.encode_prompt([Message("user", text)]), 24) for text in PROMPTS
    ]
    results = await asyncio.gather(*(answer(engine, ask(text)) for text in PROMPTS))
    assert [ids_of(result) for result in results] == wanted
    assert engine.stats().cache_bytes == 0


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
async def test_halves_are_kept_and_computed_exactly(dtype: str, tmp_path: Path) -> None:
    def halves() -> Any:
        return special.qwen3().to(getattr(torch, dtype))

    package = special.package_of(halves, tmp_path)
    assert package.manifest.dtype == dtype
    exports = export_here(package, tmp_path / "exports")
    engine = open_engine(package, engine="openvino", precision="32", exports=exports)
    try:
        prompt = engine.tokenizer.encode_prompt([Message("user", "robot paint")])
        assert ids_of(await answer(engine, ask("robot paint"))) == reference(package, prompt, 24)
    finally:
        engine.close()
    weights = 2 * package.manifest.parameter_count
    assert (exports / export_key(package, dtype) / "model.bin").stat().st_size < 1.2 * weights


async def test_eight_bits_are_near_and_say_how_near(engines: Engines, packages: Packages, exports: Path) -> None:
    export_here(packages("qwen2"), exports, "int8")
    engine = engines(precision="8")
    assert engine.description.precision == "8"
    quality = engine.description.details["quality"]
    assert quality["top1_agreement"] > 0.7
    assert 1e-6 < quality["mean_abs_logit_difference"] < 0.05
    assert len(ids_of(await answer(engine, ask("Hello")))) == 24
    full, eight = (
        (exports / export_key(packages("qwen2"), form) / "model.bin").stat().st_size for form in ("float32", "int8")
    )
    assert eight < 0.4 * full


def test_a_precision_that_cannot_be_had_names_the_field(packages: Packages, tmp_path: Path) -> None:
    for engine, precision in (("openvino", "16"), ("transformers", "8")):
        with pytest.raises(UnsupportedField) as caught:
            open_engine(packages("qwen2"), engine=engine, precision=precision, exports=tmp_path)
        assert caught.value.target == "precision"


def test_an_export_goes_on_without_who_asked_for_all_who_wait_and_they_need_no_torch_to_serve(
    packages: Packages, tmp_path: Path
) -> None:
    program = (
        "import json, sys\n"
        "from pathlib import Path\n"
        "from tunesmith.generate import open_engine\n"
        "engine = open_engine(sys.argv[1], engine='openvino', precision='32', exports=Path(sys.argv[2]))\n"
        "loaded = [name for name in ('torch', 'transformers', 'openvino_telemetry') if sys.modules.get(name)]\n"
        "print(json.dumps([engine.description.details['export']['reused'], loaded]))\n"
    )
    command = [sys.executable, "-c", program, str(packages("llama").path), str(tmp_path)]
    first = subprocess.Popen(command)
    until(lambda: any(_exports(child) for child in psutil.Process(first.pid).children()), "the export to begin")
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    first.kill()
    first.wait()
    said = [json.loads(process.communicate()[0].splitlines()[-1]) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert said == [[True, []], [True, []]]
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [export_key(packages("llama"), "float32")]
    assert find_or_export(packages("llama"), "float32", tmp_path).reused


def _exports(process: psutil.Process) -> bool:
    return openvino_export.__name__ in process.cmdline()


def test_an_export_is_not_proved_by_nothing(
    packages: Packages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_export, "DECODED", 1000)  # longer than any probe
    with pytest.raises(InvalidModel, match="the export cannot be proved"):
        export(packages("llama"), tmp_path / "made", "float32")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("form", ["float32", "int8"])
def test_a_graph_that_differs_is_refused_in_every_form(
    form: Any, packages: Packages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_export, "MEAN_KL", -1.0)  # nothing is as near
    with pytest.raises(InvalidModel, match="differs from the model by"):
        export(packages("llama"), tmp_path / "made", form)
    assert not (tmp_path / "made").exists()


def test_what_cannot_be_exported_is_remembered_and_served_otherwise(tmp_path: Path) -> None:
    package = special.package_of(special.gemma2, tmp_path)
    exports = tmp_path / "exports"
    for _ in range(2):
        with pytest.raises(InvalidModel, match="softcap"):
            open_engine(package, engine="openvino", precision="32", exports=exports)
    assert [path.suffixes for path in exports.glob("*.json")] == [[".refused", ".json"]]
    # The other engine cannot either, and both reasons would be said: here the second is.
    with pytest.raises(InvalidModel, match="softcap"):
        open_engine(package, engine="auto", precision="32", exports=exports)


def test_auto_says_why_it_did_not_take_openvino(
    packages: Packages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TUNESMITH_ENGINE", raising=False)
    package = packages("llama")
    refused = tmp_path / f"{export_key(package, 'float32')}.refused.json"
    refused.write_text(json.dumps(InvalidModel("an attention of another kind").to_dict()))
    engine = open_engine(package, precision="32", exports=tmp_path)
    assert engine.description.engine == "transformers"
    assert "an attention of another kind" in engine.description.reason
    engine.close()
    monkeypatch.setenv("TUNESMITH_ENGINE", "transformers")
    pinned = open_engine(package, precision="32", exports=tmp_path)
    assert (pinned.description.engine, pinned.description.reason) == ("transformers", "asked for")
    pinned.close()


async def test_auto_takes_openvino_on_a_processor(
    packages: Packages, exports: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TUNESMITH_ENGINE", raising=False)
    engine = open_engine(packages("qwen2"), exports=export_here(packages("qwen2"), exports), device="cpu")
    try:
        assert engine.description.engine == "openvino"
        assert "the engine for processors without a GPU" in engine.description.reason
        assert len(ids_of(await answer(engine, ask("Hello")))) == 24
    finally:
        engine.close()


def test_the_time_of_a_token_is_measured(packages: Packages) -> None:
    assert 0 < seconds_per_token(packages("qwen2"), "f32", 1) < 1
