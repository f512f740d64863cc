from __future__ import annotations

from typing import Any

import numpy
import pytest

from tests.finetune.support import MemoryRows, random_rows
from tunesmith.errors import InvalidData
from tunesmith.finetune.batches import Plan, assemble, pieces, read_document
from tunesmith.finetune.parameters import FinetuneParameters

ROWS = MemoryRows(
    [
        ([11, 12, 13, 14, 15], [False, True, True, False, False]),
        ([21, 22, 23], [True, False, True]),
        ([31, 32], [False, True]),
    ]
)


def test_labels_are_the_next_trained_tokens_and_nothing_crosses_a_document() -> None:
    batch = assemble([read_document(ROWS, row) for row in range(3)])
    # Nothing after the last label's position is computed, and the last token itself is only a label.
    assert batch.ids.tolist() == [11, 12, 21, 22, 31]
    assert batch.positions.tolist() == [0, 1, 0, 1, 0]
    assert batch.documents == (0, 2, 4, 5)
    assert batch.label_positions.tolist() == [0, 1, 3, 4]
    assert batch.labels.tolist() == [12, 13, 23, 32]
    assert (batch.tokens, batch.trained, batch.rows) == (10, 4, (0, 1, 2))


def test_padding_is_documents_without_labels() -> None:
    batch = assemble([read_document(ROWS, 0), read_document(ROWS, 2)], pad_each_to=4, pad_id=9)
    assert batch.ids.tolist() == [11, 12, 9, 9, 31, 9, 9, 9]
    assert batch.documents == (0, 2, 4, 5, 8)
    assert batch.label_positions.tolist() == [0, 1, 4]


def test_a_row_without_loss_is_named() -> None:
    rows = MemoryRows([([1, 2, 3], [True, False, False])])
    with pytest.raises(InvalidData, match="no token of row 0 carries loss"):
        read_document(rows, 0)


def test_a_row_that_is_too_long_is_named() -> None:
    with pytest.raises(InvalidData, match="row 0 has 5 tokens and the longest allowed is 4"):
        read_document(ROWS, 0, limit=4)


def test_pieces_keep_order_and_limit() -> None:
    documents = [read_document(random_rows(), row) for row in range(12)]
    cut = pieces(documents, 50)
    assert [document.row for piece in cut for document in piece] == list(range(12))
    assert all(len(piece) == 1 or sum(len(d.ids) for d in piece) <= 50 for piece in cut)


@pytest.mark.parametrize("packing", [True, False])
def test_each_epoch_has_every_row_once_and_differs(packing: bool) -> None:
    lengths = numpy.random.default_rng(0).integers(5, 60, 101)
    parameters = FinetuneParameters(
        packing=packing, max_seq_length=64, per_device_train_batch_size=2, gradient_accumulation_steps=3
    )
    plan = Plan(lengths, parameters, 512)
    flat = [[row for step in plan.epoch(number) for micro in step for row in micro] for number in (0, 1)]
    assert sorted(flat[0]) == sorted(flat[1]) == list(range(101))
    assert flat[0] != flat[1]
    assert plan.epoch(0) == Plan(lengths, parameters, 512).epoch(0)
    assert plan.step(plan.steps_per_epoch) == plan.epoch(1)[0]
    assert all(len(step) == 3 for step in plan.epoch(0)[:-1])
    # The longest conversation is in the very first micro-batch.
    assert int(numpy.argmax(lengths)) in plan.step(0)[0] or lengths[plan.step(0)[0]].max() == lengths.max()


def test_steps_follow_epochs_or_max_steps() -> None:
    lengths = [10] * 10
    values: dict[str, Any] = {"packing": False, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    assert Plan(lengths, FinetuneParameters(**values, num_train_epochs=2), 512).total_steps == 6
    assert Plan(lengths, FinetuneParameters(**values, max_steps=4), 512).total_steps == 4
    assert Plan(lengths, FinetuneParameters(**values), 512, world=2).total_steps == 2
