"""Rows token by token, with whether each token carries loss: what a person looks at before a run.

Plain values; ``render.py`` gives them colours.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tunesmith.chat.encoded import Encoded, LossOn
from tunesmith.chat.formats import conversation_of
from tunesmith.chat.messages import Conversation
from tunesmith.chat.readers import read_rows
from tunesmith.chat.tokens import ChatTokenizer


@dataclass(frozen=True, slots=True)
class PreviewToken:
    """A token: its id, the text it stands for, and whether it carries loss."""

    id: int
    text: str
    trained: bool


@dataclass(frozen=True, slots=True)
class MaskPreview:
    """A row; ``total`` and ``trained`` count all its tokens, ``tokens`` may be its first only."""

    location: str
    tokens: tuple[PreviewToken, ...]
    total: int
    trained: int

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> MaskPreview:
        """Read the JSON form back."""
        return cls(**{**body, "tokens": tuple(PreviewToken(**token) for token in body["tokens"])})


def mask_preview(
    tokenizer: ChatTokenizer, conversation: Conversation, encoded: Encoded, *, limit: int | None = None
) -> MaskPreview:
    """The preview of a conversation that was encoded; ``limit`` is the most tokens to show."""
    text = tokenizer.render(conversation)
    trained = encoded.trained
    tokens: list[PreviewToken] = []
    position = 0
    for index, (id, (_, end)) in enumerate(zip(encoded.ids, tokenizer.offsets(text), strict=True)):
        if limit is not None and index >= limit:
            break
        end = max(position, end)  # a character that is several tokens is shown with the first
        tokens.append(PreviewToken(id, text[position:end], trained[index]))
        position = end
    return MaskPreview(conversation.source, tuple(tokens), len(encoded.ids), encoded.trained_count)


def preview_rows(
    path: Path | str,
    tokenizer: ChatTokenizer,
    rows: int = 3,
    *,
    loss_on: LossOn = "assistant",
    limit: int | None = 400,
) -> list[MaskPreview]:
    """The first ``rows`` rows of a file, at most ``limit`` tokens of each.

    Raises ``InvalidData`` for a row among them that is faulty.
    """
    previews: list[MaskPreview] = []
    for row in read_rows(path):
        if len(previews) >= rows:
            break
        conversation = conversation_of(row)
        encoded = tokenizer.encode(conversation, loss_on=loss_on)
        previews.append(mask_preview(tokenizer, conversation, encoded, limit=limit))
    return previews
