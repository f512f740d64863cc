"""Rotary embedding and causal attention over packed documents as one function.

For each document, blocks of ``BLOCK`` queries meet the keys up to the block's end: product, mask on the diagonal,
softmax, product. So only the causal half is computed, by the machine's matrix products, and scores stay in cache.
Queries, keys and values are read where the projection left them, side by side for each token. The query heads that
share a key head are rows of one product, so that keys and values are neither spread nor their gradients gathered. The
softmax's output is kept for the backward pass where a document is short (``KEPT_WEIGHTS`` tokens), and made again
where it is long.

Rotary embedding: Su et al. 2021, in transformers' half-split layout; a partial rotation (Phi-3's later models) leaves
the rest as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from tunesmith.finetune.limits import KEPT_WEIGHTS

BLOCK = 64
"""Queries at a time; small enough that a block's scores stay in cache."""


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """Heads and widths of an attention layer. ``window`` is how many tokens back a token sees, itself included."""

    heads: int
    kv_heads: int
    head_dim: int
    scaling: float
    window: int | None = None


def rotate_(x: Tensor, cos: Tensor, sin: Tensor, *, back: bool = False) -> None:
    """Rotate ``x`` [tokens, heads, width] in place by ``cos``, ``sin`` [tokens, rotated width]; ``back`` undoes it."""
    half = cos.shape[-1] // 2
    # The halves of transformers' cos and sin are equal.
    cos, sin = cos[:, None, :half], sin[:, None, :half]
    first, second = x[..., :half], x[..., half : 2 * half]
    turned = first * sin
    sign = 1.0 if back else -1.0
    first.mul_(cos).addcmul_(second, sin, value=sign)
    second.mul_(cos).add_(turned, alpha=-sign)


def _mask(start: int, end: int, first_key: int, window: int, like: Tensor) -> Tensor:
    """What is added to the scores of queries ``start`` to ``end`` against keys from ``first_key`` on."""
    row = torch.arange(start, end, device=like.device)[:, None]
    column = torch.arange(first_key, end, device=like.device)[None, :]
    hidden = (column > row) | (column <= row - window)
    return torch.zeros(end - start, end - first_key, dtype=like.dtype, device=like.device).masked_fill_(
        hidden, -torch.inf
    )


class _Blocks:
    """The blocks of one document and the attention weights of each."""

    def __init__(self, shape: AttentionShape, length: int) -> None:
        self.shape = shape
        self.length = length
        window = shape.window if shape.window is not None and shape.window < length else None
        self.window = window
        self.bounds = [
            (start, min(length, start + BLOCK), 0 if window is None else max(0, start - window + 1))
            for start in range(0, length, BLOCK)
        ]

    def weights(self, query: Tensor, key: Tensor, block: tuple[int, int, int], diagonal: Tensor) -> Tensor:
        """Softmax of one block: [kv heads, query heads of each x queries, keys]; ``query`` is scaled already."""
        start, end, first = block
        count = end - start
        scores = torch.bmm(query, key[:, first:end].transpose(1, 2))
        heads = scores.view(-1, count, end - first)
        if self.window is None:
            heads[:, :, start:].add_(diagonal[:count, :count])
        else:
            heads.add_(_mask(start, end, first, self.window, scores))
        return torch.softmax(scores, -1)


def _rows(x: Tensor, kv_heads: int) -> Tensor:
    """[tokens, heads, width] to [kv heads, heads of each x tokens, width]."""
    tokens, _, width = x.shape
    return x.view(tokens, kv_heads, -1, width).permute(1, 2, 0, 3).reshape(kv_heads, -1, width)


def _put(rows: Tensor, into: Tensor) -> None:
    """Write what ``_rows`` would make of ``into`` [tokens, heads, width] back into it."""
    tokens, _, width = into.shape
    kv_heads = rows.shape[0]
    into.view(tokens, kv_heads, -1, width).copy_(rows.view(kv_heads, -1, tokens, width).permute(2, 0, 1, 3))


class _RotaryAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor, documents: tuple[int, ...], shape: AttentionShape, fresh: bool
    ) -> Tensor:
        tokens = qkv.shape[0]
        heads, kv, width = shape.heads, shape.kv_heads, shape.head_dim
        # Detached: autograd would otherwise take the rotation for a change of its own input.
        qkv = qkv.detach() if fresh else qkv.clone()
        parts = qkv.view(tokens, heads + 2 * kv, width)
        rotate_(parts[:, : heads + kv], cos, sin)
        parts[:, :heads].mul_(shape.scaling)
        output = torch.empty(tokens, heads, width, dtype=qkv.dtype, device=qkv.device)
        diagonal = _diagonal(qkv)
        kept: list[Tensor] = []
        for begin, stop in pairwise(documents):
            key = parts[begin:stop, heads : heads + kv].transpose(0, 1)
            value = parts[begin:stop, heads + kv :].transpose(0, 1)
            blocks = _Blocks(shape, stop - begin)
            for block in blocks.bounds:
                start, end, first = block
                query = _rows(parts[begin + start : begin + end, :heads], kv)
                weights = blocks.weights(query, key, block, diagonal)
                _put(torch.bmm(weights, value[:, first:end]), output[begin + start : begin + end])
                if stop - begin <= KEPT_WEIGHTS:
                    kept.append(weights)
        ctx.save_for_backward(qkv, cos, sin, *kept)
        ctx.documents, ctx.shape = documents, shape
        return output.view(tokens, heads * width)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        qkv, cos, sin, *kept = ctx.saved_tensors
        shape: AttentionShape = ctx.shape
        tokens = qkv.shape[0]
        heads, kv, width = shape.heads, shape.kv_heads, shape.head_dim
        parts = qkv.view(tokens, heads + 2 * kv, width)
        grad = outputs[0].reshape(tokens, heads, width)
        result = torch.empty_like(qkv)
        grads = result.view(tokens, heads + 2 * kv, width)
        diagonal = _diagonal(qkv)
        at = 0
        for begin, stop in pairwise(ctx.documents):
            length = stop - begin
            key = parts[begin:stop, heads : heads + kv].transpose(0, 1)
            value = parts[begin:stop, heads + kv :].transpose(0, 1)
            grad_key = torch.zeros(kv, length, width, dtype=qkv.dtype, device=qkv.device)
            grad_value = torch.zeros_like(grad_key)
            blocks = _Blocks(shape, length)
            for block in blocks.bounds:
                start, end, first = block
                query = _rows(parts[begin + start : begin + end, :heads], kv)
                if length <= KEPT_WEIGHTS:
                    weights = kept[at]
                    at += 1
                else:
                    weights = blocks.weights(query, key, block, diagonal)
                part = _rows(grad[begin + start : begin + end], kv)
                grad_value[:, first:end].baddbmm_(weights.transpose(1, 2), part)
                through = torch.bmm(part, value[:, first:end].transpose(1, 2))
                scores = torch._softmax_backward_data(through, weights, -1, weights.dtype)
                _put(torch.bmm(scores, key[:, first:end]), grads[begin + start : begin + end, :heads])
                grad_key[:, first:end].baddbmm_(scores.transpose(1, 2), query)
            grads[begin:stop, heads : heads + kv] = grad_key.transpose(0, 1)
            grads[begin:stop, heads + kv :] = grad_value.transpose(0, 1)
        grads[:, :heads].mul_(shape.scaling)
        rotate_(grads[:, : heads + kv], cos, sin, back=True)
        return result, None, None, None, None, None


def _diagonal(like: Tensor) -> Tensor:
    return torch.full((BLOCK, BLOCK), -torch.inf, dtype=like.dtype, device=like.device).triu_(1)


def rotary_attention(
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    documents: tuple[int, ...],
    shape: AttentionShape,
    *,
    fresh: bool = False,
) -> Tensor:
    """Attention of ``qkv`` [tokens, (heads + 2 kv heads) x width] within each document: [tokens, heads x width].

    ``fresh`` says that nobody else needs ``qkv``, so that it is rotated in place.
    """
    result: Tensor = _RotaryAttention.apply(qkv, cos, sin, documents, shape, fresh)  # type: ignore[no-untyped-call]
    return result
