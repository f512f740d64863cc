from __future__ import annotations

import pytest
import torch

from tunesmith.finetune import loss as module
from tunesmith.finetune.loss import Head, predictions, summed_cross_entropy


@pytest.mark.parametrize(("softcap", "divisor", "bias"), [(None, 1.0, False), (5.0, 1.0, True), (None, 4.0, False)])
def test_equals_torch_with_gradients(
    softcap: float | None, divisor: float, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 16 * 30)  # three chunks, the last one short
    torch.manual_seed(0)
    hidden = torch.randn(37, 12, requires_grad=True)
    weight = torch.randn(30, 12, requires_grad=True)
    offset = torch.randn(30, requires_grad=True) if bias else None
    labels = torch.randint(0, 30, (37,))
    inputs = [tensor for tensor in (hidden, weight, offset) if tensor is not None]

    ours = summed_cross_entropy(hidden, labels, Head(weight, offset, softcap, divisor))
    grads = torch.autograd.grad(ours * 0.5, inputs)
    logits = torch.nn.functional.linear(hidden, weight, offset) / divisor
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    theirs = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
    expected = torch.autograd.grad(theirs * 0.5, inputs)

    torch.testing.assert_close(ours, theirs)
    for got, wanted in zip(grads, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    total, best = predictions(hidden, labels, Head(weight, offset, softcap, divisor))
    torch.testing.assert_close(total, theirs.detach())
    assert torch.equal(best, logits.argmax(-1))


def test_an_impossible_label_costs_much_and_stays_finite() -> None:
    hidden = torch.full((1, 2), 100.0)
    weight = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    assert summed_cross_entropy(hidden, torch.tensor([1]), Head(weight)).item() == 400.0


def test_bf16_weights_give_a_bf16_gradient() -> None:
    torch.manual_seed(0)
    hidden = torch.randn(5, 8).bfloat16().requires_grad_()
    weight = torch.randn(20, 8).bfloat16()
    labels = torch.randint(0, 20, (5,))
    loss = summed_cross_entropy(hidden, labels, Head(weight))
    (grad,) = torch.autograd.grad(loss, [hidden])
    expected = torch.nn.functional.cross_entropy(hidden.float() @ weight.float().t(), labels, reduction="sum")
    assert loss.dtype == torch.float32
    assert grad.dtype == torch.bfloat16
    assert loss.item() == pytest.approx(expected.item(), rel=1e-2)
