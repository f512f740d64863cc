"""LoRA adapters for tiny models, made by PEFT with random weights."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from tunesmith.models import ModelPackage, load_model


def random_adapter(package: ModelPackage, folder: Path, *, scale: float = 0.3, seed: int = 0, **settings: Any) -> Path:
    """Write an adapter for ``package`` whose effect is of the size of ``scale``."""
    from peft import LoraConfig, get_peft_model

    model = load_model(package, dtype="float32")
    config = LoraConfig(
        **{"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **settings}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuned = get_peft_model(model, config)
        torch.manual_seed(seed)
        with torch.no_grad():
            for name, tensor in tuned.named_parameters():
                if "lora_B" in name or "modules_to_save" in name:
                    tensor.add_(torch.randn_like(tensor) * scale)
        # The embedding is asked for by name: left to itself PEFT would ask the hub whether the vocabulary grew.
        tuned.save_pretrained(folder, save_embedding_layers=False)
    return folder
