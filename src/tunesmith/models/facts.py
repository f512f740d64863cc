"""What ``config.json`` says about a model: its architecture, sizes and context length.

Reads JSON only. Whether the architecture is one that transformers itself can build is asked in ``require_native``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import InvalidModel

CONFIG_FILE = "config.json"
# The families of the catalogue, known without loading transformers' tables, which load torch.
CAUSAL_MODELS = {
    "gemma3_text": "Gemma3ForCausalLM",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
# These rotary scalings state a max_position_embeddings that already counts the stretch.
_ALREADY_STRETCHED = {"default", "longrope", "su", "llama3", "mrope", "proportional"}


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """The sizes of a decoder-only model."""

    architecture: str
    """Class name, such as ``Phi3ForCausalLM``."""
    model_type: str
    context_length: int
    """In tokens, with rotary scaling counted."""
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    tied_embeddings: bool


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of a model folder; ``InvalidModel`` when it is missing or no JSON object."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        found = sorted(entry.name for entry in folder.iterdir())[:6] if folder.is_dir() else []
        raise InvalidModel(
            f"there is no {CONFIG_FILE} in this folder" + (f" (it holds {', '.join(found)})" if found else ""),
            target=str(folder),
            way_out="give the folder that holds config.json, model.safetensors and tokenizer.json of one model, "
            "a .gguf file, or an MLflow model folder",
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise InvalidModel(
            f"{CONFIG_FILE} is not JSON: {error}", target=str(path), way_out="copy or download the file again"
        ) from error
    if not isinstance(config, dict):
        raise InvalidModel(f"{CONFIG_FILE} holds no JSON object", target=str(path))
    return config


def read_facts(config: Mapping[str, Any], *, where: Path) -> ModelFacts:
    """The facts in a configuration; ``InvalidModel`` names the field that is missing or wrong."""

    def number(name: str, fallback: int | None = None) -> int:
        value = config.get(name)
        if value is None and fallback is not None:
            return fallback
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InvalidModel(
                f"config.json has {name} = {value!r}; a whole number of at least 1 is needed",
                target=f"{where}#{name}",
                way_out="only decoder-only chat models with a plain text configuration can be used",
            )
        return value

    heads = number("num_attention_heads")
    hidden = number("hidden_size")
    return ModelFacts(
        architecture=_architecture(config, where),
        model_type=str(config.get("model_type", "")),
        context_length=_context_length(config, number("max_position_embeddings")),
        vocab_size=number("vocab_size"),
        hidden_size=hidden,
        intermediate_size=number("intermediate_size"),
        num_layers=number("num_hidden_layers"),
        num_attention_heads=heads,
        num_key_value_heads=number("num_key_value_heads", heads),
        head_dim=number("head_dim", hidden // heads),
        tied_embeddings=bool(config.get("tie_word_embeddings", _tied_by_default(str(config.get("model_type", ""))))),
    )


def _architecture(config: Mapping[str, Any], where: Path) -> str:
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or not architectures:
        raise InvalidModel(
            "config.json names no architecture",
            target=f"{where}#architectures",
            way_out="copy the model's own config.json",
        )
    return str(architectures[0])


def _tied_by_default(model_type: str) -> bool:
    return model_type.startswith("gemma")


def _context_length(config: Mapping[str, Any], positions: int) -> int:
    scaling = config.get("rope_parameters") or config.get("rope_scaling")
    if not isinstance(scaling, dict):
        return positions
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    factor = scaling.get("factor")
    if kind in _ALREADY_STRETCHED or not isinstance(factor, int | float) or factor <= 1:
        return positions
    original = scaling.get("original_max_position_embeddings")
    stretched = int((original if isinstance(original, int) else positions) * factor)
    return max(positions, stretched)


def require_native(config: Mapping[str, Any], *, where: Path) -> None:
    """Raise ``InvalidModel`` unless transformers can build this model without code from the model's folder.

    A family of the catalogue is known without loading transformers.
    """
    model_type = str(config.get("model_type", ""))
    architecture = _architecture(config, where)
    if config.get("quantization_config"):
        method = config["quantization_config"].get("quant_method", "an unknown method")
        raise InvalidModel(
            f"the weights are quantised with {method}, which cannot be fine-tuned or merged exactly",
            target=f"{where}#quantization_config",
            way_out="import the model's unquantised weights, or its GGUF file",
        )
    if CAUSAL_MODELS.get(model_type) == architecture:
        return
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type]
        names = [known] if isinstance(known, str) else list(known)
        if architecture in names:
            return
        raise InvalidModel(
            f"{architecture} is not the chat form of {model_type!r} ({', '.join(names)} is)",
            target=f"{where}#architectures",
            way_out="choose the model's ...ForCausalLM version: only decoder-only text models can be used",
        )
    if "auto_map" in config:
        raise InvalidModel(
            f"{architecture} needs the Python code in its folder, and code of a model is never run here "
            "(trust_remote_code is off)",
            target=f"{where}#auto_map",
            way_out="choose a model whose architecture is part of transformers, such as Phi-3-mini, Phi-4, Qwen2.5, "
            "Llama-3.2 or Mistral",
        )
    kind = "is no causal language model" if model_type in CONFIG_MAPPING_NAMES else "is not known to this transformers"
    raise InvalidModel(
        f"the model type {model_type!r} ({architecture}) {kind}",
        target=f"{where}#model_type",
        way_out="choose a decoder-only chat model that transformers supports",
    )
