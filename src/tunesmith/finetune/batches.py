"""Rows become micro-batches: which rows are in which optimiser step, and the tensors of one micro-batch.

The order is a pure function of the rows' lengths, the parameters and the epoch, so a run that resumes knows where it
was by two numbers.

A micro-batch is one long sequence of documents without padding. Only what the loss needs is kept: a document ends at
its last label's position, because nothing after it (and not the last token itself) reaches the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy
import torch
from torch import Tensor

from tunesmith.errors import Fault, InvalidData
from tunesmith.finetune.parameters import FinetuneParameters
from tunesmith.finetune.planning import capacity, packed_rows


class Rows(Protocol):
    """Prepared conversations: token ids, and which of them carry loss."""

    @property
    def lengths(self) -> Any:
        """[rows], tokens of each."""

    def row(self, index: int) -> tuple[Sequence[int], Sequence[bool]]:
        """Ids and loss flags of one row, equally long."""


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Documents one after the other.

    ``ids``, ``positions`` [tokens]; ``documents`` are the documents' bounds; ``label_positions`` [trained] are the
    places whose hidden state predicts ``labels`` [trained].
    """

    ids: Tensor
    positions: Tensor
    documents: tuple[int, ...]
    label_positions: Tensor
    labels: Tensor
    rows: tuple[int, ...]
    tokens: int
    """Tokens of the conversations, also those that the loss does not need."""

    @property
    def trained(self) -> int:
        """Tokens that carry loss."""
        return len(self.labels)

    def to(self, device: torch.device) -> MicroBatch:
        """The same on another device."""
        if device.type == "cpu":
            return self
        move = {
            name: getattr(self, name).to(device, non_blocking=True)
            for name in ("ids", "positions", "label_positions", "labels")
        }
        return MicroBatch(documents=self.documents, rows=self.rows, tokens=self.tokens, **move)


@dataclass(frozen=True, slots=True)
class Document:
    """One conversation as it is computed. ``labels_at`` are positions, ``labels`` the ids they predict."""

    row: int
    ids: numpy.ndarray[Any, Any]
    labels_at: numpy.ndarray[Any, Any]
    labels: numpy.ndarray[Any, Any]
    tokens: int


def read_document(rows: Rows, row: int, *, limit: int | None = None) -> Document:
    """Read one row and cut what the loss does not need.

    Raises:
        InvalidData: no token of the row carries loss, or the row is longer than ``limit`` tokens.
    """
    ids_given, trained_given = rows.row(row)
    ids = numpy.asarray(ids_given, dtype=numpy.int64)
    trained = numpy.asarray(trained_given, dtype=bool)
    if limit is not None and len(ids) > limit:
        raise InvalidData(
            f"row {row} has {len(ids)} tokens and the longest allowed is {limit}",
            target=f"row {row}",
            way_out="prepare the rows with the same max_seq_length, or set on_too_long",
        )
    # Position i predicts token i + 1; the first token is predicted by nothing.
    labels_at = numpy.flatnonzero(trained[1:])
    if len(labels_at) == 0:
        raise InvalidData(
            f"no token of row {row} carries loss",
            target=f"row {row}",
            way_out="drop the row, or check loss_on and the messages' train flags",
            details=[Fault("no trained token", f"row {row}", "NoTrainedToken")],
        )
    return Document(row, ids[: labels_at[-1] + 1], labels_at, ids[labels_at + 1], len(ids))


def assemble(documents: Sequence[Document], *, pad_each_to: int | None = None, pad_id: int = 0) -> MicroBatch:
    """One micro-batch of ``documents``; with ``pad_each_to``, each is followed by padding as a document of its own."""
    ids, positions, labels_at, labels, bounds = [], [], [], [], [0]
    for document in documents:
        start = bounds[-1]
        length = len(document.ids)
        ids.append(document.ids)
        positions.append(numpy.arange(length))
        labels_at.append(document.labels_at + start)
        labels.append(document.labels)
        bounds.append(start + length)
        if pad_each_to is not None and length < pad_each_to:
            ids.append(numpy.full(pad_each_to - length, pad_id, dtype=numpy.int64))
            positions.append(numpy.arange(pad_each_to - length))
            bounds.append(start + pad_each_to)
    return MicroBatch(
        ids=torch.from_numpy(numpy.concatenate(ids)),
        positions=torch.from_numpy(numpy.concatenate(positions)),
        documents=tuple(bounds),
        label_positions=torch.from_numpy(numpy.concatenate(labels_at)),
        labels=torch.from_numpy(numpy.concatenate(labels)),
        rows=tuple(document.row for document in documents),
        tokens=sum(document.tokens for document in documents),
    )


def pieces(documents: Sequence[Document], limit: int) -> list[list[Document]]:
    """Cut a micro-batch into pieces of at most ``limit`` computed tokens (a longer document is a piece of its own).

    The loss is a sum, so the pieces' gradients add up to the micro-batch's: only memory changes.
    """
    result: list[list[Document]] = []
    room = 0
    for document in documents:
        length = len(document.ids)
        if not result or length > room:
            result.append([])
            room = limit
        result[-1].append(document)
        room -= length
    return result


class Plan:
    """Which rows are computed when. ``world`` processes share each optimiser step."""

    def __init__(self, lengths: Any, parameters: FinetuneParameters, context_length: int, *, world: int = 1) -> None:
        self._lengths = numpy.asarray(lengths, dtype=numpy.int32)
        self._parameters = parameters
        self.capacity = capacity(self._lengths, parameters, context_length)
        self._world = world
        self._made: tuple[int, list[list[list[int]]]] | None = None
        self.steps_per_epoch = len(self.epoch(0))
        self.total_steps = (
            parameters.max_steps if parameters.max_steps > 0 else parameters.num_train_epochs * self.steps_per_epoch
        )

    def epoch(self, number: int) -> list[list[list[int]]]:
        """The steps of an epoch: each a list of micro-batches, each a list of row numbers.

        In the first epoch the micro-batch with the longest conversation comes first, so that memory that will not do
        shows at once.
        """
        if self._made is None or self._made[0] != number:
            self._made = (number, self._epoch(number))
        return self._made[1]

    def _epoch(self, number: int) -> list[list[list[int]]]:
        parameters = self._parameters
        seed = parameters.seed + number
        order = torch.Generator().manual_seed(seed)
        bins = packed_rows(self._lengths, parameters, self.capacity, seed=seed)
        bins = [bins[i] for i in torch.randperm(len(bins), generator=order).tolist()]
        size = parameters.per_device_train_batch_size
        micro = [[row for rows in bins[i : i + size] for row in rows] for i in range(0, len(bins), size)]
        if number == 0 and micro:
            heaviest = max(
                range(len(micro)),
                key=lambda i: (int(self._lengths[micro[i]].max()), int(self._lengths[micro[i]].sum()), -i),
            )
            micro[0], micro[heaviest] = micro[heaviest], micro[0]
        per_step = parameters.gradient_accumulation_steps * self._world
        return [micro[i : i + per_step] for i in range(0, len(micro), per_step)]

    def step(self, number: int) -> list[list[int]]:
        """The micro-batches of optimiser step ``number`` (from 0), over all epochs."""
        epoch, index = divmod(number, self.steps_per_epoch)
        return self.epoch(epoch)[index]
