"""The sampler against transformers' own warpers, and its random streams."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from tunesmith.chat.messages import Message
from tunesmith.generate import GenerateRequest
from tunesmith.generate.sampling import Logits, Sampler, pick_all

torch.manual_seed(0)
TENSOR = 3 * torch.randn(1000)
LOGITS: Logits = TENSOR.numpy()


def sampler(index: int = 0, **options: Any) -> Sampler:
    return Sampler(GenerateRequest((Message("user", "x"),), **options), index)


def drawn(count: int, logits: Logits, **options: Any) -> list[int]:
    one = sampler(**options)
    return [one.pick(logits).token_id for _ in range(count)]


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.7},
        {"temperature": 1.0, "top_k": 5},
        {"temperature": 1.3, "top_p": 0.6},
        {"temperature": 1.7, "top_p": 0.97},
        {"temperature": 0.9, "top_k": 50, "top_p": 0.5},
    ],
)
def test_the_distribution_is_that_of_transformers(options: dict[str, float]) -> None:
    scores = TemperatureLogitsWarper(float(options["temperature"]))(None, TENSOR[None])
    if "top_k" in options:
        scores = TopKLogitsWarper(int(options["top_k"]))(None, scores)
    if "top_p" in options:
        scores = TopPLogitsWarper(options["top_p"])(None, scores)
    wanted = scores[0].softmax(-1)
    count = 4000
    found = Counter(drawn(count, LOGITS, seed=1, **options))
    assert all(wanted[token] > 0 for token in found)
    # Total variation distance of an honest sample of this size stays well under this bound.
    distance = sum(abs(found[token] / count - float(wanted[token])) for token in range(1000)) / 2
    assert distance < 0.5 * ((wanted > 0).sum().item() / count) ** 0.5


def test_a_wide_nucleus_is_found_beyond_the_first_look() -> None:
    flat = np.zeros(4000, np.float32)
    flat[7] = 1.0
    kept = set(drawn(3000, flat, seed=0, temperature=1.0, top_p=0.5))
    assert 1000 < len(kept) <= 2001  # the nucleus has half of the mass, about 2,000 tokens


def test_greedy_and_narrow_sampling_take_the_best() -> None:
    best = int(LOGITS.argmax())
    assert set(drawn(5, LOGITS, temperature=0)) == {best}
    assert set(drawn(20, LOGITS, top_k=1)) == {best}
    assert set(drawn(20, LOGITS, top_p=1e-6)) == {best}
    assert set(drawn(20, LOGITS, temperature=1e-4)) == {best}


def test_seeds_repeat_and_choices_differ() -> None:
    first = drawn(20, LOGITS, seed=3)
    assert drawn(20, LOGITS, seed=3) == first
    assert drawn(20, LOGITS, seed=4) != first
    other = sampler(1, seed=3)
    assert [other.pick(LOGITS).token_id for _ in range(20)] != first
    assert drawn(20, LOGITS) != drawn(20, LOGITS)


def test_penalties_are_openais() -> None:
    logits = np.array([1.0, 0.9, 0.74, 0.0], np.float32)
    # Each time said costs 0.2, having been said 0.05: 1.0, then 0.9, then 0.75, then 0.74, then 0.65, then 0.55.
    one = sampler(temperature=0, frequency_penalty=0.2, presence_penalty=0.05)
    assert [one.pick(logits).token_id for _ in range(6)] == [0, 1, 0, 2, 1, 0]
    plain = sampler(temperature=0)
    assert [plain.pick(logits).token_id for _ in range(3)] == [0, 0, 0]
    negative = sampler(temperature=0, presence_penalty=-2.0)
    negative.said(3)
    assert negative.pick(logits).token_id == 3


def test_logprobs_are_the_models_own() -> None:
    wanted = TENSOR.log_softmax(-1)
    picked = sampler(seed=0, temperature=0.3, top_k=3, frequency_penalty=1.0, logprobs=True, top_logprobs=5).pick(
        LOGITS
    )
    assert picked.logprob == pytest.approx(float(wanted[picked.token_id]))
    values, ids = wanted.topk(5)
    assert [token for token, _ in picked.top] == ids.tolist()
    assert [value for _, value in picked.top] == pytest.approx(values.tolist())
    assert sampler(logprobs=True).pick(LOGITS).top == ()


def test_rows_of_a_batch_do_not_touch_each_other() -> None:
    rows = np.stack([LOGITS, LOGITS[::-1], LOGITS, np.roll(LOGITS, 5)])
    before = rows.copy()
    options: list[dict[str, Any]] = [
        {"temperature": 0},
        {"seed": 1, "frequency_penalty": 1.0},
        {"seed": 2, "top_p": 0.5},
        {"temperature": 0},
    ]
    together = [picked.token_id for picked in pick_all(rows, [sampler(**each) for each in options])]
    alone = [sampler(**each).pick(row).token_id for row, each in zip(rows, options, strict=True)]
    assert together == alone
    assert (rows == before).all()


class EvenOnly:
    """A constraint: even tokens, and never one twice."""

    def __init__(self) -> None:
        self.taken: list[int] = []

    def allow(self, logits: Logits) -> None:
        logits[1::2] = -np.inf
        logits[self.taken] = -np.inf

    def accept(self, token_id: int) -> None:
        self.taken.append(token_id)


@pytest.mark.parametrize("options", [{"temperature": 0}, {"seed": 5}, {"seed": 5, "top_k": 3}, {"top_p": 0.9}])
def test_a_constraint_leaves_only_what_may_come(options: dict[str, object]) -> None:
    constraint = EvenOnly()
    one = Sampler(GenerateRequest((Message("user", "x"),), logprobs=True, **options), 0, constraint)  # type: ignore[arg-type]
    before = LOGITS.copy()
    picked = [one.pick(LOGITS) for _ in range(30)]
    tokens = [item.token_id for item in picked]
    assert all(token % 2 == 0 for token in tokens)
    assert len(set(tokens)) == 30
    assert constraint.taken == tokens
    assert (before == LOGITS).all()
    # What is told is the model's own, not what the constraint made of it.
    wanted = TENSOR.log_softmax(-1)
    assert [item.logprob for item in picked] == pytest.approx([float(wanted[token]) for token in tokens], abs=1e-5)
    if options.get("temperature") == 0:
        even = sorted(range(0, 1000, 2), key=lambda token: -LOGITS[token])
        assert tokens == even[:30]
