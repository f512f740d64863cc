"""From GGUF metadata and tensor names to a Hugging Face configuration and tensor names.

The families here are those whose weights this room can give back exactly in Hugging Face's layout. What llama.cpp
changed on the way in is undone: Llama's query and key rows are put back from interleaved to halved rotary order, and
Gemma's norms lose the 1 that was added.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tunesmith.errors import InvalidModel

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

Metadata = Mapping[str, Any]
ROTARY_TENSORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
"""Tensors that are facts of the rotary embedding, not weights."""

_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_SPLIT_ATTENTION = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj"}
_SPLIT_MLP = {"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj"}
_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_down": "mlp.down_proj",
}
_QK_NORM = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}


@dataclass(frozen=True, slots=True)
class Family:
    """One architecture of GGUF and its Hugging Face form."""

    model_type: str
    architecture: str
    block: Mapping[str, str]
    """From GGUF's name inside a block to Hugging Face's name inside a layer."""
    biases: tuple[str, ...] = ()
    """Which of ``block`` have a bias as well."""
    config: Callable[[Metadata, dict[str, Any], Mapping[str, Any]], dict[str, Any]] = lambda meta, base, rotary: {}
    permuted: bool = False
    norm_offset: float = 0.0
    """What was added to every norm's weight."""


def _llama(meta: Metadata, base: dict[str, Any], rotary: Mapping[str, Any]) -> dict[str, Any]:
    more: dict[str, Any] = {"attention_bias": False, "mlp_bias": False, "hidden_act": "silu", "pretraining_tp": 1}
    if "rope_freqs.weight" in rotary:
        more["rope_scaling"] = _llama3_scaling(rotary["rope_freqs.weight"], base)
    return more | _linear_scaling(meta, "llama")


def _llama3_scaling(factors: Floats, base: Mapping[str, Any]) -> dict[str, Any]:
    """The llama3 scaling whose per-frequency factors these are; the file has only the factors."""
    import numpy as np

    frequencies = base["rope_theta"] ** -(np.arange(0, base["head_dim"], 2) / base["head_dim"])
    wavelengths = 2 * np.pi / frequencies
    low, high, original = 1.0, 4.0, 8192
    factor = float(np.max(factors))
    smooth = (original / wavelengths - low) / (high - low)
    blended = 1 / ((1 - smooth) / factor + smooth)
    expected = np.where(wavelengths < original / high, 1.0, np.where(wavelengths > original / low, factor, blended))
    if factors.shape != expected.shape or not np.allclose(factors, expected, rtol=1e-3):
        raise InvalidModel(
            "the file's rotary factors (rope_freqs.weight) belong to no scaling known here",
            way_out="import the model's Hugging Face folder instead of this GGUF file",
        )
    return {
        "rope_type": "llama3",
        "factor": round(factor, 4),
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": original,
    }


def _linear_scaling(meta: Metadata, prefix: str) -> dict[str, Any]:
    kind = meta.get(f"{prefix}.rope.scaling.type", "none")
    if kind == "none":
        return {}
    factor = float(meta.get(f"{prefix}.rope.scaling.factor", 1.0))
    if kind == "linear":
        return {"rope_scaling": {"rope_type": "linear", "factor": factor}}
    if kind == "yarn":
        scaling = {"rope_type": "yarn", "factor": factor}
        if original := meta.get(f"{prefix}.rope.scaling.original_context_length"):
            scaling["original_max_position_embeddings"] = int(original)
        return {"rope_scaling": scaling}
    raise InvalidModel(
        f"the rotary scaling {kind!r} of this GGUF file is not known here",
        way_out="import the model's Hugging Face folder instead of this GGUF file",
    )


def _qwen2(meta: Metadata, base: dict[str, Any], rotary: Mapping[str, Any]) -> dict[str, Any]:
    return {"hidden_act": "silu", "use_sliding_window": False} | _linear_scaling(meta, "qwen2")


def _qwen3(meta: Metadata, base: dict[str, Any], rotary: Mapping[str, Any]) -> dict[str, Any]:
    return {"hidden_act": "silu", "use_sliding_window": False, "attention_bias": False} | _linear_scaling(meta, "qwen3")


def _phi3(meta: Metadata, base: dict[str, Any], rotary: Mapping[str, Any]) -> dict[str, Any]:
    head_dim = base["hidden_size"] // base["num_attention_heads"]
    original = int(meta.get("phi3.rope.scaling.original_context_length", base["max_position_embeddings"]))
    more: dict[str, Any] = {
        "hidden_act": "silu",
        "original_max_position_embeddings": original,
        "partial_rotary_factor": meta.get("phi3.rope.dimension_count", head_dim) / head_dim,
        "sliding_window": meta.get("phi3.attention.sliding_window") or None,
        "rope_scaling": None,
    }
    if "rope_factors_long.weight" in rotary:
        more["rope_scaling"] = {
            "type": "longrope",
            "long_factor": [round(float(x), 7) for x in rotary["rope_factors_long.weight"]],
            "short_factor": [round(float(x), 7) for x in rotary["rope_factors_short.weight"]],
        }
    return more


