"""Write a Hugging Face model as a GGUF file, as llama.cpp's converter does: names by gguf's own table, query and key
rows of Llama interleaved, 1 added to Gemma's norms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "phi3": gguf.MODEL_ARCH.PHI3,
    "gemma3": gguf.MODEL_ARCH.GEMMA3,
}


def write_gguf(
    model: torch.nn.Module,
    path: Path,
    architecture: str,
    *,
    tokenizer: Mapping[str, Any],
    quantisation: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    facts: Mapping[str, Any] | None = None,
    extra_tensors: Mapping[str, np.ndarray] | None = None,
    leave_out: Sequence[str] = (),
) -> Path:
    """``tokenizer`` and ``facts`` are further metadata by their full key; matrices are stored in ``quantisation``."""
    config: Any = model.config
    writer = gguf.GGUFWriter(path, architecture)
    prefix = architecture
    writer.add_uint32(f"{prefix}.context_length", config.max_position_embeddings)
    writer.add_uint32(f"{prefix}.embedding_length", config.hidden_size)
    writer.add_uint32(f"{prefix}.block_count", config.num_hidden_layers)
    writer.add_uint32(f"{prefix}.feed_forward_length", config.intermediate_size)
    writer.add_uint32(f"{prefix}.attention.head_count", config.num_attention_heads)
    writer.add_uint32(f"{prefix}.attention.head_count_kv", config.num_key_value_heads)
    writer.add_float32(f"{prefix}.attention.layer_norm_rms_epsilon", config.rms_norm_eps)
    for key, value in {**(facts or {}), **tokenizer}.items():
        _add(writer, key, value)
    names = gguf.get_tensor_name_map(ARCHITECTURES[architecture], config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        stem, _, kind = name.rpartition(".")
        new = f"{names.get_name(stem)}.{kind}"
        if new in leave_out:
            continue
        weights = tensor.float().numpy()
        if architecture == "llama" and (".attn_q." in new or ".attn_k." in new):
            heads = config.num_attention_heads if ".attn_q." in new else config.num_key_value_heads
            rows, columns = weights.shape
            weights = weights.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)
        if architecture == "gemma3" and stem.endswith("norm"):
            weights = weights + 1
        if weights.ndim > 1:
            stored = gguf.quantize(np.ascontiguousarray(weights), quantisation)
            writer.add_tensor(new, stored, raw_dtype=quantisation)
        else:
            writer.add_tensor(new, np.ascontiguousarray(weights))
    for name, weights in (extra_tensors or {}).items():
        writer.add_tensor(name, weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def byte_level_metadata(folder: Path, *, pre: str = "gpt-2") -> dict[str, Any]:
    """The tokenizer of a Hugging Face folder with a byte-level ``tokenizer.json``, as GGUF metadata."""
    import json

    body = json.loads((folder / "tokenizer.json").read_text())
    special = {token["content"]: token["id"] for token in body["added_tokens"]}
    vocabulary = body["model"]["vocab"] | special
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    config = json.loads((folder / "tokenizer_config.json").read_text())
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in special else 1 for token in tokens],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in body["model"]["merges"]],
        "tokenizer.ggml.bos_token_id": vocabulary[config["bos_token"]],
        "tokenizer.ggml.eos_token_id": vocabulary[config["eos_token"]],
        "tokenizer.ggml.padding_token_id": vocabulary[config["pad_token"]],
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": (folder / "chat_template.jinja").read_text(),
    }


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_array(key, list(value))
