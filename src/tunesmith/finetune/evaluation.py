"""Evaluation while training: loss per trained token, and how much of each answer is predicted.

``f1`` and ``exact`` look at what the model predicts for every trained token *from the true text before it* (teacher
forcing), answer by answer (an answer is an unbroken run of trained tokens): ``exact`` is the share of answers with
every token right; ``f1`` is the mean over answers of the F1 between the bags of predicted and true tokens.
Free-running generations are judged by the evaluation step of the pipeline; here one forward pass must do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy
import torch

from tunesmith.finetune.batches import Document, MicroBatch, Rows, assemble, pieces, read_document
from tunesmith.finetune.forward import ChatForward
from tunesmith.reporting import Reporter


@dataclass(frozen=True, slots=True)
class EvalResult:
    """Over all validation rows. ``loss`` in nats per trained token."""

    loss: float
    f1: float
    exact: float
    trained_tokens: int
    answers: int

    def metric(self, name: str) -> float:
        """loss, f1 or exact."""
        return {"loss": self.loss, "f1": self.f1, "exact": self.exact}[name]


def better(name: str, new: float, old: float | None, threshold: float = 0.0) -> bool:
    """Whether ``new`` is better than ``old`` by more than ``threshold``; a loss is better when lower."""
    if old is None:
        return True
    return new < old - threshold if name == "loss" else new > old + threshold


def evaluate(
    forward: ChatForward,
    rows: Rows,
    *,
    batch_size: int,
    piece_tokens: int | None,
    fold_every: int = -1,
    reporter: Reporter,
    stop: Callable[[], bool] | None = None,
) -> EvalResult | None:
    """Evaluate ``rows``, longest first; ``None`` when ``stop`` said so.

    ``batch_size`` rows are computed together, in pieces of ``piece_tokens`` where given. ``fold_every`` batches'
    predictions are kept on the device before they are counted (-1: all).
    """
    order = sorted(range(len(rows.lengths)), key=lambda row: (-int(rows.lengths[row]), row))
    was_training = forward.model.training
    forward.model.eval()
    counts = _Counts()
    waiting: list[tuple[MicroBatch, torch.Tensor]] = []
    try:
        batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
        for done, batch in enumerate(batches):
            if stop is not None and stop():
                return None
            documents = [read_document(rows, row) for row in batch]
            for piece in _split(documents, piece_tokens):
                micro = assemble(piece)
                predicted = forward.predict(micro)
                counts.loss += predicted.loss
                waiting.append((micro, predicted.tokens))
            if fold_every > 0 and (done + 1) % fold_every == 0:
                counts.fold(waiting)
            reporter.progress("evaluate", done + 1, len(batches), unit="batches")
        counts.fold(waiting)
    finally:
        forward.model.train(was_training)
    return counts.result()


def _split(documents: list[Document], limit: int | None) -> list[list[Document]]:
    return pieces(documents, limit) if limit is not None else [documents]


class _Counts:
    def __init__(self) -> None:
        self.loss = 0.0
        self.trained = 0
        self.answers = 0
        self.exact = 0
        self.f1 = 0.0

    def fold(self, waiting: list[tuple[MicroBatch, Any]]) -> None:
        for micro, tokens in waiting:
            truth, guess = micro.labels.numpy(), tokens.cpu().numpy()
            places = micro.label_positions.numpy()
            self.trained += len(truth)
            # An answer ends where the next label is not the next position, or belongs to the next document.
            document = numpy.searchsorted(numpy.asarray(micro.documents), places, side="right")
            ends = numpy.flatnonzero((numpy.diff(places) != 1) | (numpy.diff(document) != 0)) + 1
            for true, guessed in zip(numpy.split(truth, ends), numpy.split(guess, ends), strict=True):
                self.answers += 1
                self.exact += int((true == guessed).all())
                common = sum((Counter(true.tolist()) & Counter(guessed.tolist())).values())
                self.f1 += common / len(true)
        waiting.clear()

    def result(self) -> EvalResult:
        return EvalResult(
            loss=self.loss / max(1, self.trained),
            f1=self.f1 / max(1, self.answers),
            exact=self.exact / max(1, self.answers),
            trained_tokens=self.trained,
            answers=self.answers,
        )
