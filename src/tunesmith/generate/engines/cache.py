"""Keys and values of the answers under way, and the attention that reads them.

Answers of similar length stand together on a *shelf*: for each layer one tensor ``[rows, kv_heads, capacity,
head_dim]``, of which the first ``n`` rows are in use, so one attention call serves them all without gathering
anything. An answer that outgrows its shelf moves to the next, of twice the capacity; when one ends, the last row
takes its place. A prompt that is being read has tensors of its own (a *draft*) until it is whole.

Every pass through the model has one row of tokens, ``[1, tokens]``: first one token for each answer, shelf by shelf,
then the pieces of prompts. Linear layers see them all at once; ``attend`` below takes them apart. No padding is
computed but the unused ends of shelves.

A pass must not mix sequences for which the model computes other rotations; such sequences have shelves of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from tunesmith.generate.engines.runner import Group, Place

ATTENTION = "tunesmith_shelves"
"""The name under which transformers knows ``attend``."""
SMALLEST = 256
"""Capacity of the smallest shelf, in tokens."""


def capacity_for(tokens: int) -> int:
    """The capacity of the shelf that ``tokens`` tokens stand on."""
    capacity = SMALLEST
    while capacity < tokens:
        capacity *= 2
    return capacity


@dataclass(frozen=True, slots=True)
class Shape:
    """What the cache must know of a model."""

    layers: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device

    @property
    def token_bytes(self) -> int:
        """Bytes of keys and values of one token."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.dtype.itemsize


class Draft:
    """Keys and values of one prompt while it is read."""

    def __init__(self, shape: Shape, tokens: int) -> None:
        size = (shape.layers, shape.kv_heads, tokens, shape.head_dim)
        self.keys = torch.empty(size, dtype=shape.dtype, device=shape.device)
        self.values = torch.empty(size, dtype=shape.dtype, device=shape.device)


