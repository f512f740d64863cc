"""Loss per trained token over all rows of a prepared set, exactly as training counts it.

The same code that trains computes it: rows lie one after the other without padding, attention stays inside each, and
the output layer runs only where a token carries loss.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from tunesmith.errors import InvalidData, NonFiniteLoss
from tunesmith.reporting import NullReporter, Reporter

if TYPE_CHECKING:
    from collections.abc import Collection

    from peft import PeftModel
    from transformers import PreTrainedModel

    from tunesmith.chat.prepared import Prepared
    from tunesmith.finetune.batches import Rows
    from tunesmith.models.package import ModelPackage

BATCH_TOKENS = 2048


class LossResult(BaseModel):
    """Over all rows; every number is per token that carries loss."""

    model_config = ConfigDict(frozen=True)

    loss: float
    """Mean negative log-likelihood, in nats."""
    perplexity: float
    """``exp(loss)``."""
    accuracy: float
    """Share of tokens that the model finds most likely, given the true text before."""
    end_of_turn_accuracy: float | None
    """The same of end-of-turn tokens alone: whether the model knows where an answer ends. ``None`` where none carries
    loss.
    """
    trained_tokens: int
    tokens: int
    """With those that carry no loss."""
    rows: int
    seconds: float


def evaluate_loss(
    model: ModelPackage | PreTrainedModel | PeftModel | Path,
    rows: Prepared | Rows,
    *,
    end_of_turn_ids: Collection[int] = (),
    dtype: str = "float32",
    batch_tokens: int = BATCH_TOKENS,
    reporter: Reporter | None = None,
    phase: str = "loss",
) -> LossResult:
    """The loss of a model over ``rows`` (a ``Prepared``, or any ``Rows``).

    ``model`` is a package, its path, or a model in memory (with unmerged adapters, too), whose attention
    implementation and forwards are put back afterwards; ``dtype`` is that of a package's weights while they are here.
    ``batch_tokens`` are computed together, a longer row alone.

    Raises ``InvalidData`` when there are no rows or one carries no loss, ``NonFiniteLoss`` with the row when a loss
    is not a number.
    """
    from tunesmith.models.loading import load_model
    from tunesmith.models.package import ModelPackage

    if isinstance(model, Path):
        model = ModelPackage.open(model)
    if isinstance(model, ModelPackage):
        ids = end_of_turn_ids or (model.tokenizer().end_of_turn_id,)
        loaded = load_model(model, dtype=dtype)
        return _evaluate(loaded, rows, frozenset(ids), batch_tokens, reporter or NullReporter(), phase)
    if hasattr(model, "get_base_model"):  # PEFT's adapters are inside the base model's layers
        model = model.get_base_model()
    before = model.config._attn_implementation
    forwards = {module: vars(module).get("forward") for module in model.modules()}
    try:
        return _evaluate(model, rows, frozenset(end_of_turn_ids), batch_tokens, reporter or NullReporter(), phase)
    finally:
        model.set_attn_implementation(before)
        # Training's quick forwards know rows, not caches: an engine that serves this model next needs its own.
        for module, forward in forwards.items():
            vars(module).pop("forward", None)
            if forward is not None:
                module.forward = forward


def _evaluate(
    model: Any, rows: Any, end_ids: frozenset[int], batch_tokens: int, reporter: Reporter, phase: str
) -> LossResult:
    import torch

    from tunesmith.finetune.batches import assemble, pieces, read_document
    from tunesmith.finetune.forward import ChatForward

    began = time.perf_counter()
    count = len(rows.lengths)
    if count == 0:
        raise InvalidData("there are no rows to evaluate on", way_out="give a test file with conversations")
    # Longest first: memory that will not do shows at once.
    order = sorted(range(count), key=lambda row: (-int(rows.lengths[row]), row))
    batches = pieces([read_document(rows, row) for row in order], batch_tokens)
    forward = ChatForward(model, reporter=reporter)
    was_training = model.training
    model.eval()
    ends = torch.tensor(sorted(end_ids), dtype=torch.long)
    total, trained, right, end_count, end_right, tokens, done = 0.0, 0, 0, 0, 0, 0, 0
    try:
        for batch in batches:
            micro = assemble(batch)
            predicted = forward.predict(micro)
            if not math.isfinite(predicted.loss):
                raise NonFiniteLoss(
                    f"the loss of rows {', '.join(map(str, micro.rows[:8]))} is {predicted.loss}",
                    way_out="the weights are damaged, or their numbers do not fit the precision: try float32",
                )
            hits = predicted.tokens.cpu() == micro.labels
            at_end = torch.isin(micro.labels, ends)
            total += predicted.loss
            trained += micro.trained
            right += int(hits.sum())
            end_count += int(at_end.sum())
            end_right += int((hits & at_end).sum())
            tokens += micro.tokens
            done += len(micro.rows)
            values = {"loss": total / trained, "tokens_per_second": tokens / (time.perf_counter() - began)}
            reporter.progress(phase, done, count, unit="rows", values=values)
    finally:
        model.train(was_training)
    loss = total / trained
    return LossResult(
        loss=loss,
        perplexity=math.exp(min(loss, 700.0)),
        accuracy=right / trained,
        end_of_turn_accuracy=end_right / end_count if end_count else None,
        trained_tokens=trained,
        tokens=tokens,
        rows=count,
        seconds=time.perf_counter() - began,
    )
