"""Numbers about a set of conversations."""

from __future__ import annotations

import numpy as np


def length_histogram(lengths: np.ndarray) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Edges and counts over powers of two (64, 128, …): ``counts[i]`` lengths are in ``[edges[i], edges[i + 1])``."""
    if lengths.size == 0:
        return (), ()
    low = 1 << max(0, int(lengths.min()).bit_length() - 1)
    edges = [low]
    while edges[-1] <= int(lengths.max()):
        edges.append(edges[-1] * 2)
    counts, _ = np.histogram(lengths, bins=np.array(edges))
    return tuple(edges), tuple(int(count) for count in counts)
