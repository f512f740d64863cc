"""Which arithmetic the products use, decided by measuring and not by the processor's flags.

A processor may list bf16 instructions and still be quicker in fp32: the flag says that the instruction is there, not
how many of them finish in a cycle. So ``auto`` multiplies at the model's own shapes, in both, and takes bf16 when it
is clearly quicker.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from tunesmith.reporting import NullReporter, Reporter

CLEARLY = 1.15
"""bf16 is taken when its rate is this many times fp32's."""
_PROBE_ROWS = 1024
_PROBE_SECONDS = 0.15


@dataclass(frozen=True, slots=True)
class Precision:
    """What was asked, what is used, and the measured rates in FLOP/s (empty when nothing was measured)."""

    asked: str
    used: str
    """float32 or bfloat16."""
    rates: dict[str, float]

    @property
    def dtype(self) -> torch.dtype:
        """Of frozen weights and of what flows between layers."""
        return torch.bfloat16 if self.used == "bfloat16" else torch.float32


def matmul_rate(dtype: torch.dtype, rows: int, width: int, outputs: int, *, seconds: float = _PROBE_SECONDS) -> float:
    """FLOP/s of ``[rows, width] x [width, outputs]`` in ``dtype``: the best repeat within ``seconds``."""
    # A generator of its own: measuring must not move the run's random numbers.
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, width, generator=generator).to(dtype)
    weight = torch.randn(outputs, width, generator=generator).to(dtype)
    torch.nn.functional.linear(x, weight)
    best, started = float("inf"), time.perf_counter()
    while time.perf_counter() - started < seconds or best == float("inf"):
        before = time.perf_counter()
        torch.nn.functional.linear(x, weight)
        best = min(best, time.perf_counter() - before)
    return 2.0 * rows * width * outputs / best


def training_rate(asked: str, *, width: int, outputs: int) -> tuple[str, float]:
    """What the ``precision`` input becomes here (float32 or bfloat16), and the measured FLOP/s of its products.

    On a GPU nothing is measured: the rate is 0.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = choose_precision(asked, device=device, width=width, outputs=outputs, reporter=NullReporter())
    if device.type != "cpu":
        return precision.used, 0.0
    return precision.used, precision.rates.get(precision.used) or matmul_rate(
        precision.dtype, _PROBE_ROWS, width, outputs
    )


def choose_precision(asked: str, *, device: torch.device, width: int, outputs: int, reporter: Reporter) -> Precision:
    """Resolve the ``precision`` input for a model of hidden ``width`` and MLP ``outputs`` on ``device``."""
    if device.type == "cuda":
        has = torch.cuda.is_bf16_supported()
        if asked in ("16", "bf16", "auto") and not has:
            reporter.notice("Precision32", f"precision {asked}: this GPU has no bf16, so 32 bits are used")
        return Precision(asked, "bfloat16" if has and asked != "32" else "float32", {})
    if asked == "16":
        reporter.notice(
            "PrecisionBf16",
            "precision 16: half precision needs a GPU; bf16 is used, which is as small and loses no range",
        )
    if asked != "auto":
        return Precision(asked, "float32" if asked == "32" else "bfloat16", {})
    rates = {
        name: matmul_rate(dtype, _PROBE_ROWS, width, outputs)
        for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16))
    }
    used = "bfloat16" if rates["bfloat16"] >= CLEARLY * rates["float32"] else "float32"
    reporter.log(
        f"precision auto: {used} (measured at the model's shapes: float32 {rates['float32'] / 1e9:.0f} GFLOP/s, "
        f"bfloat16 {rates['bfloat16'] / 1e9:.0f} GFLOP/s)"
    )
    return Precision(asked, used, rates)
