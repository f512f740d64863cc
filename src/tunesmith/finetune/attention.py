"""Attention over packed rows, document by document, plugged into transformers' own models.

A packed row is a sequence of documents (conversations). A token sees the tokens of its own document up to itself and
nothing else:

    document      A A A B B C
           A      x
           A      x x
           A      x x x
           B            x
           B            x x
           C                x

Computing each document by itself leaves out everything that the mask would remove; a dense mask would compute it
first. Models get this through transformers' attention interface under the name ``NAME``, with the documents' bounds
in the keyword ``documents``. Sliding windows are honoured; attention sinks, soft caps and position biases are not,
and the caller falls back to a plain path for them.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn

NAME = "tunesmith_documents"

Documents = tuple[int, ...]
"""Bounds of a row's documents: 0, end of the first, …, length of the row."""


def document_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    dropout: float = 0.0,
    documents: Documents | None = None,
    sliding_window: int | None = None,
    **unused: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: ``query`` [1, heads, tokens, width] in, [1, tokens, heads, width] out.

    Raises:
        ValueError: no ``documents`` were passed: the model's code does not hand its keywords to attention.
    """
    if documents is None:
        raise ValueError("the model did not pass the documents' bounds to its attention")
    parts = [
        _causal(
            query[:, :, start:end],
            key[:, :, start:end],
            value[:, :, start:end],
            scaling=scaling,
            dropout=dropout,
            window=sliding_window,
        )
        for start, end in itertools.pairwise(documents)
    ]
    output = parts[0] if len(parts) == 1 else torch.cat(parts, 2)
    return output.transpose(1, 2).contiguous(), None


def _causal(query: Tensor, key: Tensor, value: Tensor, *, scaling: float, dropout: float, window: int | None) -> Tensor:
    length = query.shape[2]
    groups = query.shape[1] // key.shape[1]
    mask = None
    if window is not None and window < length:
        position = torch.arange(length, device=query.device)
        distance = position[:, None] - position[None, :]
        mask = (distance >= 0) & (distance < window)
    if groups > 1 and (query.device.type == "cpu" or mask is not None):
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        groups = 1
    return torch.nn.functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=groups > 1,
    )


def register() -> str:
    """Make the attention known to transformers; the name to set as ``_attn_implementation``."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, document_attention)
    return NAME
