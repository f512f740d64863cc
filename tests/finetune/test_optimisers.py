from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from tunesmith.finetune.optimisers import Optimiser, decays
from tunesmith.finetune.parameters import FinetuneParameters


def _model(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 2)).to(dtype)


def test_what_decays() -> None:
    matrix, vector = torch.zeros(2, 2), torch.zeros(2)
    assert decays("layers.0.q_proj.weight", matrix)
    assert not decays("layers.0.input_layernorm.weight", vector)
    assert not decays("layers.0.q_proj.bias", vector)
    assert not decays("layers.0.q_proj.magnitude", vector)


def test_adamw_equals_torchs_with_decay_on_matrices_only() -> None:
    ours, theirs = _model(), _model()
    parameters = FinetuneParameters(learning_rate=0.1, weight_decay=0.3, adam_beta1=0.8, max_grad_norm=0)
    optimiser = Optimiser(ours.named_parameters(), parameters)
    matrices = [weight for weight in theirs.parameters() if weight.ndim == 2]
    vectors = [weight for weight in theirs.parameters() if weight.ndim == 1]
    reference = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.3}, {"params": vectors, "weight_decay": 0.0}],
        lr=0.05,
        betas=(0.8, 0.999),
    )
    x = torch.randn(4, 6)
    for _ in range(3):
        ours(x).square().sum().backward()
        optimiser.clip()
        assert optimiser.step(0.5) == 0.05
        reference.zero_grad()
        theirs(x).square().sum().backward()
        reference.step()
    for got, wanted in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(got, wanted)


def test_clipping_gives_the_length_before_and_shortens() -> None:
    weight = nn.Parameter(torch.zeros(2, 2))
    optimiser = Optimiser([("w", weight)], FinetuneParameters(max_grad_norm=1.0))
    weight.grad = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    assert optimiser.clip() == pytest.approx(5.0)
    assert weight.grad.norm().item() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("optim", ["adamw_torch", "adafactor"])
def test_restored_state_goes_on_bit_for_bit(optim: str) -> None:
    parameters = FinetuneParameters(optim=optim, learning_rate=0.01)
    x = torch.randn(4, 6)

    def advance(model: nn.Module, optimiser: Optimiser) -> None:
        model(x).square().sum().backward()
        optimiser.clip()
        optimiser.step(1.0)

    straight = _model()
    optimiser = Optimiser(straight.named_parameters(), parameters)
    advance(straight, optimiser)
    state = deepcopy(optimiser.state())
    resumed = _model()
    other = Optimiser(resumed.named_parameters(), parameters)
    other.restore(state)
    advance(straight, optimiser)
    advance(resumed, other)
    for got, wanted in zip(resumed.parameters(), straight.parameters(), strict=True):
        assert torch.equal(got, wanted)


def test_bf16_weights_are_updated_through_an_fp32_copy() -> None:
    model = _model(torch.bfloat16)
    weight = next(model.parameters())
    start = weight.detach().clone()
    optimiser = Optimiser(model.named_parameters(), FinetuneParameters(learning_rate=1e-5))
    for _ in range(200):  # each update is far below a bf16 weight's last bit
        weight.sum().backward()  # type: ignore[no-untyped-call]
        optimiser.clip()
        optimiser.step(1.0)
    assert optimiser.masters[0].dtype == torch.float32
    assert not torch.equal(weight, start)
    moved = (start.float() - optimiser.masters[0]).mean().item()
    assert moved == pytest.approx(200 * 1e-5, rel=0.01)
