"""How near two models are to each other, in numbers: their logits on the same rows, and what they say.

Knows nothing of adapters or packages: it compares any two functions from ids to logits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class Parity(BaseModel):
    """The difference between a model and its reference over all tokens of some rows."""

    model_config = ConfigDict(frozen=True)

    tokens: int
    max_abs_logit_diff: float
    mean_abs_logit_diff: float
    mean_kl: float
    """Mean over tokens of KL(reference ‖ other), in nats."""
    max_kl: float
    top1_agreement: float
    """Share of tokens where both give the highest logit to the same token."""


class ParityBound(BaseModel):
    """What is still taken for the same model."""

    model_config = ConfigDict(frozen=True)

    mean_kl: float
    max_kl: float

    def faults(self, parity: Parity) -> list[str]:
        """What is beyond the bound, with numbers; empty when nothing is. A value that is no number is beyond."""
        found = []
        for name, value, limit in (
            ("mean KL", parity.mean_kl, self.mean_kl),
            ("largest KL", parity.max_kl, self.max_kl),
        ):
            if not value <= limit:
                found.append(f"{name} {value:.3g} nats, allowed {limit:.3g}")
        return found


class GreedyProbe(BaseModel):
    """What two models say to one prompt when the likeliest token is taken each time."""

    model_config = ConfigDict(frozen=True)

    prompt: tuple[int, ...]
    reference: tuple[int, ...]
    other: tuple[int, ...]

    @property
    def agree(self) -> int:
        """Tokens until the first difference."""
        pairs = zip(self.reference, self.other, strict=False)
        return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(self.reference), len(self.other)))


def logits_of(model: PreTrainedModel, rows: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """For each row the logits (tokens, vocabulary) in float32.

    Rows are computed together, filled up on the right, which no token looks at: one pass over the weights instead of
    one for each row.
    """
    import torch

    if not rows:
        return []
    width = max(map(len, rows))
    filled = [[*row, *[row[-1]] * (width - len(row))] for row in rows]
    real = torch.tensor([[position < len(row) for position in range(width)] for row in rows])
    with torch.inference_mode():
        logits = model(
            input_ids=torch.tensor(filled, device=model.device),
            attention_mask=real.to(model.device, torch.long),
            use_cache=False,
        ).logits
        return [logits[number, : len(row)].float().cpu() for number, row in enumerate(rows)]


def greedy_of(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], *, count: int, stops: Sequence[int]
) -> list[tuple[int, ...]]:
    """For each prompt up to ``count`` tokens, the likeliest each time, until one of ``stops`` (which is kept)."""
    import torch
    from transformers import GenerationConfig

    settings = GenerationConfig(
        do_sample=False, max_new_tokens=count, eos_token_id=list(stops), pad_token_id=stops[0], use_cache=True
    )
    answers = []
    for prompt in prompts:
        ids = torch.tensor([list(prompt)], device=model.device)
        said = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=settings)
        answers.append(tuple(said[0, len(prompt) :].tolist()))
    return answers


def compare_logits(reference: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> Parity:
    """Compare logits row by row; both lists have the same shapes."""
    import torch

    tokens = 0
    largest = 0.0
    summed = 0.0
    kl_sum = 0.0
    kl_max = 0.0
    same = 0
    elements = 0
    for a, b in zip(reference, other, strict=True):
        difference = (a - b).abs()
        log_a, log_b = torch.log_softmax(a, -1), torch.log_softmax(b, -1)
        kl = (log_a.exp() * (log_a - log_b)).sum(-1)
        tokens += a.shape[0]
        elements += a.numel()
        largest = _max(largest, float(difference.max()))
        summed += float(difference.sum(dtype=torch.float64))
        kl_sum += float(kl.sum(dtype=torch.float64))
        kl_max = _max(kl_max, float(kl.max()))
        same += int((a.argmax(-1) == b.argmax(-1)).sum())
    return Parity(
        tokens=tokens,
        max_abs_logit_diff=largest,
        mean_abs_logit_diff=summed / max(elements, 1),
        mean_kl=max(kl_sum / max(tokens, 1), 0.0) if not math.isnan(kl_sum) else kl_sum,
        max_kl=kl_max,
        top1_agreement=same / max(tokens, 1),
    )


def _max(a: float, b: float) -> float:
    """The larger one; not-a-number stays, where ``max`` would lose it."""
    return b if math.isnan(b) or b > a else a
