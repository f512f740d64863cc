from __future__ import annotations

import pytest
import torch

from tests.finetune.support import Heard
from tunesmith.finetune import precision
from tunesmith.finetune.precision import choose_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(("bf16", "used"), [(2e11, "bfloat16"), (1.1e11, "float32"), (5e10, "float32")])
def test_auto_takes_what_was_measured(bf16: float, used: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rates = {torch.float32: 1e11, torch.bfloat16: bf16}
    monkeypatch.setattr(precision, "matmul_rate", lambda dtype, *shape: rates[dtype])
    chosen = choose_precision("auto", device=CPU, width=64, outputs=128, reporter=Heard())
    assert chosen.used == used
    assert chosen.rates == {"float32": 1e11, "bfloat16": bf16}


@pytest.mark.parametrize(("asked", "used"), [("32", "float32"), ("bf16", "bfloat16"), ("16", "bfloat16")])
def test_what_is_asked_is_had(asked: str, used: str) -> None:
    heard = Heard()
    chosen = choose_precision(asked, device=CPU, width=64, outputs=128, reporter=heard)
    assert (chosen.asked, chosen.used, chosen.rates) == (asked, used, {})
    assert [code for code, _ in heard.notices] == (["PrecisionBf16"] if asked == "16" else [])


def test_measuring_moves_no_random_number() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    assert precision.matmul_rate(torch.float32, 8, 8, 8, seconds=0.001) > 0
    assert torch.equal(torch.rand(2), expected)
