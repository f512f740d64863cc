"""Bins hold every row once and no more than fits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.chat.packing import group_by_length, pack
from tunesmith.errors import InvalidData

LENGTHS = st.lists(st.integers(1, 64), max_size=60)


def slow_best_fit(lengths: list[int], capacity: int) -> int:
    """How many bins best-fit decreasing takes: look at every bin for every row."""
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [room for room in rooms if room >= length]
        if fitting:
            rooms[rooms.index(min(fitting))] -= length
        else:
            rooms.append(capacity - length)
    return len(rooms)


@given(lengths=LENGTHS, capacity=st.integers(64, 200), seed=st.integers(0, 5))
def test_every_row_once_and_none_too_many(lengths: list[int], capacity: int, seed: int) -> None:
    bins = pack(lengths, capacity, seed=seed)
    assert sorted(row for rows in bins for row in rows) == list(range(len(lengths)))
    assert all(sum(lengths[row] for row in rows) <= capacity for rows in bins)
    assert len(bins) == slow_best_fit(lengths, capacity)
    assert bins == pack(np.array(lengths, dtype=np.int32), capacity, seed=seed)


def test_exact_bins() -> None:
    assert sorted(sorted(rows) for rows in pack([6, 5, 4, 3, 2], 10, seed=0)) == [[0, 2], [1, 3, 4]]


def test_the_seed_decides_the_order_and_nothing_else() -> None:
    lengths = list(range(1, 65)) * 4
    one, two = pack(lengths, 128, seed=1), pack(lengths, 128, seed=2)
    assert one != two
    assert sum(map(len, one)) == sum(map(len, two)) == len(lengths)


def test_rows_that_do_not_fit_are_named() -> None:
    with pytest.raises(InvalidData, match="row 1 has 11 tokens; a packed sequence holds 1 to 10"):
        pack([5, 11], 10, seed=0)
    with pytest.raises(InvalidData, match="row 0 has 0 tokens"):
        pack([0], 10, seed=0)
    assert pack([], 10, seed=0) == []


@given(lengths=LENGTHS, size=st.integers(1, 7), seed=st.integers(0, 3))
def test_groups_hold_every_row_once(lengths: list[int], size: int, seed: int) -> None:
    groups = group_by_length(lengths, size, seed=seed, window=4)
    assert sorted(row for rows in groups for row in rows) == list(range(len(lengths)))
    assert all(len(rows) <= size for rows in groups)
    assert len(groups) == -(-len(lengths) // size)


def test_groups_are_of_like_length() -> None:
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, 2000, 512)
    groups = group_by_length(lengths, 8, seed=0)
    padding = sum(int(lengths[rows].max()) * len(rows) - int(lengths[rows].sum()) for rows in groups)
    assert padding < 0.05 * lengths.sum()
