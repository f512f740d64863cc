"""The runner of the transformers engine: shelves of keys and values, and a function that runs the model over them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from tunesmith.generate.engines.cache import Pass, Piece, Shape, ShelfPlace, Shelves, capacity_for
from tunesmith.generate.engines.runner import Group, Place, Row, Span
from tunesmith.generate.sampling import Logits

Forward = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Pass], torch.Tensor]
"""(ids ``[tokens]``, positions ``[tokens]``, tokens whose logits are wanted ``[rows]``, the pass) → logits ``[rows,
vocabulary]``.
"""


class TorchRunner:
    """``rotation_switch`` is the length at which the model changes the rotations of *all* positions (longrope): keys
    from before are useless then, so sequences on both sides of it are kept apart.
    """

    def __init__(self, forward: Forward, shape: Shape, *, rotation_switch: int | None = None) -> None:
        self._forward = forward
        self._shelves = Shelves(shape)
        self._device = shape.device
        self._token_bytes = shape.token_bytes
        self._switch = rotation_switch

    @property
    def cache_bytes(self) -> int:
        """Memory that sequences hold now."""
        return self._shelves.bytes

    def needed_bytes(self, tokens: int, choices: int) -> int:
        """Memory that answers come to need."""
        return choices * capacity_for(tokens) * self._token_bytes

    def group(self, tokens: int, adapter: str | None) -> Group:
        """Answers of different adapters share passes; those of different rotations do not."""
        return (self._switch is not None and tokens > self._switch,)

    def reads_whole(self, group: Group) -> bool:
        """Rotations depend on the longest position of a pass, so a prompt beyond the switch is read in one."""
        return bool(group[0])

    def begin(self, tokens: int, group: Group, adapter: str | None) -> Place:
        """Make room for a prompt."""
        place = ShelfPlace(group, adapter)
        self._shelves.begin(place, tokens)
        return place

    def settle(self, place: Place, copies: int) -> list[Place]:
        """The prompt is read: put it on a shelf, and so often again."""
        return list(self._shelves.settle(_own(place), copies))

    def make_room(self, place: Place) -> None:
        """Let one more token fit."""
        self._shelves.make_room(_own(place))

    def release(self, place: Place) -> None:
        """Free what a sequence holds."""
        self._shelves.release(_own(place))

    def run(self, rows: Sequence[Row], spans: Sequence[Span]) -> Logits:
        """One pass: see ``Runner.run``."""
        tokens = {id(row.place): row.token for row in rows}
        ids: list[int] = []
        positions: list[int] = []
        adapters: list[str | None] = []
        at: dict[int, int] = {}
        shelves = []
        for shelf in self._shelves.shelves(rows[0].place.group) if rows else ():
            start = len(ids)
            for place in shelf.members:
                at[id(place)] = len(ids)
                ids.append(tokens[id(place)])
                positions.append(place.length)
                adapters.append(place.adapter)
            shelves.append((shelf, start, torch.tensor(positions[start:], device=self._device)))
        wanted = [at[id(row.place)] for row in rows]
        pieces = []
        for span in spans:
            draft = _own(span.place).draft
            assert draft is not None
            end = len(ids) + len(span.ids)
            pieces.append(Piece(draft, len(ids), end, span.offset))
            ids += span.ids
            positions += range(span.offset, span.offset + len(span.ids))
            adapters += [span.place.adapter] * len(span.ids)
            if span.last:
                wanted.append(end - 1)
        logits = self._forward(
            torch.tensor(ids, device=self._device),
            torch.tensor(positions, device=self._device),
            torch.tensor(wanted, device=self._device, dtype=torch.long),
            Pass(shelves, pieces, adapters),
        )
        found: Logits = logits.float().cpu().numpy()
        return found


def _own(place: Place) -> ShelfPlace:
    assert isinstance(place, ShelfPlace)
    return place
