"""From a package to a transformers model in memory. Never asks the network and never runs code of the package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.errors import InvalidModel, OutOfMemory
from tunesmith.models.facts import CONFIG_FILE, read_config, require_native
from tunesmith.models.package import ModelPackage
from tunesmith.models.weights import read_tensors

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
    return load_folder(
        package.path,
        dtype=package.manifest.dtype if dtype == "auto" else dtype,
        device=device,
        attention=attention,
        tied=package.manifest.tied_embeddings,
    )


def load_folder(
    folder: Path,
    *,
    dtype: torch.dtype | str,
    device: torch.device | str = "cpu",
    attention: str | None = None,
    tied: bool = False,
) -> PreTrainedModel:
    """``load_model`` for a folder that has no manifest yet. ``tied``: the output layer is the embedding."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # the progress of loading is the reporter's to show, not the terminal's
    require_native(read_config(folder), where=folder / CONFIG_FILE)
    wanted: torch.dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    keywords = {} if attention is None else {"attn_implementation": attention}
    try:
        model, loaded = AutoModelForCausalLM.from_pretrained(
            str(folder),
            dtype=wanted,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **keywords,
        )
        missing = [key for key in loaded["missing_keys"] if not (tied and key.endswith("lm_head.weight"))]
        for what, keys in (
            ("are missing", missing),
            ("are not part of the architecture", loaded["unexpected_keys"]),
            ("have another shape", loaded["mismatched_keys"]),
        ):
            if keys:
                raise InvalidModel(
                    f"{len(keys)} tensors {what}: {', '.join(sorted(map(str, keys))[:3])}",
                    target=str(folder),
                    way_out="import the model again with the config.json that was published with its weights",
                )
        return model.to(device).eval()
    except (MemoryError, torch.OutOfMemoryError) as error:
        needed = sum(tensor.elements for tensor in read_tensors(folder).values()) * wanted.itemsize
        raise OutOfMemory(
            f"the weights need {needed / 1e9:.1f} GB of memory as {str(wanted).removeprefix('torch.')}",
            target=str(folder),
            way_out="use a smaller model or a smaller dtype (bfloat16), or a machine with more memory",
        ) from error
