"""How rows become packed rows, and how many optimiser steps that makes: what the trainer does and the estimate tells.

Knows nothing of torch.
"""

from __future__ import annotations

import math
from typing import Any

import numpy

from tunesmith.chat.packing import pack
from tunesmith.finetune.limits import PACKED_ROW
from tunesmith.finetune.parameters import FinetuneParameters


def capacity(lengths: Any, parameters: FinetuneParameters, context_length: int) -> int:
    """Tokens of a packed row."""
    longest = int(numpy.max(lengths)) if len(lengths) else 1
    wanted = parameters.max_seq_length if parameters.max_seq_length > 0 else min(context_length, PACKED_ROW)
    return max(longest, wanted)


def packed_rows(lengths: Any, parameters: FinetuneParameters, tokens: int, *, seed: int) -> list[list[int]]:
    """Row numbers, packed into rows of at most ``tokens``, or each by itself."""
    if not parameters.packing:
        return [[row] for row in range(len(lengths))]
    return [list(rows) for rows in pack(lengths, tokens, seed=seed)]


def steps_of(bins: int, parameters: FinetuneParameters, *, world: int = 1) -> tuple[int, int]:
    """Optimiser steps in an epoch of ``bins`` packed rows, and in the whole run."""
    micro = math.ceil(bins / parameters.per_device_train_batch_size)
    each = max(1, math.ceil(micro / (parameters.gradient_accumulation_steps * world)))
    return each, parameters.max_steps if parameters.max_steps > 0 else parameters.num_train_epochs * each
