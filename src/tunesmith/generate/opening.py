"""Which engine, in which precision, and opening it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, get_args

from tunesmith.errors import UserError
from tunesmith.generate.precision import Precision, choose_precision, torch_dtype
from tunesmith.generate.types import Engine, EngineDescription

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tunesmith.models.package import ModelPackage

ENGINES = ("transformers",)
"""What ``engine=`` may name, beside ``auto``."""

DEFAULT_ANSWERS = 32
CACHE_SHARE = 0.4
"""Share of the memory left after loading that keys and values may take."""


def open_engine(
    package: ModelPackage | Path | str,
    *,
    engine: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    device: str = "auto",
    max_answers: int = DEFAULT_ANSWERS,
    cache_bytes: int | None = None,
) -> Engine:
    """Load a model package and make it answer.

    ``precision`` is auto, 32, bf16 or 16; ``threads`` the cores to compute on (default: what torch is set to);
    ``cache_bytes`` the memory for keys and values (default: 40 % of what is free once the model is loaded).
    What ``auto`` chose is in the engine's ``description``, with the reason.

    Raises ``UserError`` for an engine or precision that is not there, ``InvalidModel`` for a package that cannot be
    served.
    """
    from tunesmith.models.package import ModelPackage

    if engine not in {"auto", *ENGINES}:
        raise UserError(
            f"there is no engine {engine!r} here", target="engine", way_out=f"one of: auto, {', '.join(ENGINES)}"
        )
    if precision not in {"auto", *get_args(Precision)}:
        raise UserError(
            f"there is no precision {precision!r}",
            target="precision",
            way_out=f"one of: auto, {', '.join(get_args(Precision))}",
        )
    opened = package if isinstance(package, ModelPackage) else ModelPackage.open(package)
    return _open_transformers(opened, precision, threads, device, max_answers, cache_bytes)


def serve_model(
    model: PreTrainedModel,
    package: ModelPackage,
    *,
    precision: str,
    reason: str,
    max_answers: int = DEFAULT_ANSWERS,
    cache_bytes: int | None = None,
) -> Engine:
    """An engine over a model that is in memory already, which becomes the engine's: closing frees it.

    ``package`` gives the chat contract and the context length.
    """
    import psutil
    import torch

    from tunesmith.generate.engines.linear import pack_linears
    from tunesmith.generate.engines.transformers_engine import TransformersEngine

    packing = pack_linears(model)
    if cache_bytes is None:
        on_gpu = model.device.type == "cuda"
        free = torch.cuda.mem_get_info()[0] if on_gpu else psutil.virtual_memory().available
        cache_bytes = int(CACHE_SHARE * free)
    description = EngineDescription(
        engine="transformers",
        precision=precision,
        reason=reason,
        threads=torch.get_num_threads(),
        context_length=package.manifest.context_length,
        details={
            "device": str(model.device),
            "max_answers": max_answers,
            "cache_limit_bytes": cache_bytes,
            "reordered_layers": f"{packing.layers} of {packing.of}",
        },
    )
    return TransformersEngine(model, package.tokenizer(), description, max_answers=max_answers, cache_bytes=cache_bytes)


def _open_transformers(
    package: ModelPackage, precision: str, threads: int | None, device: str, max_answers: int, cache_bytes: int | None
) -> Engine:
    import torch

    from tunesmith.models.loading import load_model

    if threads is not None:
        torch.set_num_threads(threads)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen, reason = choose_precision(package, precision, device)
    model = load_model(package, dtype=torch_dtype(chosen), device=device)
    return serve_model(
        model, package, precision=chosen, reason=reason, max_answers=max_answers, cache_bytes=cache_bytes
    )
