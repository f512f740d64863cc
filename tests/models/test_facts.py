from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tunesmith.errors import InvalidModel
from tunesmith.models.facts import read_facts

BASE: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 4096,
}


@pytest.mark.parametrize(
    ("config", "length"),
    [
        ({}, 4096),
        ({"rope_scaling": None}, 4096),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, 16384),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, 4096),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, 8192),
        # Qwen2.5's way to 128k, written into the configuration by hand.
        (
            {
                "max_position_embeddings": 32768,
                "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
            },
            131072,
        ),
        # Phi-3-mini-128k: the stated length counts the stretch already.
        (
            {
                "max_position_embeddings": 131072,
                "original_max_position_embeddings": 4096,
                "rope_scaling": {"type": "longrope", "long_factor": [1.0], "short_factor": [1.0]},
            },
            131072,
        ),
        (
            {
                "max_position_embeddings": 131072,
                "rope_scaling": {
                    "rope_type": "llama3",
                    "factor": 32.0,
                    "original_max_position_embeddings": 8192,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                },
            },
            131072,
        ),
        # Gemma 3: rotary parameters by kind of layer.
        ({"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0}}}, 4096),
    ],
)
def test_context_length_counts_rotary_scaling(config: dict[str, Any], length: int) -> None:
    assert read_facts({**BASE, **config}, where=Path("config.json")).context_length == length


def test_what_is_left_out_has_the_usual_meaning() -> None:
    facts = read_facts(BASE, where=Path("config.json"))
    assert (facts.num_key_value_heads, facts.head_dim, facts.tied_embeddings) == (4, 16, False)


@pytest.mark.parametrize("value", [None, "64", 0, -1, True, 64.0])
def test_sizes_must_be_whole_numbers(value: object) -> None:
    with pytest.raises(InvalidModel, match="hidden_size") as caught:
        read_facts({**BASE, "hidden_size": value}, where=Path("config.json"))
    assert caught.value.target == "config.json#hidden_size"


def test_families_known_by_heart_are_transformers_own() -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    from tunesmith.models.catalogue import entries
    from tunesmith.models.facts import CAUSAL_MODELS

    for model_type, architecture in CAUSAL_MODELS.items():
        assert MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type] == architecture
    assert {model.architecture for model in entries()} <= set(CAUSAL_MODELS.values())
