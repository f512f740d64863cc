"""The base model in memory, the way the parameters want it: as it is, resized, or quantised."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from tunesmith.finetune.parameters import FinetuneParameters
from tunesmith.reporting import Reporter

if TYPE_CHECKING:
    from tunesmith.models import ModelPackage


def load_base(
    package: ModelPackage,
    parameters: FinetuneParameters,
    *,
    dtype: torch.dtype,
    device: torch.device,
    reporter: Reporter,
) -> Any:
    """Load the weights of ``package`` onto ``device`` as ``dtype``.

    Raises:
        InvalidModel: weights are missing or of another shape, and ``ignore_mismatched_sizes`` is false.
    """
    from tunesmith.models import load_model

    quantised = parameters.quantization != "none" and device.type == "cuda"
    if not parameters.ignore_mismatched_sizes and not quantised:
        return load_model(package, dtype=dtype, device=str(device))

    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    keywords: dict[str, Any] = {}
    if quantised:
        eight = parameters.quantization == "8bit"
        keywords["quantization_config"] = BitsAndBytesConfig(
            load_in_8bit=eight,
            load_in_4bit=not eight,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
        keywords["device_map"] = {"": device}
    model, loaded = AutoModelForCausalLM.from_pretrained(
        str(package.path),
        dtype=dtype,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=parameters.ignore_mismatched_sizes,
        **keywords,
    )
    mismatched = sorted(str(key) for key in loaded["mismatched_keys"])
    if mismatched:
        reporter.notice(
            "SizesMismatched",
            f"{len(mismatched)} weights have another shape than the model and start afresh: " + ", ".join(mismatched),
            count=len(mismatched),
        )
    return model if quantised else model.to(device)
