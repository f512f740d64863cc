"""The loss against a slow, obvious loop."""

from __future__ import annotations

import math

import numpy
import pytest
import torch

from tests.evaluate.conftest import Packages, PreparedFor
from tests.support.tiny import Family
from tunesmith.chat.prepared import Prepared
from tunesmith.errors import InvalidData, NonFiniteLoss
from tunesmith.evaluate import evaluate_loss
from tunesmith.models import load_model


def slow(model: torch.nn.Module, prepared: Prepared, end_of_turn: int) -> tuple[float, int, float, float]:
    """Row by row, in float64: loss, trained tokens, accuracy, accuracy at ends of turns."""
    total, hits, ends, end_hits, count = 0.0, 0, 0, 0, 0
    for row in range(prepared.rows):
        ids, trained = prepared.row(row)
        with torch.no_grad():
            logits = model(torch.tensor(ids.astype(numpy.int64))[None]).logits[0].double()
        logprobs = torch.log_softmax(logits, -1)
        for place in range(1, len(ids)):
            if trained[place]:
                token = int(ids[place])
                hit = int(logits[place - 1].argmax()) == token
                total -= float(logprobs[place - 1, token])
                count += 1
                hits += hit
                if token == end_of_turn:
                    ends += 1
                    end_hits += hit
    return total / count, count, hits / count, end_hits / ends


@pytest.mark.parametrize("family", ["phi3", "llama", "qwen2"])
def test_loss_is_that_of_a_slow_loop(family: Family, packages: Packages, prepared_for: PreparedFor) -> None:
    package, prepared = packages(family), prepared_for(family)
    end = package.tokenizer().end_of_turn_id
    loss, count, accuracy, end_accuracy = slow(load_model(package, dtype="float32"), prepared, end)
    for batch_tokens in (1, 100, 4096):
        found = evaluate_loss(package, prepared, batch_tokens=batch_tokens)
        assert found.loss == pytest.approx(loss, rel=1e-6)
        assert found.perplexity == pytest.approx(math.exp(loss), rel=1e-6)
        assert found.trained_tokens == count == int(prepared.trained_counts().sum())
        assert found.accuracy == pytest.approx(accuracy)
        assert found.end_of_turn_accuracy == pytest.approx(end_accuracy)
        assert (found.rows, found.tokens) == (prepared.rows, int(prepared.lengths.sum()))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_a_model_in_memory_with_an_unmerged_adapter(packages: Packages, prepared_for: PreparedFor) -> None:
    from peft import LoraConfig, get_peft_model

    package, prepared = packages("llama"), prepared_for("llama")
    base = load_model(package, dtype="float32")
    torch.manual_seed(0)
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    before = base.config._attn_implementation
    found = evaluate_loss(model, prepared)
    assert base.config._attn_implementation == before
    assert found.loss == pytest.approx(slow(model.eval(), prepared, package.tokenizer().end_of_turn_id)[0], rel=1e-6)
    assert found.loss != pytest.approx(evaluate_loss(package, prepared).loss, rel=1e-4)


def test_weights_that_are_not_numbers_name_the_rows(packages: Packages, prepared_for: PreparedFor) -> None:
    model = load_model(packages("llama"), dtype="float32")
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    with pytest.raises(NonFiniteLoss, match="rows"):
        evaluate_loss(model, prepared_for("llama"))


def test_no_rows_is_an_error(packages: Packages) -> None:
    class Nothing:
        lengths = numpy.zeros(0, numpy.int32)

        def row(self, index: int) -> tuple[list[int], list[bool]]:
            raise IndexError(index)

    with pytest.raises(InvalidData, match="no rows"):
        evaluate_loss(packages("llama"), Nothing())
