"""Which engine, in which precision, and opening it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from tunesmith.errors import Failure, InvalidModel, UnsupportedField, UserError
from tunesmith.generate.precision import Precision, choose_precision, torch_dtype
from tunesmith.generate.types import Engine, EngineDescription

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tunesmith.generate.engines.lora import AdapterStack
    from tunesmith.models.package import ModelPackage

ENGINES = ("openvino", "transformers", "vllm")
"""What ``engine=`` may name, beside ``auto``."""
PRECISIONS = (*get_args(Precision), "8")
"""What ``precision=`` may name, beside ``auto``; 8 is int8 weights."""
ENGINE_VARIABLE = "TUNESMITH_ENGINE"
"""Environment variable with the engine that ``auto`` takes."""

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
    exports: Path | None = None,
    adapters: Mapping[str, Path] | None = None,
) -> Engine:
    """Load a model package and make it answer.

    ``precision`` is auto, 32, bf16, 16 or 8; ``threads`` the cores to compute on (default: those of this process);
    ``cache_bytes`` the memory for keys and values (default: 40 % of what is free once the model is loaded);
    ``exports`` the folder that keeps exports to OpenVINO (default: ``TUNESMITH_EXPORTS``, else the user's cache
    folder); ``adapters`` LoRA adapters in PEFT's format by name, which ``GenerateRequest.adapter`` chooses. What
    ``auto`` chose is in the engine's ``description``, with the reason.

    Raises ``UserError`` for an engine or precision that is not there, ``InvalidModel`` for a package or an adapter that
    cannot be served, ``UnsupportedField`` for what this engine cannot do.
    """
    from tunesmith.models.package import ModelPackage

    if engine == "auto":
        engine = os.environ.get(ENGINE_VARIABLE) or "auto"
    if engine not in {"auto", *ENGINES}:
        raise UserError(
            f"there is no engine {engine!r} here", target="engine", way_out=f"one of: auto, {', '.join(ENGINES)}"
        )
    if precision not in {"auto", *PRECISIONS}:
        raise UserError(
            f"there is no precision {precision!r}",
            target="precision",
            way_out=f"one of: auto, {', '.join(PRECISIONS)}",
        )
    opened = package if isinstance(package, ModelPackage) else ModelPackage.open(package)
    if engine == "vllm" or (engine == "auto" and precision != "8" and device in {"auto", "cuda"} and _has_gpu()):
        from tunesmith.generate.engines.vllm_engine import open_vllm
        from tunesmith.generate.engines.vllm_server import COMMAND_VARIABLE, find_vllm

        vllm = find_vllm()
        if vllm is not None:
            reason = "asked for" if engine == "vllm" else "the engine for GPUs"
            return open_vllm(
                opened,
                vllm,
                precision=precision,
                threads=threads,
                max_answers=max_answers,
                cache_bytes=cache_bytes,
                adapters=adapters or {},
                reason=reason,
            )
        if engine == "vllm":
            raise UserError(
                "vLLM is not on this machine",
                target="engine",
                way_out=f"pip install vllm, or name its command in {COMMAND_VARIABLE}",
            )
    why_not = "" if engine == "transformers" else _why_not_openvino(precision, device, strict=engine == "openvino")
    if engine != "transformers" and not why_not:
        from tunesmith.generate.engines.exports import default_folder
        from tunesmith.generate.engines.openvino_engine import open_openvino

        try:
            return open_openvino(
                opened,
                precision=precision,
                threads=threads,
                max_answers=max_answers,
                cache_bytes=cache_bytes,
                cache_share=CACHE_SHARE,
                exports=exports or default_folder(),
                adapters=adapters or {},
                reason="" if engine == "openvino" else "the engine for processors without a GPU",
            )
        except (InvalidModel, UnsupportedField, Failure) as error:
            # An adapter is refused by both engines alike, and int8 weights can be had nowhere else.
            if engine == "openvino" or precision == "8" or (error.target or "").startswith("adapters"):
                raise
            why_not = f"the openvino engine cannot serve it: {error.message}"
    if precision == "8":
        raise UnsupportedField(
            f"int8 weights need the openvino engine: {why_not or 'the transformers engine has none'}",
            target="precision",
            way_out="32 or bf16, or --engine openvino",
        )
    return _open_transformers(
        opened, precision, threads, device, max_answers, cache_bytes, adapters=adapters or {}, why_not=why_not
    )


def _why_not_openvino(precision: str, device: str, *, strict: bool) -> str:
    """Why ``auto`` does not take the openvino engine; empty when it does. ``strict``: it was named, so say it."""
    if find_spec("openvino") is None:
        if strict:
            raise UserError("openvino is not installed", target="engine", way_out="pip install openvino")
        return "openvino is not installed"
    if strict:
        return ""
    if device not in {"auto", "cpu"} or (device == "auto" and _has_gpu()):
        return "the model runs on a GPU"
    return "16 was asked for" if precision == "16" else ""


def _has_gpu() -> bool:
    """Whether torch would find a GPU; it is not imported where there cannot be one."""
    if not any(Path(path).exists() for path in ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")):
        return False
    import torch

    return torch.cuda.is_available()


def serve_model(
    model: PreTrainedModel,
    package: ModelPackage,
    *,
    precision: str,
    reason: str,
    max_answers: int = DEFAULT_ANSWERS,
    cache_bytes: int | None = None,
    adapters: AdapterStack | None = None,
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
    return TransformersEngine(
        model,
        package.tokenizer(),
        description,
        max_answers=max_answers,
        cache_bytes=cache_bytes,
        adapters=adapters,
    )


def _open_transformers(
    package: ModelPackage,
    precision: str,
    threads: int | None,
    device: str,
    max_answers: int,
    cache_bytes: int | None,
    *,
    adapters: Mapping[str, Path],
    why_not: str,
) -> Engine:
    import torch

    from tunesmith.generate.engines.lora import read_adapters
    from tunesmith.models.loading import load_model

    if threads is not None:
        torch.set_num_threads(threads)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen, reason = choose_precision(package, precision, device)
    model = load_model(package, dtype=torch_dtype(chosen), device=device)
    stack = None
    if adapters:
        linears = {
            name: (module.in_features, module.out_features)
            for name, module in model.named_modules()
            if type(module) is torch.nn.Linear
        }
        stack = read_adapters(adapters, linears)
    return serve_model(
        model,
        package,
        precision=chosen,
        reason=f"{why_not}; {reason}" if why_not else reason,
        max_answers=max_answers,
        cache_bytes=cache_bytes,
        adapters=stack,
    )
