"""Reordered weights multiply as plain ones do."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tests.generate.conftest import Packages
from tunesmith.generate.engines import linear
from tunesmith.generate.engines.linear import PackedLinear, pack_linears, seconds_per_product
from tunesmith.generate.precision import choose_precision


class Model(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(64, 128, dtype=dtype)
        self.inner = nn.ModuleDict({"second": nn.Linear(128, 32, bias=False, dtype=dtype)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.inner["second"](self.first(x))
        return out


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("shape", [(1, 64), (8, 64), (1, 300, 64)])
def test_the_product_is_the_same(dtype: torch.dtype, tolerance: float, shape: tuple[int, ...]) -> None:
    if not linear._available(torch.zeros(1, dtype=dtype)):
        pytest.skip("this build of torch has no oneDNN products of this type")
    for bias in (True, False):
        plain = nn.Linear(64, 96, bias=bias, dtype=dtype)
        x = torch.randn(shape).to(dtype)
        with torch.inference_mode():
            assert torch.allclose(PackedLinear(plain)(x), plain(x), atol=tolerance, rtol=tolerance)


def test_only_shapes_that_gain_are_reordered() -> None:
    times = {64: [(2.0, 1.0), (4.0, 3.0)], 128: [(1.0, 0.9), (2.0, 2.2)]}

    def timed(weights: list[torch.Tensor], rows: int) -> tuple[float, float]:
        return times[weights[0].shape[1]][linear.ROWS.index(rows)]

    model = Model(torch.float32)
    before = copy.deepcopy(model)
    done = pack_linears(model, timed)
    assert (done.layers, done.of, done.seconds_saved) == (1, 2, 1.0)
    assert isinstance(model.first, PackedLinear)
    assert type(model.inner["second"]) is nn.Linear
    x = torch.randn(3, 64)
    with torch.inference_mode():
        assert torch.allclose(model(x), before(x), atol=1e-5)


def test_types_without_such_products_stay_plain() -> None:
    model = Model(torch.float16)
    assert pack_linears(model).layers == 0
    plain, packed = seconds_per_product([torch.randn(8, 8, dtype=torch.float64)], 2)
    assert 0 < plain < packed == float("inf")


def test_precision_says_why(packages: Packages) -> None:
    package = packages("llama")
    chosen, reason = choose_precision(package, "auto", "cpu")
    assert chosen in {"32", "bf16"}
    assert "measured on this machine" in reason
    assert choose_precision(package, "bf16", "cpu") == ("bf16", "asked for")
    assert choose_precision(package, "auto", "cuda:0") == ("bf16", "the model runs on cuda:0")
