"""Encoding ahead: while ``tokenizers`` encodes one chunk of texts in a thread of its own (in Rust, on every core,
without Python's lock), the caller reads and renders the next. Order is kept, and no more than a few megabytes of text
are on the way at any time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

from tunesmith.chat.encoded import Encoded, Rendered
from tunesmith.chat.tokens import ChatTokenizer

_CHUNK_ITEMS = 128
_CHUNK_CHARACTERS = 500_000
_CHUNKS_AHEAD = 2


class HasRendered(Protocol):
    """Something on its way to be encoded; ``None`` passes through."""

    @property
    def rendered(self) -> Rendered | None:
        """The text to encode."""


Item = TypeVar("Item", bound=HasRendered)


def encode_ahead(items: Iterable[Item], tokenizer: ChatTokenizer) -> Iterator[tuple[Item, Encoded | None]]:
    """Each item with the ids of its text, in order; items without a text come with ``None``."""
    with ThreadPoolExecutor(1, thread_name_prefix="encode") as pool:
        waiting: deque[tuple[list[Item], Future[list[Encoded]]]] = deque()
        for chunk in _chunks(items):
            texts = [item.rendered for item in chunk if item.rendered is not None]
            waiting.append((chunk, pool.submit(tokenizer.encode_batch, texts)))
            if len(waiting) > _CHUNKS_AHEAD:
                yield from _joined(*waiting.popleft())
        while waiting:
            yield from _joined(*waiting.popleft())


def _joined(chunk: list[Item], future: Future[list[Encoded]]) -> Iterator[tuple[Item, Encoded | None]]:
    encoded = iter(future.result())
    for item in chunk:
        yield item, None if item.rendered is None else next(encoded)


def _chunks(items: Iterable[Item]) -> Iterator[list[Item]]:
    chunk: list[Item] = []
    characters = 0
    for item in items:
        chunk.append(item)
        characters += 0 if item.rendered is None else len(item.rendered.text)
        if len(chunk) >= _CHUNK_ITEMS or characters >= _CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk
