from __future__ import annotations

import numpy
import pytest
import torch

from tests.finetune.support import Heard, random_model, random_rows
from tunesmith.finetune.batches import Document, assemble
from tunesmith.finetune.evaluation import _Counts, better, evaluate
from tunesmith.finetune.forward import ChatForward


def _document(row: int, places: list[int], labels: list[int], length: int) -> Document:
    return Document(row, numpy.arange(length), numpy.array(places), numpy.array(labels), length)


def test_f1_and_exact_go_answer_by_answer() -> None:
    # Two answers in the first conversation, one in the second, though their positions touch in the packed row.
    micro = assemble([_document(0, [1, 2, 5], [10, 11, 12], 6), _document(1, [0, 1], [13, 14], 2)])
    counts = _Counts()
    counts.fold([(micro, torch.tensor([10, 11, 99, 14, 13]))])
    result = counts.result()
    assert result.answers == 3
    assert result.exact == pytest.approx(1 / 3)
    assert result.f1 == pytest.approx((1.0 + 0.0 + 1.0) / 3)


def test_batches_pieces_and_folds_change_nothing() -> None:
    forward = ChatForward(random_model("llama"))
    rows = random_rows(9, seed=4)
    results = [
        evaluate(forward, rows, batch_size=batch, piece_tokens=piece, fold_every=fold, reporter=Heard())
        for batch, piece, fold in ((1, None, -1), (4, None, 2), (9, 40, 1))
    ]
    first = results[0]
    assert first is not None
    for other in results[1:]:
        assert other is not None
        assert other.loss == pytest.approx(first.loss, rel=1e-6)
        assert (other.f1, other.exact, other.answers) == pytest.approx((first.f1, first.exact, first.answers))


def test_the_model_goes_back_to_training_and_a_stop_is_heard() -> None:
    forward = ChatForward(random_model("llama"))
    forward.model.train()
    assert (
        evaluate(forward, random_rows(3), batch_size=1, piece_tokens=None, reporter=Heard(), stop=lambda: True) is None
    )
    assert forward.model.training


def test_what_is_better() -> None:
    assert better("loss", 1.0, None)
    assert better("loss", 0.9, 1.0)
    assert not better("loss", 0.95, 1.0, threshold=0.1)
    assert better("f1", 0.6, 0.5)
    assert not better("exact", 0.5, 0.5)
