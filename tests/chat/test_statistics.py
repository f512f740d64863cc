"""Exact numbers about lengths."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.chat.statistics import Histogram, Lengths


def test_histogram_over_powers_of_two() -> None:
    histogram = Histogram.of(np.array([3, 4, 7, 8, 15, 64], dtype=np.int32))
    assert histogram == Histogram((2, 4, 8, 16, 32, 64, 128), (1, 2, 2, 0, 0, 1))
    assert Histogram.from_dict(asdict(histogram)) == histogram
    assert Histogram.of(np.zeros(0, np.int32)) == Histogram()


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=50))
def test_every_length_is_in_a_bar(lengths: list[int]) -> None:
    histogram = Histogram.of(np.array(lengths))
    assert sum(histogram.counts) == len(lengths)
    assert histogram.counts[-1] > 0


def test_summary() -> None:
    lengths = Lengths.of(np.arange(1, 101, dtype=np.int32))
    assert (lengths.rows, lengths.total, lengths.shortest, lengths.longest) == (100, 5050, 1, 100)
    assert (lengths.median, lengths.mean, lengths.p95) == (50, 50.5, 95)
    assert Lengths.of(np.zeros(0, np.int32)) == Lengths(0, 0, 0, 0, 0.0, 0, 0, Histogram())
