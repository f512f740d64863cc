"""Every family of the catalogue: a folder is imported, loaded, saved, merged and written for MLflow, and says the
same all the way."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models.adapters import random_adapter
from tests.models.test_gguf import SHAPE, random_model
from tests.support.tiny import tiny_model
from tunesmith.models import ModelPackage, import_model, load_model, merge_adapter, save_package
from tunesmith.models.mlflow_format import write_mlflow_model

IDS = torch.tensor([[5, 7, 300, 41, 9, 12, 255, 8, 77, 3, 100, 411]])


def configurations() -> dict[str, Any]:
    from transformers import Gemma3TextConfig, LlamaConfig, MistralConfig, Phi3Config, Qwen2Config

    tokens = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    return {
        "Llama-3.2": LlamaConfig(**SHAPE, **tokens, tie_word_embeddings=True, head_dim=16),
        "Mistral": MistralConfig(**SHAPE, **tokens, sliding_window=None),
        "Qwen2.5": Qwen2Config(**SHAPE, **tokens, tie_word_embeddings=True),
        "Phi-3": Phi3Config(**SHAPE, **tokens, original_max_position_embeddings=512, sliding_window=128),
        "Phi-4-mini": Phi3Config(
            **SHAPE,
            **tokens,
            original_max_position_embeddings=256,
            partial_rotary_factor=0.75,
            tie_word_embeddings=True,
            rope_scaling={
                "type": "longrope",
                "long_factor": [1.5] * 6,
                "short_factor": [1.0] * 6,
            },
        ),
        "Gemma-3": Gemma3TextConfig(
            **{**SHAPE, "num_hidden_layers": 7}, **tokens, head_dim=32, query_pre_attn_scalar=32, sliding_window=8
        ),
    }


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model("llama", tmp_path_factory.mktemp("tokenizer") / "llama")


def logits(package: ModelPackage) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = load_model(package, dtype="float32")(IDS).logits
    return found


@pytest.mark.parametrize("family", list(configurations()))
def test_family_goes_all_the_way(family: str, tokenizer: Path, tmp_path: Path) -> None:
    model = random_model(configurations()[family])
    model.save_pretrained(tmp_path / "folder")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(tokenizer / name, tmp_path / "folder" / name)
    with torch.inference_mode():
        first = model(IDS).logits

    package = import_model(str(tmp_path / "folder"), tmp_path / "package", downloads=tmp_path, name=family)
    assert torch.equal(logits(package), first)
    assert package.manifest.parameter_count == sum(p.numel() for p in model.parameters())

    saved = save_package(load_model(package), tmp_path / "saved", like=package)
    assert saved.manifest.files["model.safetensors"].bytes == package.manifest.files["model.safetensors"].bytes
    assert torch.equal(logits(saved), first)

    adapter = random_adapter(package, tmp_path / "adapter")
    report = merge_adapter(package, adapter, tmp_path / "merged", dtype="bfloat16")
    assert report.merged_modules == configurations()[family].num_hidden_layers * (4 if "Phi" in family else 7)
    assert report.adapter_effect.mean_kl > 10 * report.stored.mean_kl
    merged = ModelPackage.open(tmp_path / "merged")
    assert merged.manifest.dtype == "bfloat16"
    assert not torch.equal(logits(merged), first)

    folder = write_mlflow_model(merged, tmp_path / "mlflow", adapter=adapter)
    assert ModelPackage.open(folder).sha256 == merged.sha256
    assert torch.equal(logits(ModelPackage.open(folder)), logits(merged))
