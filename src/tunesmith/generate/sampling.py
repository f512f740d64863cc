"""From logits to the next token, for many answers at once, each by its own rules.

Greedy answers take the most probable token. Sampled ones draw one uniform number from a stream of their own and
invert the distribution function with it, so an answer with a seed does not depend on what else is in the batch. The
order is constraint, penalties, temperature, ``top_k``, ``top_p``; the nucleus is the smallest set whose mass reaches
``top_p``.

Knows token ids and logits only. It computes with numpy, so an instance need not load torch for it.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from tunesmith.errors import TunesmithError

if TYPE_CHECKING:
    from tunesmith.generate.types import GenerateRequest

Logits = NDArray[np.float32]
Mass = NDArray[np.float64]

FIRST_LOOK = 256
"""Most probable tokens looked at for ``top_p`` before more are sorted: a nucleus is rarely larger."""


class Constraint(Protocol):
    """What an answer may say next, such as the next piece of a JSON object."""

    def allow(self, logits: Logits) -> None:
        """Set the logits (``[vocabulary]``) of what may not come next to minus infinity, in place.

        At least one token must be left.
        """

    def accept(self, token_id: int) -> None:
        """The token that was taken."""


@dataclass(frozen=True, slots=True)
class Picked:
    """The token taken, with log-probabilities where they were asked for."""

    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    """(token id, log-probability), most probable first."""
    error: TunesmithError | None = None
    """Why no token could be taken: the constraint of this answer failed, and the answer with it."""


class Sampler:
    """The rules of one answer, and what it has said so far."""

    def __init__(self, request: GenerateRequest, index: int, constraint: Constraint | None = None) -> None:
        self.temperature = float(request.temperature)
        self.top_p = float(request.top_p)
        self.top_k = request.top_k
        self.frequency_penalty = float(request.frequency_penalty)
        self.presence_penalty = float(request.presence_penalty)
        self.logprobs = request.logprobs
        self.top_logprobs = request.top_logprobs
        self.constraint = constraint
        seed = os.urandom(16) if request.seed is None else f"{request.seed}/{index}".encode()
        self._random = random.Random(int.from_bytes(hashlib.sha256(seed).digest()))
        self._said: Counter[int] = Counter()

    @property
    def plain(self) -> bool:
        """Whether the most probable token is all that is wanted."""
        return self.temperature == 0 and not self.logprobs and not self.penalised and self.constraint is None

    @property
    def penalised(self) -> bool:
        """Whether tokens that were said count."""
        return bool(self.frequency_penalty or self.presence_penalty)

    def pick(self, logits: Logits) -> Picked:
        """The next token from ``logits`` (float32, ``[vocabulary]``), which are left as they are."""
        logprob: float | None = None
        top: tuple[tuple[int, float], ...] = ()
        model_logits = logits
        if self.constraint is not None:
            logits = logits.copy()
            self.constraint.allow(logits)
        if self.penalised and self._said:
            ids = np.fromiter(self._said, dtype=np.int64)
            counts = np.fromiter(self._said.values(), dtype=np.float32)
            logits = logits.copy() if logits is model_logits else logits
            logits[ids] -= self.frequency_penalty * counts + self.presence_penalty
        token_id = int(logits.argmax()) if self.temperature == 0 else self._draw(logits)
        if self.logprobs:
            logprobs = _log_softmax(model_logits)
            logprob = float(logprobs[token_id])
            best = _largest(model_logits, self.top_logprobs)
            top = tuple((int(token), float(logprobs[token])) for token in best)
        self.said(token_id)
        return Picked(token_id, logprob, top)

    def said(self, token_id: int) -> None:
        """Count a token of the answer."""
        if self.penalised:
            self._said[token_id] += 1
        if self.constraint is not None:
            self.constraint.accept(token_id)

    def _draw(self, logits: Logits) -> int:
        uniform = self._random.random()
        vocabulary = logits.shape[-1]
        limit = vocabulary if self.top_k is None else min(self.top_k, vocabulary)
        # Less the largest first: a small temperature must not overflow.
        scaled = (logits - logits.max()) / np.float32(self.temperature)
        if limit == vocabulary and self.top_p >= 1:
            return _invert(_mass(scaled), uniform)
        # With top_k the nucleus is taken of what top_k left; without, of the whole distribution.
        look = limit if limit < vocabulary or self.top_p >= 1 else min(limit, FIRST_LOOK)
        total = float(np.exp(scaled, dtype=np.float64).sum()) if look < limit else None
        while True:
            ids = _largest(scaled, look)
            mass = _mass(scaled[ids])
            wanted = self.top_p * (float(mass[-1]) if total is None else total)
            if look == limit or float(mass[-1]) >= wanted:
                kept = int(np.searchsorted(mass, wanted)) + 1 if self.top_p < 1 else look
                return int(ids[_invert(mass[:kept], uniform)])
            look = min(look * 8, limit)


def _mass(scaled: Logits) -> Mass:
    found: Mass = np.exp(scaled, dtype=np.float64).cumsum()
    return found


def _log_softmax(logits: Logits) -> Mass:
    shifted = logits.astype(np.float64) - float(logits.max())
    found: Mass = shifted - np.log(np.exp(shifted).sum())
    return found


def _largest(values: Logits, count: int) -> NDArray[np.int64]:
    """The places of the ``count`` largest values, largest first; of equal ones the first."""
    size = values.shape[-1]
    if count == 0:
        return np.zeros(0, np.int64)
    places = np.arange(size) if count >= size else np.sort(np.argpartition(values, size - count)[size - count :])
    return places[np.argsort(-values[places], kind="stable")]


def _invert(mass: Mass, uniform: float) -> int:
    """The place in a cumulative ``mass`` (ascending, unnormalised) where ``uniform`` in [0, 1) falls."""
    at = int(np.searchsorted(mass, uniform * float(mass[-1]), side="right"))
    return min(at, len(mass) - 1)


def pick_all(logits: Logits, samplers: Sequence[Sampler]) -> list[Picked]:
    """The next token of each row of ``logits`` (float32, ``[rows, vocabulary]``)."""
    best: list[int] = logits.argmax(-1).tolist()
    return [Picked(best[row]) if sampler.plain else _pick(sampler, logits[row]) for row, sampler in enumerate(samplers)]


def _pick(sampler: Sampler, logits: Logits) -> Picked:
    """What ``sampler`` picks; a constraint that fails ends its own answer and no other."""
    try:
        return sampler.pick(logits)
    except TunesmithError as error:
        return Picked(-1, error=error)
