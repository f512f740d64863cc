"""From logits to the next token, for many answers at once, each by its own rules.

Greedy answers take the most probable token. Sampled ones draw one uniform number from a stream of their own and
invert the distribution function with it, so an answer with a seed does not depend on what else is in the batch. The
order is penalties, temperature, ``top_k``, ``top_p``; the nucleus is the smallest set whose mass reaches ``top_p``.

Knows token ids and logits only.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from tunesmith.generate.types import GenerateRequest

FIRST_LOOK = 256
"""Most probable tokens looked at for ``top_p`` before more are sorted: a nucleus is rarely larger."""


@dataclass(frozen=True, slots=True)
class Picked:
    """The token taken, with log-probabilities where they were asked for."""

    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    """(token id, log-probability), most probable first."""


class Sampler:
    """The rules of one answer, and what it has said so far."""

    def __init__(self, request: GenerateRequest, index: int) -> None:
        self.temperature = float(request.temperature)
        self.top_p = float(request.top_p)
        self.top_k = request.top_k
        self.frequency_penalty = float(request.frequency_penalty)
        self.presence_penalty = float(request.presence_penalty)
        self.logprobs = request.logprobs
        self.top_logprobs = request.top_logprobs
        seed = os.urandom(16) if request.seed is None else f"{request.seed}/{index}".encode()
        self._random = random.Random(int.from_bytes(hashlib.sha256(seed).digest()))
        self._said: Counter[int] = Counter()

    @property
    def plain(self) -> bool:
        """Whether the most probable token is all that is wanted."""
        return self.temperature == 0 and not self.logprobs and not self.penalised

    @property
    def penalised(self) -> bool:
        """Whether tokens that were said count."""
        return bool(self.frequency_penalty or self.presence_penalty)

    def pick(self, logits: torch.Tensor) -> Picked:
        """The next token from ``logits`` (float32, ``[vocabulary]``)."""
        import torch

        logprob: float | None = None
        top: tuple[tuple[int, float], ...] = ()
        model_logits = logits
        if self.penalised and self._said:
            ids = torch.tensor(list(self._said), device=logits.device)
            counts = torch.tensor(list(self._said.values()), dtype=logits.dtype, device=logits.device)
            logits = logits.index_add(0, ids, -(self.frequency_penalty * counts + self.presence_penalty))
        token_id = int(logits.argmax()) if self.temperature == 0 else self._draw(logits / self.temperature)
        if self.logprobs:
            logprobs = torch.log_softmax(model_logits, dim=-1)
            logprob = float(logprobs[token_id])
            if self.top_logprobs:
                values, indices = logprobs.topk(self.top_logprobs)
                top = tuple(zip(indices.tolist(), values.tolist(), strict=True))
        self.said(token_id)
        return Picked(token_id, logprob, top)

    def said(self, token_id: int) -> None:
        """Count a token of the answer."""
        if self.penalised:
            self._said[token_id] += 1

    def _draw(self, logits: torch.Tensor) -> int:
        import torch

        uniform = self._random.random()
        vocabulary = logits.shape[-1]
        limit = vocabulary if self.top_k is None else min(self.top_k, vocabulary)
        if limit == vocabulary and self.top_p >= 1:
            mass = torch.softmax(logits, dim=-1).double().cumsum(-1)
            return _invert(mass, uniform)
        look = min(limit, FIRST_LOOK) if self.top_p < 1 else limit
        # With top_k the nucleus is taken of what top_k left; without, of the whole distribution.
        whole = None if limit < vocabulary else torch.logsumexp(logits, dim=-1)
        while True:
            values, ids = logits.topk(look)
            norm = torch.logsumexp(logits.topk(limit).values, dim=-1) if whole is None else whole
            mass = (values - norm).double().exp().cumsum(-1)
            if self.top_p >= 1:
                return int(ids[_invert(mass, uniform)])
            if look == limit or float(mass[-1]) >= self.top_p:
                kept = int(torch.searchsorted(mass, self.top_p)) + 1
                return int(ids[_invert(mass[:kept], uniform)])
            look = min(look * 8, limit)


def _invert(mass: torch.Tensor, uniform: float) -> int:
    """The place in a cumulative ``mass`` (ascending, unnormalised) where ``uniform`` in [0, 1) falls."""
    import torch

    at = int(torch.searchsorted(mass, uniform * float(mass[-1]), right=True))
    return min(at, mass.shape[-1] - 1)


def pick_all(logits: torch.Tensor, samplers: Sequence[Sampler]) -> list[Picked]:
    """The next token of each row of ``logits`` (``[rows, vocabulary]``, any float type)."""
    if all(sampler.plain for sampler in samplers):
        return [Picked(token_id) for token_id in logits.argmax(-1).tolist()]
    best = logits.argmax(-1).tolist()
    return [
        Picked(best[row]) if sampler.plain else sampler.pick(logits[row].float())
        for row, sampler in enumerate(samplers)
    ]
