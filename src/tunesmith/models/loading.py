"""From a package to a transformers model in memory. Never asks the network and never runs code of the package."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunesmith.errors import InvalidModel, OutOfMemory
from tunesmith.models.facts import CONFIG_FILE, require_native
from tunesmith.models.package import ModelPackage

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def load_model(
    package: ModelPackage,
    *,
    dtype: torch.dtype | str = "auto",
    device: torch.device | str = "cpu",
    attention: str | None = None,
) -> PreTrainedModel:
    """The model of a package, in evaluation mode.

    ``dtype`` is a torch dtype or its name (``"bfloat16"``); ``"auto"`` takes the one the weights are stored in.
    ``attention`` is transformers' ``attn_implementation``; ``None`` lets transformers choose. Raises ``InvalidModel``
    when weights are missing, left over or of another shape than the configuration says, and ``OutOfMemory``.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # the progress of loading is the reporter's to show, not the terminal's
    require_native(package.config(), where=package.path / CONFIG_FILE)
    wanted = getattr(torch, package.manifest.dtype if dtype == "auto" else dtype) if isinstance(dtype, str) else dtype
    keywords = {} if attention is None else {"attn_implementation": attention}
    try:
        model, loaded = AutoModelForCausalLM.from_pretrained(
            str(package.path),
            dtype=wanted,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **keywords,
        )
        faults = {
            "are missing": [
                key
                for key in loaded["missing_keys"]
                if not key.endswith("lm_head.weight") or not package.manifest.tied_embeddings
            ],
            "are not part of the architecture": loaded["unexpected_keys"],
            "have another shape": loaded["mismatched_keys"],
        }
        for what, keys in faults.items():
            if keys:
                shown = ", ".join(str(key) for key in sorted(keys)[:3])
                raise InvalidModel(
                    f"{len(keys)} tensors {what}: {shown}",
                    target=str(package.path),
                    way_out="import the model again with the config.json that was published with its weights",
                )
        return model.to(device).eval()
    except (MemoryError, torch.OutOfMemoryError) as error:
        needed = package.manifest.parameter_count * wanted.itemsize
        raise OutOfMemory(
            f"the weights of {package.manifest.name} need {needed / 1e9:.1f} GB as "
            f"{str(wanted).removeprefix('torch.')}",
            target=str(package.path),
            way_out="use a smaller model or a smaller dtype (bfloat16), or a machine with more memory",
        ) from error
