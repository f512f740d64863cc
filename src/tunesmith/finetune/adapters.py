"""Adapters on disk, in PEFT's format: ``adapter_config.json`` and ``adapter_model.safetensors``.

``peft.PeftModel.from_pretrained`` loads what is written here, and so does every server that takes LoRA adapters.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tunesmith.finetune.files import sync_folder, write_text
from tunesmith.finetune.lora import adapted_layers
from tunesmith.finetune.parameters import FinetuneParameters
from tunesmith.models.adapter_files import ADAPTER_CONFIG_FILE as CONFIG_FILE
from tunesmith.models.adapter_files import ADAPTER_WEIGHTS_FILE as WEIGHTS_FILE


def adapter_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The adapter's weights under PEFT's names."""
    tensors: dict[str, Tensor] = {}
    for name, layer in adapted_layers(model).items():
        prefix = f"base_model.model.{name}"
        tensors[f"{prefix}.lora_A.weight"] = layer.lora_A.detach().cpu().clone()
        tensors[f"{prefix}.lora_B.weight"] = layer.lora_B.detach().cpu().clone()
        if layer.magnitude is not None:
            tensors[f"{prefix}.lora_magnitude_vector"] = layer.magnitude.detach().cpu().clone()
    return tensors


def adapter_config(model: nn.Module, parameters: FinetuneParameters, base: str) -> dict[str, Any]:
    """What PEFT needs to rebuild the adapter; ``base`` names the model it belongs to."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": parameters.lora_r,
        "lora_alpha": parameters.lora_alpha,
        "lora_dropout": parameters.lora_dropout,
        "use_rslora": parameters.use_rslora,
        "use_dora": parameters.use_dora,
        "bias": "none",
        "fan_in_fan_out": False,
        # Whole names, so that no other layer with the same last name is taken.
        "target_modules": sorted(adapted_layers(model)),
    }


def save_adapter(model: nn.Module, folder: Path, parameters: FinetuneParameters, base: str) -> Path:
    """Write the adapter to ``folder`` and return it."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(adapter_tensors(model), folder / WEIGHTS_FILE, metadata={"format": "pt"})
    write_text(
        folder / CONFIG_FILE, json.dumps(adapter_config(model, parameters, base), indent=2, sort_keys=True) + "\n"
    )
    sync_folder(folder)
    return folder
