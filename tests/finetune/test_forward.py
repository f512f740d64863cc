"""Packed rows give what the rows give alone, whatever the architecture, the attention and the precision."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.finetune.support import FAMILIES, Heard, random_model, random_rows, with_adapters
from tunesmith.finetune.batches import Document, assemble, read_document
from tunesmith.finetune.fast import Tricks
from tunesmith.finetune.forward import ChatForward
from tunesmith.finetune.run import checkpoint_activations

ROWS = random_rows(5, seed=3, shortest=8, longest=150)
DOCUMENTS = [read_document(ROWS, row) for row in range(5)]
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2}


def _alone(model: Any, documents: list[Document]) -> tuple[float, dict[str, Tensor]]:
    """The obvious way: each row by itself through the whole model, labels picked from all logits."""
    total = torch.zeros(())
    for document in documents:
        logits = model(input_ids=torch.from_numpy(document.ids)[None], use_cache=False).logits[0].float()
        picked = logits[torch.from_numpy(document.labels_at)]
        total = total + torch.nn.functional.cross_entropy(picked, torch.from_numpy(document.labels), reduction="sum")
    total.backward()  # type: ignore[no-untyped-call]
    return total.item(), _gradients(model)


def _gradients(model: Any) -> dict[str, Tensor]:
    return {
        name.replace(".base.", "."): weight.grad.float().clone()
        for name, weight in model.named_parameters()
        if weight.grad is not None
    }


def _furthest(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    assert ours.keys() == theirs.keys() != set()
    return max(float((ours[name] - theirs[name]).norm() / theirs[name].norm().clamp(min=1e-12)) for name in ours)


@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_equals_alone(family: str, lora: bool) -> None:
    def model() -> Any:
        made = random_model(family)
        return with_adapters(made) if lora else made

    loss, gradients = _alone(model(), DOCUMENTS)
    batch = assemble(DOCUMENTS)
    for attention, tricks in (
        ("documents", Tricks()),
        ("documents", Tricks.none()),
        ("sdpa", None),
        ("eager", None),
    ):
        forward = ChatForward(model(), wanted=attention, tricks=tricks)
        assert forward.path == attention
        summed = forward.loss(batch)
        summed.backward()  # type: ignore[no-untyped-call]
        assert summed.item() == pytest.approx(loss, rel=1e-5), (attention, tricks)
        assert _furthest(_gradients(forward.model), gradients) < 2e-4, (attention, tricks)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("attention", ["documents", "sdpa", "eager"])
@pytest.mark.parametrize("family", ["llama", "phi3"])
@torch.no_grad()
def test_packed_logits_equal_those_alone(family: str, attention: str, dtype: torch.dtype) -> None:
    model = with_adapters(random_model(family, dtype=dtype))
    alone = [model(input_ids=torch.from_numpy(document.ids)[None], use_cache=False).logits[0] for document in DOCUMENTS]
    forward = ChatForward(with_adapters(random_model(family, dtype=dtype)), wanted=attention)
    batch = assemble(DOCUMENTS)
    keywords = {"documents": batch.documents} if attention == "documents" else {}
    hidden = forward.model.base_model(
        input_ids=batch.ids[None], position_ids=batch.positions[None], use_cache=False, **keywords
    ).last_hidden_state[0]
    logits = torch.nn.functional.linear(hidden, forward.head().weight)
    torch.testing.assert_close(logits, torch.cat(alone), rtol=TOLERANCE[dtype], atol=10 * TOLERANCE[dtype])


@pytest.mark.parametrize("family", ["llama", "phi3"])
@pytest.mark.parametrize("attention", ["documents", "sdpa", "eager"])
def test_packed_equals_alone_in_bf16(family: str, attention: str) -> None:
    loss, gradients = _alone(with_adapters(random_model(family, dtype=torch.bfloat16)), DOCUMENTS)
    forward = ChatForward(with_adapters(random_model(family, dtype=torch.bfloat16)), wanted=attention)
    summed = forward.loss(assemble(DOCUMENTS))
    summed.backward()  # type: ignore[no-untyped-call]
    assert summed.item() == pytest.approx(loss, rel=1e-2)
    assert _furthest(_gradients(forward.model), gradients) < 0.15


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("attention", ["documents", "sdpa", "eager"])
def test_no_token_reaches_another_conversation(family: str, attention: str) -> None:
    forward = ChatForward(with_adapters(random_model(family)), wanted=attention)
    batch = assemble(DOCUMENTS[:3])
    seen: list[Tensor] = []

    def keep(module: Any, args: Any, output: Tensor) -> Tensor:
        leaf = output.detach().requires_grad_()
        seen.append(leaf)
        return leaf

    forward.model.get_input_embeddings().register_forward_hook(keep)
    # The loss of the middle conversation alone.
    middle = (batch.label_positions >= batch.documents[1]) & (batch.label_positions < batch.documents[2])
    only = assemble(DOCUMENTS[:3])
    object.__setattr__(only, "label_positions", batch.label_positions[middle])
    object.__setattr__(only, "labels", batch.labels[middle])
    forward.loss(only).backward()  # type: ignore[no-untyped-call]
    reached = seen[0].grad
    assert reached is not None
    reached = reached[0].abs().sum(-1)
    start, end = batch.documents[1], batch.documents[2]
    assert reached[start:end].max() > 0
    assert reached[:start].max() == 0
    assert reached[end:].max() == 0


TRICKS = [field.name for field in dataclasses.fields(Tricks) if field.name != "allocator"]


@pytest.mark.parametrize("trick", TRICKS)
@pytest.mark.parametrize("family", ["llama", "phi3", "gemma3"])
def test_each_trick_alone_changes_nothing(family: str, trick: str) -> None:
    batch = assemble(DOCUMENTS)
    results = []
    # A layer is made of the functions of the others.
    also = TRICKS if trick == "layer" else (trick, "attention")
    for tricks in (Tricks.none(), Tricks(**{name: name in also for name in (*TRICKS, "allocator")})):
        forward = ChatForward(with_adapters(random_model(family)), tricks=tricks)
        loss = forward.loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        results.append((loss.item(), _gradients(forward.model)))
    assert results[1][0] == pytest.approx(results[0][0], rel=1e-6)
    assert _furthest(results[1][1], results[0][1]) < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_every_module_of_a_tested_family_takes_its_trick(family: str) -> None:
    forward = ChatForward(with_adapters(random_model(family)))
    assert forward.took["attention"] == forward.took["mlp"] == 2
    assert forward.took["norm"] >= 5
    # Gemma's layers have a norm after each half, too, and stay as they are.
    assert forward.took["layer"] == (0 if family == "gemma3" else 2)


def test_a_long_conversation_recomputes_its_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    from tunesmith.finetune.fast import rotary_attention

    kept = ChatForward(with_adapters(random_model("llama")))
    kept.loss(assemble(DOCUMENTS)).backward()  # type: ignore[no-untyped-call]
    monkeypatch.setattr(rotary_attention, "KEPT_WEIGHTS", 70)
    again = ChatForward(with_adapters(random_model("llama")))
    again.loss(assemble(DOCUMENTS)).backward()  # type: ignore[no-untyped-call]
    assert _furthest(_gradients(again.model), _gradients(kept.model)) == 0


def test_gradient_checkpointing_changes_no_bit() -> None:
    results = []
    for checkpointing in (False, True):
        model = with_adapters(random_model("llama"))
        if checkpointing:
            checkpoint_activations(model)
        forward = ChatForward(model)
        model.train()
        forward.loss(assemble(DOCUMENTS)).backward()  # type: ignore[no-untyped-call]
        results.append(_gradients(model))
    assert _furthest(results[1], results[0]) == 0


@pytest.mark.parametrize("family", ["granite", "gemma2"])
def test_an_unknown_architecture_takes_the_plain_path_and_says_so(family: str) -> None:
    heard = Heard()
    loss, gradients = _alone(random_model(family), DOCUMENTS)
    forward = ChatForward(random_model(family), reporter=heard)
    summed = forward.loss(assemble(DOCUMENTS))
    summed.backward()  # type: ignore[no-untyped-call]
    assert forward.path == "plain"
    assert [code for code, _ in heard.notices] == ["PlainPath"]
    assert summed.item() == pytest.approx(loss, rel=1e-5)
    assert _furthest(_gradients(forward.model), gradients) < 1e-3


def test_padding_changes_nothing() -> None:
    forward = ChatForward(with_adapters(random_model("llama")))
    plain = forward.loss(assemble(DOCUMENTS)).item()
    assert forward.loss(assemble(DOCUMENTS, pad_each_to=160, pad_id=0)).item() == pytest.approx(plain, rel=1e-6)


def test_prediction_agrees_with_the_loss() -> None:
    forward = ChatForward(random_model("qwen2"))
    batch = assemble(DOCUMENTS)
    predicted = forward.predict(batch)
    assert predicted.loss == pytest.approx(forward.loss(batch).item(), rel=1e-6)
    assert len(predicted.tokens) == batch.trained


def test_noise_on_the_embeddings_only_while_training() -> None:
    forward = ChatForward(random_model("llama"), neftune_noise_alpha=5.0)
    batch = assemble(DOCUMENTS)
    quiet = forward.loss(batch).item()
    assert forward.loss(batch).item() == quiet
    forward.model.train()
    torch.manual_seed(0)
    first = forward.loss(batch).item()
    torch.manual_seed(0)
    assert forward.loss(batch).item() == first != quiet
