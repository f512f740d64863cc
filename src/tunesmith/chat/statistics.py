"""Numbers about lengths in tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of lengths: ``counts[i]`` rows have ``edges[i] <= length < edges[i + 1]``; the edges are powers of two."""

    edges: tuple[int, ...] = ()
    counts: tuple[int, ...] = ()

    @classmethod
    def of(cls, lengths: np.ndarray) -> Histogram:
        """The histogram of lengths, none of them negative; empty for none."""
        if lengths.size == 0:
            return cls()
        shortest = int(lengths.min())
        edges = [1 << (shortest.bit_length() - 1) if shortest else 0]
        while edges[-1] <= int(lengths.max()):
            edges.append(edges[-1] * 2 or 1)
        counts, _ = np.histogram(lengths, bins=np.array(edges))
        return cls(tuple(edges), tuple(counts.tolist()))

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> Histogram:
        """Read ``dataclasses.asdict`` back."""
        return cls(tuple(body["edges"]), tuple(body["counts"]))


@dataclass(frozen=True, slots=True)
class Lengths:
    """A summary of lengths in tokens."""

    rows: int
    total: int
    shortest: int
    median: int
    mean: float
    p95: int
    """95 of 100 rows are at most so long."""
    longest: int
    histogram: Histogram

    @classmethod
    def of(cls, lengths: np.ndarray) -> Lengths:
        """Summarise; all zero for none."""
        if lengths.size == 0:
            return cls(0, 0, 0, 0, 0.0, 0, 0, Histogram())
        median, p95 = np.percentile(lengths, [50, 95], method="inverted_cdf")
        return cls(
            rows=int(lengths.size),
            total=int(lengths.sum(dtype=np.int64)),
            shortest=int(lengths.min()),
            median=int(median),
            mean=round(float(lengths.mean()), 2),
            p95=int(p95),
            longest=int(lengths.max()),
            histogram=Histogram.of(lengths),
        )
