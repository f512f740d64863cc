"""Which number format to hold a model's weights in: measured, and said.

bf16 halves the memory that every token has to read, yet on processors without fast bf16 products it is slower than
float32. So the shapes of the model at hand are timed in both before it is loaded (a tenth of a second), once as
decoding uses them and once as reading a prompt does. float32 gives the reference text, so bf16 must win clearly to be
taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from tunesmith.errors import OutOfMemory

if TYPE_CHECKING:
    import torch

    from tunesmith.models.package import ModelPackage

Precision = Literal["32", "bf16", "16"]

CLEARLY = 0.85
"""bf16 is taken when it needs less than this share of float32's time."""
SAMPLE_BYTES = 64_000_000
MEMORY_SHARE = 0.8
"""Of the free memory, what weights may take."""


def torch_dtype(precision: str) -> torch.dtype:
    """Torch's type for a precision."""
    import torch

    return {"32": torch.float32, "bf16": torch.bfloat16, "16": torch.float16}[precision]


def choose_precision(package: ModelPackage, precision: str, device: str) -> tuple[str, str]:
    """The precision to use and the reason, for ``auto`` or a given one.

    Raises ``OutOfMemory`` when the weights do not fit in any.
    """
    import psutil

    if precision != "auto":
        return precision, "asked for"
    if device != "cpu":
        return "bf16", f"the model runs on {device}"
    count = package.manifest.parameter_count
    room = int(psutil.virtual_memory().available * MEMORY_SHARE)
    if 2 * count > room:
        raise OutOfMemory(
            f"{package.manifest.name} needs {2 * count / 1e9:.1f} GB in bf16 and {room / 1e9:.1f} GB can be had",
            way_out="free memory, use a smaller model, or a larger machine",
        )
    if 4 * count > room:
        return "bf16", f"float32 weights need {4 * count / 1e9:.1f} GB and {room / 1e9:.1f} GB can be had"
    full, half = _timed(package)
    times = f"measured on this machine: a token takes {1e3 * full:.2f} ms in float32 and {1e3 * half:.2f} ms in bf16"
    return ("bf16", times) if half < CLEARLY * full else ("32", times)


def _timed(package: ModelPackage) -> tuple[float, float]:
    """Seconds per generated token in float32 and bf16: the matrix products of all layers, for 8 answers at once, each
    of 64 tokens after a prompt of 96.
    """
    import torch

    from tunesmith.generate.engines.linear import seconds_per_product

    manifest = package.manifest
    hidden, inner = manifest.hidden_size, manifest.intermediate_size
    products = manifest.parameter_count / (hidden * inner)
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        # Weights beyond the caches, as in a real pass.
        count = max(2, min(24, SAMPLE_BYTES // (hidden * inner * dtype.itemsize)))
        weights = [torch.randn(inner, hidden).to(dtype) for _ in range(count)]
        decode = min(seconds_per_product(weights, 8))
        read = min(seconds_per_product(weights[:2], 256))
        found.append(products * (64 * decode + 3 * read) / (8 * 64))
    return found[0], found[1]
