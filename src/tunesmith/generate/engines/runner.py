"""What the batching loop asks of the library that computes: keep sequences, and run the model over them.

The loop decides who is read and who answers; a runner knows where keys and values lie and how the model is called.
Logits come back as numpy, so the loop and the sampling are the same for every library.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tunesmith.generate.sampling import Logits

Group = tuple[object, ...]
"""Sequences of different groups never share a pass (see ``Runner.group``)."""


@dataclass(slots=True, eq=False)
class Place:
    """Where one sequence's keys and values are; a runner's own class adds what it must know."""

    group: Group = ()
    adapter: str | None = None
    """The LoRA adapter that the sequence is computed with."""
    length: int = 0
    """Tokens that are in the cache."""


@dataclass(slots=True)
class Row:
    """An answer under way: its newest token goes through the model."""

    place: Place
    token: int


@dataclass(slots=True)
class Span:
    """Tokens ``offset`` and following of a prompt; ``last`` when the prompt ends with them."""

    place: Place
    ids: list[int]
    offset: int
    last: bool


class Runner(Protocol):
    """One model, with the memory for its sequences. Used by one thread."""

    @property
    def cache_bytes(self) -> int:
        """Memory that sequences hold now."""

    def needed_bytes(self, tokens: int, choices: int) -> int:
        """Memory that ``choices`` answers come to need when each, with its prompt, is ``tokens`` long."""

    def group(self, tokens: int, adapter: str | None) -> Group:
        """The group of a sequence of ``tokens`` tokens; a sequence whose group changes is read anew."""

    def reads_whole(self, group: Group) -> bool:
        """Whether a prompt of this group must be read in one pass."""

    def begin(self, tokens: int, group: Group, adapter: str | None) -> Place:
        """Make room for a prompt. ``MemoryError`` or ``RuntimeError`` where there is none."""

    def settle(self, place: Place, copies: int) -> list[Place]:
        """The prompt of ``place`` is read: the places of so many further answers to it."""

    def make_room(self, place: Place) -> None:
        """Let one more token fit."""

    def release(self, place: Place) -> None:
        """Free what a sequence holds; may be called twice."""

    def run(self, rows: Sequence[Row], spans: Sequence[Span]) -> Logits:
        """One pass, all of one group. Logits ``[rows + last spans, vocabulary]`` in the order given.

        It sets no lengths: the loop does, once the pass has succeeded.
        """
