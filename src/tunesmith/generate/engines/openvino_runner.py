"""The runner of the openvino engine: blocks of keys and values for a compiled model.

Keys and values lie in blocks of a fixed number of tokens; a sequence has a table of its blocks, so nothing moves when
it grows. Further answers to one prompt share its whole blocks and copy only the last, unfinished one.

Knows arithmetic of blocks; what computes is a ``PagedModel``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tunesmith.generate.engines.openvino_model import PagedModel
from tunesmith.generate.engines.runner import Group, Place, Row, Span
from tunesmith.generate.sampling import Logits


@dataclass(slots=True, eq=False)
class BlockPlace(Place):
    """A sequence's table of blocks."""

    blocks: list[int] = field(default_factory=list)


class OpenVinoRunner:
    """Serves one compiled model."""

    def __init__(self, model: PagedModel) -> None:
        self._model = model
        self._size = model.block_tokens
        self._free = list(range(model.blocks))[::-1]
        self._readers: dict[int, int] = {}

    @property
    def cache_bytes(self) -> int:
        """Memory of the blocks in use."""
        return len(self._readers) * self._model.block_bytes

    def needed_bytes(self, tokens: int, choices: int) -> int:
        """Memory that answers come to need, as if they shared nothing."""
        return choices * -(-tokens // self._size) * self._model.block_bytes

    def group(self, tokens: int, adapter: str | None) -> Group:
        """Sequences on both sides of the length where all rotations change are kept apart; adapters are not."""
        switch = self._model.facts.rotation_switch
        return (switch is not None and tokens > switch,)

    def reads_whole(self, group: Group) -> bool:
        """Rotations depend on the longest position of a pass, so a prompt beyond the switch is read in one."""
        return bool(group[0])

    def begin(self, tokens: int, group: Group, adapter: str | None) -> Place:
        """Blocks for a prompt."""
        place = BlockPlace(group, adapter)
        place.blocks = [self._take() for _ in range(-(-tokens // self._size))]
        return place

    def settle(self, place: Place, copies: int) -> list[Place]:
        """Places that share the whole blocks of a prompt."""
        own = _own(place)
        whole = own.length // self._size
        others: list[Place] = []
        for _ in range(copies):
            other = BlockPlace(own.group, own.adapter, own.length, own.blocks[:whole])
            for block in other.blocks:
                self._readers[block] += 1
            if own.length % self._size:
                last = self._take()
                self._model.copy_block(own.blocks[whole], last)
                other.blocks.append(last)
            others.append(other)
        return others

    def make_room(self, place: Place) -> None:
        """Let one more token fit."""
        own = _own(place)
        if own.length >= len(own.blocks) * self._size:
            own.blocks.append(self._take())

    def release(self, place: Place) -> None:
        """Free what nobody else reads."""
        own = _own(place)
        for block in own.blocks:
            self._readers[block] -= 1
            if not self._readers[block]:
                del self._readers[block]
                self._free.append(block)
        own.blocks = []

    def run(self, rows: Sequence[Row], spans: Sequence[Span]) -> Logits:
        """One pass: see ``Runner.run``."""
        ids: list[int] = []
        positions: list[int] = []
        past: list[int] = []
        begins = [0]
        tables: list[list[int]] = []
        wanted: list[int] = []
        adapters: list[str | None] = []
        for row in rows:
            wanted.append(len(ids))
            ids.append(row.token)
            positions.append(row.place.length)
            past.append(row.place.length)
            begins.append(len(ids))
            tables.append(_own(row.place).blocks)
            adapters.append(row.place.adapter)
        for span in spans:
            ids += span.ids
            positions += range(span.offset, span.offset + len(span.ids))
            past.append(span.offset)
            begins.append(len(ids))
            tables.append(_own(span.place).blocks)
            adapters += [span.place.adapter] * len(span.ids)
            if span.last:
                wanted.append(len(ids) - 1)
        return self._model.infer(ids, positions, past, begins, tables, wanted, adapters)

    def _take(self) -> int:
        if not self._free:
            # Beyond the limit only for a request that had to be admitted alone.
            more = max(self._model.blocks // 4, 16)
            self._free = list(range(self._model.blocks, self._model.blocks + more))[::-1]
            self._model.grow(self._model.blocks + more)
        block = self._free.pop()
        self._readers[block] = 1
        return block


def _own(place: Place) -> BlockPlace:
    assert isinstance(place, BlockPlace)
    return place
