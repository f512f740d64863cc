"""The engine for processors without a GPU: OpenVINO's kernels and paged attention under our own continuous batching.

Sampling, constraints, stop strings and the loop are those of the transformers engine, so every field means the same.
It loads neither torch nor transformers.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil

from tunesmith.errors import UnsupportedField
from tunesmith.generate.engines.base import BatchedEngine
from tunesmith.generate.engines.exports import INT8, find_or_export
from tunesmith.generate.engines.jobs import Limits
from tunesmith.generate.engines.lora import AdapterStack, read_adapters
from tunesmith.generate.engines.openvino_import import ov
from tunesmith.generate.engines.openvino_model import PagedModel
from tunesmith.generate.engines.openvino_runner import OpenVinoRunner
from tunesmith.generate.types import EngineDescription
from tunesmith.models.weights import read_tensors

if TYPE_CHECKING:
    from tunesmith.chat.tokens import ChatTokenizer
    from tunesmith.models.package import ModelPackage

CLEARLY = 0.85
"""bf16 is taken when it needs less than this share of float32's time."""


class OpenVinoEngine(BatchedEngine):
    """Serves one exported model, with its adapters. Made by ``open_engine``."""

    def __init__(
        self,
        model: PagedModel,
        tokenizer: ChatTokenizer,
        description: EngineDescription,
        limits: Limits,
        adapters: Collection[str],
    ) -> None:
        self._model = model
        super().__init__(OpenVinoRunner(model), tokenizer, description, limits, adapters)

    def close(self) -> None:
        """Stop and free the model."""
        super().close()
        self._model.close()


def open_openvino(
    package: ModelPackage,
    *,
    precision: str,
    threads: int | None,
    max_answers: int,
    cache_bytes: int | None,
    cache_share: float,
    exports: Path,
    adapters: Mapping[str, Path],
    reason: str,
) -> OpenVinoEngine:
    """Export ``package`` unless that was done, and load it.

    Raises ``InvalidModel`` for an architecture or an adapter that cannot be served so, ``UnsupportedField`` for a
    precision the processor does not have.
    """
    threads = threads or default_threads()
    stack = _read(package, adapters) if adapters else None
    chosen, why = _choose(package, precision, threads)
    form = INT8 if chosen == "8" else package.manifest.dtype
    export = find_or_export(package, form, exports)
    began = time.perf_counter()
    model = PagedModel(export.path, precision=chosen, threads=threads, adapters=stack)
    if cache_bytes is None:
        cache_bytes = int(cache_share * psutil.virtual_memory().available)
    longest = -(-package.manifest.context_length // model.block_tokens) * max_answers
    model.grow(max(1, min(cache_bytes // model.block_bytes, longest)))
    description = EngineDescription(
        engine="openvino",
        precision=chosen,
        reason=f"{reason}; {why}" if reason else why,
        threads=threads,
        context_length=package.manifest.context_length,
        details={
            "device": "cpu",
            "openvino": ov.get_version(),
            "max_answers": max_answers,
            "cache_limit_bytes": cache_bytes,
            "export": {"key": export.key, "reused": export.reused, "seconds": export.seconds},
            "load_seconds": round(time.perf_counter() - began, 3),
            "quality": export.quality.get(chosen, {}),
            "adapters": list(adapters),
        },
    )
    limits = Limits(max_answers=max_answers, cache_bytes=cache_bytes, context_length=package.manifest.context_length)
    return OpenVinoEngine(model, package.tokenizer(), description, limits, adapters)


def default_threads() -> int:
    """Cores this process may use; fewer where ``OMP_NUM_THREADS`` says so, as torch reads it."""
    cores = len(os.sched_getaffinity(0))
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(asked)) if asked.isdigit() and int(asked) > 0 else cores


def has_bf16() -> bool:
    """Whether the processor multiplies bf16 itself."""
    return "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _read(package: ModelPackage, adapters: Mapping[str, Path]) -> AdapterStack:
    shapes = {
        name.removesuffix(".weight"): (tensor.shape[1], tensor.shape[0])
        for name, tensor in read_tensors(package.path).items()
        if name.endswith(".weight") and len(tensor.shape) == 2
    }
    return read_adapters(adapters, shapes)


def _choose(package: ModelPackage, precision: str, threads: int) -> tuple[str, str]:
    """The precision, and why."""
    if precision == "auto":
        if not has_bf16():
            return "32", "the processor has no bf16 products"
        full, half = (seconds_per_token(package, kind, threads) for kind in ("f32", "bf16"))
        times = (
            f"measured on this machine: a token takes {1e3 * full:.2f} ms in float32 and {1e3 * half:.2f} ms in bf16"
        )
        return ("bf16", times) if half < CLEARLY * full else ("32", times)
    if precision == "16":
        raise UnsupportedField(
            "the openvino engine does not compute in 16 bits of IEEE (16)",
            target="precision",
            way_out="32, bf16 where the processor has it, or 8 for int8 weights",
        )
    if precision == "bf16" and not has_bf16():
        raise UnsupportedField(
            "this processor has no bf16 products, and emulating them is slower than float32",
            target="precision",
            way_out="32, or 8 for int8 weights; the transformers engine emulates bf16",
        )
    return precision, "asked for"


def seconds_per_token(package: ModelPackage, kind: str, threads: int) -> float:
    """Time of a layer's widest product for eight answers at once, scaled to all parameters."""
    opset = ov.opset13
    hidden, inner = package.manifest.hidden_size, package.manifest.intermediate_size
    rows = opset.parameter([8, hidden], np.float32)
    found = rows
    generator = np.random.default_rng(0)
    for _ in range(2):
        wide = opset.constant(generator.standard_normal((inner, hidden), np.float32))
        narrow = opset.constant(generator.standard_normal((hidden, inner), np.float32))
        found = opset.matmul(opset.matmul(found, wide, False, True), narrow, False, True)
    compiled = ov.Core().compile_model(
        ov.Model([found], [rows]),
        "CPU",
        {"INFERENCE_PRECISION_HINT": kind, "INFERENCE_NUM_THREADS": str(threads), "NUM_STREAMS": "1"},
    )
    request = compiled.create_infer_request()
    given = ov.Tensor(np.ones((8, hidden), np.float32))
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        request.infer([given])
        best = min(best, time.perf_counter() - began)
    return best * package.manifest.parameter_count / (4 * hidden * inner) / 8