class Shelf:
    """Answers of up to ``capacity`` tokens."""

    def __init__(self, shape: Shape, capacity: int) -> None:
        self.shape = shape
        self.capacity = capacity
        self.members: list[ShelfPlace] = []
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []
        self._rows = 0

    @property
    def bytes(self) -> int:
        """Memory held."""
        return self._rows * self.capacity * self.shape.token_bytes

    def add(self, place: ShelfPlace, keys: Sequence[torch.Tensor], values: Sequence[torch.Tensor]) -> None:
        """Put a sequence (``[kv_heads, length, head_dim]`` for each layer) on the shelf."""
        row = len(self.members)
        if row >= self._rows:
            self._resize(max(2 * self._rows, 1))
        for layer in range(self.shape.layers):
            self.keys[layer][row, :, : place.length] = keys[layer]
            self.values[layer][row, :, : place.length] = values[layer]
        self.members.append(place)
        place.shelf, place.row = self, row

    def remove(self, place: ShelfPlace) -> None:
        """Take a sequence off; the last one moves into its row."""
        row, last = place.row, len(self.members) - 1
        if row != last:
            moved = self.members[last]
            for tensors in (self.keys, self.values):
                for tensor in tensors:
                    tensor[row, :, : moved.length] = tensor[last, :, : moved.length]
            self.members[row] = moved
            moved.row = row
        self.members.pop()
        place.shelf = None
        if not self.members:
            self.keys, self.values, self._rows = [], [], 0
        elif len(self.members) * 4 <= self._rows:
            self._resize(self._rows // 2)

    def _resize(self, rows: int) -> None:
        size = (rows, self.shape.kv_heads, self.capacity, self.shape.head_dim)
        kept = len(self.members)
        for tensors in (self.keys, self.values):
            for layer in range(self.shape.layers):
                # Zeros, not whatever was in memory: a masked NaN times zero would still be NaN.
                fresh = torch.zeros(size, dtype=self.shape.dtype, device=self.shape.device)
                if kept:
                    fresh[:kept] = tensors[layer][:kept]
                    tensors[layer] = fresh
                else:
                    tensors.append(fresh)
        self._rows = rows


@dataclass(slots=True, eq=False)
class ShelfPlace(Place):
    """A place on a shelf, or a draft."""

    shelf: Shelf | None = None
    row: int = -1
    draft: Draft | None = None


class Shelves:
    """All keys and values of an engine."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self._shelves: dict[tuple[Group, int], Shelf] = {}
        self._drafts: list[Draft] = []

    @property
    def bytes(self) -> int:
        """Memory held now."""
        drafts = sum(draft.keys.numel() + draft.values.numel() for draft in self._drafts) * self.shape.dtype.itemsize
        return drafts + sum(shelf.bytes for shelf in self._shelves.values())

    def begin(self, place: ShelfPlace, tokens: int) -> None:
        """Make room for a prompt of ``tokens`` tokens."""
        place.draft = Draft(self.shape, tokens)
        self._drafts.append(place.draft)

    def settle(self, place: ShelfPlace, copies: int = 0) -> list[ShelfPlace]:
        """The prompt is read: put it on a shelf, and so often again; the places of the copies."""
        draft = place.draft
        assert draft is not None
        others = [ShelfPlace(place.group, place.adapter, place.length) for _ in range(copies)]
        for target in (place, *others):
            self._shelf(target).add(target, list(draft.keys), list(draft.values))
        self._drafts.remove(draft)
        place.draft = None
        return others

    def make_room(self, place: ShelfPlace) -> None:
        """Let one more token fit; may move the sequence to the next shelf."""
        shelf = place.shelf
        assert shelf is not None
        if place.length < shelf.capacity:
            return
        row = place.row
        keys = [tensor[row, :, : place.length].clone() for tensor in shelf.keys]
        values = [tensor[row, :, : place.length].clone() for tensor in shelf.values]
        shelf.remove(place)
        self._shelf(place).add(place, keys, values)

    def release(self, place: ShelfPlace) -> None:
        """Free what a sequence holds."""
        if place.draft is not None:
            self._drafts.remove(place.draft)
            place.draft = None
        if place.shelf is not None:
            place.shelf.remove(place)

    def shelves(self, group: Group) -> list[Shelf]:
        """The shelves of a group that are in use."""
        return [shelf for (of, _), shelf in sorted(self._shelves.items()) if of == group and shelf.members]

    def _shelf(self, place: ShelfPlace) -> Shelf:
        capacity = capacity_for(place.length + 1)
        key = (place.group, capacity)
        if key not in self._shelves:
            self._shelves[key] = Shelf(self.shape, capacity)
        return self._shelves[key]


@dataclass(slots=True)
class Piece:
    """Tokens ``start`` to ``end`` of a pass, which are tokens ``offset`` and following of a draft."""

    draft: Draft
    start: int
    end: int
    offset: int


@dataclass(slots=True)
class Pass:
    """The order of tokens in one pass through the model, as ``attend`` needs it."""

    shelves: list[tuple[Shelf, int, torch.Tensor]]
    """Shelf, the place of its first token, and the position of each row's new token."""
    pieces: list[Piece]
    adapters: list[str | None] = field(default_factory=list)
    """The adapter of each token."""
    masks: dict[tuple[Any, ...], torch.Tensor] = field(default_factory=dict)
    """Masks made once and used by all layers."""

    def mask(self, key: tuple[Any, ...], make: Callable[..., torch.Tensor], *arguments: Any) -> torch.Tensor:
        """The mask for ``key``, made on first use."""
        if key not in self.masks:
            self.masks[key] = make(*arguments)
        return self.masks[key]


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    shelves: Pass,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Transformers' attention interface over shelves and drafts.

    ``query`` is ``[1, heads, tokens, head_dim]``, ``key`` and ``value`` have ``kv_heads``. Returns ``[1, tokens,
    heads, head_dim]``. Raises ``NotImplementedError`` for an option of the model's attention that is not known here.
    """
    unknown = [name for name in ("softcap", "s_aux", "position_bias") if others.get(name) is not None]
    if unknown:
        raise NotImplementedError(f"attention with {', '.join(unknown)}")
    layer: int = module.layer_idx  # type: ignore[assignment]
    heads, kv_heads, head_dim = query.shape[1], key.shape[1], query.shape[3]
    out = torch.empty(query.shape[2], heads, head_dim, dtype=query.dtype, device=query.device)
    for number, (shelf, start, positions) in enumerate(shelves.shelves):
        rows = len(shelf.members)
        end = start + rows
        index = torch.arange(rows, device=query.device)
        keys, values = shelf.keys[layer], shelf.values[layer]
        keys[index, :, positions] = key[0, :, start:end].transpose(0, 1)
        values[index, :, positions] = value[0, :, start:end].transpose(0, 1)
        longest = max(place.length for place in shelf.members) + 1
        mask = shelves.mask((number, sliding_window), _rows_mask, positions, longest, sliding_window, query.dtype)
        # Heads that share keys are taken as queries of one head: the same result, without repeating keys and values.
        grouped = query[0, :, start:end].transpose(0, 1).reshape(rows, kv_heads, heads // kv_heads, head_dim)
        answer = scaled_dot_product_attention(
            grouped, keys[:rows, :, :longest], values[:rows, :, :longest], attn_mask=mask, scale=scaling
        )
        out[start:end] = answer.reshape(rows, heads, head_dim)
    for piece in shelves.pieces:
        stop = piece.offset + piece.end - piece.start
        keys, values = piece.draft.keys[layer], piece.draft.values[layer]
        keys[:, piece.offset : stop] = key[0, :, piece.start : piece.end]
        values[:, piece.offset : stop] = value[0, :, piece.start : piece.end]
        whole = piece.offset == 0 and (sliding_window is None or stop <= sliding_window)
        partial = None
        if not whole:
            partial = shelves.mask(
                ("piece", piece.start, sliding_window), _piece_mask, piece.offset, stop, sliding_window, query.device
            )
        answer = scaled_dot_product_attention(
            query[:, :, piece.start : piece.end],
            keys[None, :, :stop],
            values[None, :, :stop],
            attn_mask=partial,
            is_causal=whole,
            scale=scaling,
            enable_gqa=heads != kv_heads,
        )
        out[piece.start : piece.end] = answer[0].transpose(0, 1)
    return out.unsqueeze(0), None


def _rows_mask(positions: torch.Tensor, longest: int, window: int | None, dtype: torch.dtype) -> torch.Tensor:
    """Additive mask ``[rows, 1, 1, longest]``: each row sees its own tokens up to its position."""
    places = torch.arange(longest, device=positions.device)
    seen = places[None] <= positions[:, None]
    if window is not None:
        seen &= places[None] > positions[:, None] - window
    mask = torch.zeros(seen.shape, dtype=dtype, device=positions.device).masked_fill_(~seen, float("-inf"))
    return mask[:, None, None]


def _piece_mask(offset: int, stop: int, window: int | None, device: torch.device) -> torch.Tensor:
    """Boolean mask ``[1, 1, stop - offset, stop]``: causal, of the last tokens over all."""
    queries = torch.arange(offset, stop, device=device)[:, None]
    places = torch.arange(stop, device=device)[None]
    seen = places <= queries
    if window is not None:
        seen &= places > queries - window
    return seen[None, None]