def _gemma3(meta: Metadata, base: dict[str, Any], rotary: Mapping[str, Any]) -> dict[str, Any]:
    layers = base["num_hidden_layers"]
    more = {
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "query_pre_attn_scalar": base["head_dim"],
        "sliding_window": int(meta.get("gemma3.attention.sliding_window", 512)),
        "layer_types": ["full_attention" if (i + 1) % 6 == 0 else "sliding_attention" for i in range(layers)],
        "rope_local_base_freq": 10000.0,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "tie_word_embeddings": True,
    }
    return more | _linear_scaling(meta, "gemma3")


_GEMMA3_BLOCK = {
    **_BLOCK,
    **_SPLIT_ATTENTION,
    **_SPLIT_MLP,
    **_QK_NORM,
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}

FAMILIES: dict[str, Family] = {
    "llama": Family(
        "llama", "LlamaForCausalLM", {**_BLOCK, **_SPLIT_ATTENTION, **_SPLIT_MLP}, config=_llama, permuted=True
    ),
    "qwen2": Family(
        "qwen2",
        "Qwen2ForCausalLM",
        {**_BLOCK, **_SPLIT_ATTENTION, **_SPLIT_MLP},
        biases=("attn_q", "attn_k", "attn_v"),
        config=_qwen2,
    ),
    "qwen3": Family(
        "qwen3", "Qwen3ForCausalLM", {**_BLOCK, **_SPLIT_ATTENTION, **_SPLIT_MLP, **_QK_NORM}, config=_qwen3
    ),
    "phi3": Family(
        "phi3",
        "Phi3ForCausalLM",
        {**_BLOCK, "attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"},
        config=_phi3,
    ),
    "gemma3": Family("gemma3_text", "Gemma3ForCausalLM", _GEMMA3_BLOCK, config=_gemma3, norm_offset=1.0),
}


def family_of(meta: Metadata) -> Family:
    """The family of a file; ``InvalidModel`` names an architecture that is not known."""
    name = str(meta.get("general.architecture", ""))
    if name not in FAMILIES:
        raise InvalidModel(
            f"GGUF files of the architecture {name!r} cannot be converted (known: {', '.join(FAMILIES)})",
            way_out="import the model's Hugging Face folder instead of this GGUF file",
        )
    return FAMILIES[name]


def make_config(
    meta: Metadata, family: Family, *, vocab_size: int, tied: bool, rotary: Mapping[str, Any], dtype: str
) -> dict[str, Any]:
    """``config.json`` for transformers, in the spelling that older releases and other tools read as well."""
    prefix = str(meta["general.architecture"])

    def whole(key: str) -> int:
        value = meta.get(f"{prefix}.{key}")
        if not isinstance(value, int):
            raise InvalidModel(
                f"the GGUF file has {prefix}.{key} = {value!r}; one whole number is needed",
                way_out="import the model's Hugging Face folder instead of this GGUF file",
            )
        return value

    heads = whole("attention.head_count")
    hidden = whole("embedding_length")
    base: dict[str, Any] = {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        "vocab_size": vocab_size,
        "hidden_size": hidden,
        "intermediate_size": whole("feed_forward_length"),
        "num_hidden_layers": whole("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": int(meta.get(f"{prefix}.attention.head_count_kv", heads)),
        "head_dim": int(meta.get(f"{prefix}.attention.key_length", hidden // heads)),
        "max_position_embeddings": whole("context_length"),
        "rms_norm_eps": _shortest(float(meta.get(f"{prefix}.attention.layer_norm_rms_epsilon", 1e-6))),
        "rope_theta": _shortest(float(meta.get(f"{prefix}.rope.freq_base", 10000.0))),
        "tie_word_embeddings": tied,
        "bos_token_id": meta.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": meta.get("tokenizer.ggml.eos_token_id"),
        "pad_token_id": meta.get("tokenizer.ggml.padding_token_id"),
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "use_cache": True,
        "torch_dtype": dtype,
    }
    return base | family.config(meta, base, rotary)


def _shortest(value: float) -> float:
    """The shortest decimal that is this float32: the file has 9.99999975e-06 where 1e-05 was meant."""
    import numpy as np

    return float(str(np.float32(value)))


def expected_tensors(family: Family, layers: int, *, tied: bool) -> dict[str, str]:
    """Every tensor a file of the family must have: GGUF's name to Hugging Face's name."""
    names = {f"{a}.weight": f"{b}.weight" for a, b in _TOP.items() if not (tied and a == "output")}
    for layer in range(layers):
        for a, b in family.block.items():
            names[f"blk.{layer}.{a}.weight"] = f"model.layers.{layer}.{b}.weight"
        for a in family.biases:
            names[f"blk.{layer}.{a}.bias"] = f"model.layers.{layer}.{family.block[a]}.bias"
    return names


_QUERY_OR_KEY = re.compile(r"\.attn_([qk])\.weight$")


def restore(name: str, weights: Floats, family: Family, config: Mapping[str, Any]) -> Floats:
    """Undo what the conversion to GGUF changed in the tensor of GGUF's ``name``; shape stays (rows, columns)."""
    if family.permuted and (found := _QUERY_OR_KEY.search(name)):
        heads = config["num_attention_heads" if found[1] == "q" else "num_key_value_heads"]
        rows, columns = weights.shape
        return weights.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)
    if family.norm_offset and name.endswith("norm.weight"):
        return weights - family.norm_offset
    return weights
