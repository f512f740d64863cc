"""Architectures whose attention or rotations are special, against transformers' own generate."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests.generate.conftest import reference
from tests.support.tiny import tiny_model
from tunesmith.chat.messages import Message
from tunesmith.errors import InvalidModel
from tunesmith.generate import GenerateRequest, collect, open_engine
from tunesmith.models import ModelPackage, import_model

SHAPE: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "head_dim": 16,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}


def longrope() -> Any:
    torch.manual_seed(0)
    factors = {"short_factor": [1.0] * 8, "long_factor": [1.0 + number for number in range(8)]}
    parameters = {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 128, **factors}
    config = transformers.Phi3Config(**SHAPE, original_max_position_embeddings=128, rope_parameters=parameters)
    return transformers.Phi3ForCausalLM(config)


def phi3_window() -> Any:
    return transformers.Phi3ForCausalLM(transformers.Phi3Config(**SHAPE, sliding_window=24))


def mistral() -> Any:
    return transformers.MistralForCausalLM(transformers.MistralConfig(**SHAPE, sliding_window=24))


def qwen3() -> Any:
    return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**SHAPE))


def gemma3() -> Any:
    shape = {**SHAPE, "num_hidden_layers": 3}
    layers = ["sliding_attention", "sliding_attention", "full_attention"]
    return transformers.Gemma3ForCausalLM(
        transformers.Gemma3TextConfig(**shape, sliding_window=24, layer_types=layers, query_pre_attn_scalar=16)
    )


def package_of(make: Callable[[], Any], folder: Path) -> ModelPackage:
    source = tiny_model("llama", folder / "source")
    torch.manual_seed(0)
    model = make()
    generation = json.loads((source / "generation_config.json").read_text())
    model.generation_config = transformers.GenerationConfig(eos_token_id=generation["eos_token_id"])
    model.save_pretrained(source)
    return import_model(str(source), folder / "package", downloads=folder, name=make.__name__)


@pytest.mark.parametrize("make", [longrope, phi3_window, mistral, qwen3, gemma3])
async def test_greedy_is_transformers_greedy(make: Callable[[], Any], tmp_path: Path) -> None:
    package = package_of(make, tmp_path)
    engine = open_engine(package, precision="32")
    try:
        # Under and over the window, and for longrope: below the switch, across it, above it.
        prompts = [[Message("user", "robot paint " * count)] for count in (1, 12, 48, 90)]
        wanted = [reference(package, engine.tokenizer.encode_prompt(prompt), 60) for prompt in prompts]
        requests = [GenerateRequest(tuple(prompt), temperature=0, max_tokens=60) for prompt in prompts]
        alone = [await collect(engine.generate(request)) for request in requests]
        together = await asyncio.gather(*(collect(engine.generate(request)) for request in requests))
    finally:
        engine.close()
    assert [list(result.choices[0].token_ids) for result in alone] == wanted
    assert [list(result.choices[0].token_ids) for result in together] == wanted


def test_longrope_is_really_crossed(tmp_path: Path) -> None:
    tokenizer = package_of(longrope, tmp_path).tokenizer()
    lengths = [len(tokenizer.encode_prompt([Message("user", "robot paint " * count)])) for count in (1, 12, 48, 90)]
    assert lengths[1] < 128 < lengths[2] + 60
    assert any(length < 128 < length + 60 for length in lengths)
    assert lengths[3] > 128


def dynamic() -> Any:
    parameters = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE, rope_parameters=parameters))


def gemma2() -> Any:
    return transformers.Gemma2ForCausalLM(transformers.Gemma2Config(**SHAPE, query_pre_attn_scalar=16))


@pytest.mark.parametrize(("make", "message"), [(dynamic, "rotary embeddings"), (gemma2, "softcap")])
def test_what_cannot_be_served_is_refused_when_opened(make: Callable[[], Any], message: str, tmp_path: Path) -> None:
    package = package_of(make, tmp_path)
    with pytest.raises(InvalidModel, match=message):
        open_engine(package, precision="32")
