"""Which rows share a sequence: bins for packed training, and groups of like length for padded training.

Works on lengths alone. Best-fit decreasing (Johnson, "Near-optimal bin packing algorithms", 1973): rows from long to
short, each into the fullest bin that still has room for it. The seed decides among rows of one length and shuffles
the bins, so epochs differ and a seed repeats.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tunesmith.errors import InvalidData


def pack(lengths: Sequence[int] | np.ndarray, capacity: int, *, seed: int) -> list[list[int]]:
    """Bins of row numbers, each of at most ``capacity`` tokens; every row is in exactly one.

    Raises ``InvalidData`` when a row is longer than ``capacity`` or has no tokens.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    if sizes.size == 0:
        return []
    if sizes.max() > capacity or sizes.min() < 1:
        row = int(np.argmax((sizes > capacity) | (sizes < 1)))
        raise InvalidData(
            f"row {row} has {sizes[row]} tokens; a packed sequence holds 1 to {capacity}",
            target=f"row {row}",
            way_out="prepare the rows with max_seq_length no larger than the packed length",
        )
    generator = np.random.default_rng(seed)
    shuffled = generator.permutation(sizes.size)
    order = shuffled[np.argsort(-sizes[shuffled], kind="stable")]
    bins: list[list[int]] = []
    by_room: list[list[int]] = [[] for _ in range(capacity + 1)]  # bins by the tokens they still have room for
    rooms = 0  # bit r is set where by_room[r] is not empty: the least room that suffices is one shift away
    for row in order.tolist():
        size = int(sizes[row])
        enough = rooms >> size
        if enough:
            room = size + (enough & -enough).bit_length() - 1
            chosen = by_room[room].pop()
            if not by_room[room]:
                rooms &= ~(1 << room)
            bins[chosen].append(row)
        else:
            room = capacity
            chosen = len(bins)
            bins.append([row])
        left = room - size
        if left:
            by_room[left].append(chosen)
            rooms |= 1 << left
    return [bins[i] for i in generator.permutation(len(bins)).tolist()]


def group_by_length(
    lengths: Sequence[int] | np.ndarray, batch_size: int, *, seed: int, window: int = 64
) -> list[list[int]]:
    """Batches of ``batch_size`` row numbers of like length, in shuffled order; the last may be smaller.

    Rows are shuffled, then sorted inside windows of ``window`` batches: little padding, and still another order for
    each seed.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    generator = np.random.default_rng(seed)
    shuffled = generator.permutation(sizes.size)
    batches: list[list[int]] = []
    step = batch_size * window
    for begin in range(0, sizes.size, step):
        rows = shuffled[begin : begin + step]
        rows = rows[np.argsort(-sizes[rows], kind="stable")]
        batches += [rows[i : i + batch_size].tolist() for i in range(0, rows.size, batch_size)]
    order = generator.permutation(len(batches)).tolist()
    return [batches[i] for i in order]
