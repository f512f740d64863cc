"""What happens to a conversation that is longer than the model may see: checking foretells it, preparation does it,
by the same code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from tunesmith.chat.encoded import Encoded, LossOn
from tunesmith.chat.messages import Conversation
from tunesmith.chat.tokens import ChatTokenizer
from tunesmith.chat.turns import exchanges, shorten, without_oldest
from tunesmith.errors import InvalidData, UserError

OnTooLong = Literal["truncate_turns", "drop", "fail"]
"""Rows longer than ``max_seq_length``: leave out their oldest turns, leave out the row, or stop."""
Outcome = Literal["kept", "cut", "too_long", "no_trained_tokens"]


@dataclass(frozen=True, slots=True)
class Fitted:
    """A conversation as it is kept, or why it is not."""

    outcome: Outcome
    conversation: Conversation
    encoded: Encoded
    exchanges_removed: int = 0


class Fitter:
    """Applies ``on_too_long`` with a limit in tokens; ``None`` is no limit."""

    def __init__(self, tokenizer: ChatTokenizer, *, limit: int | None, on_too_long: OnTooLong, loss_on: LossOn) -> None:
        one_of("on_too_long", on_too_long, get_args(OnTooLong))
        one_of("loss_on", loss_on, get_args(LossOn))
        self._tokenizer = tokenizer
        self._limit = limit
        self._on_too_long = on_too_long
        self._loss_on: LossOn = loss_on

    def fit(self, conversation: Conversation, encoded: Encoded) -> Fitted:
        """Make a conversation fit. Raises ``InvalidData`` with ``on_too_long="fail"`` if it does not."""
        outcome: Outcome = "kept"
        removed = 0
        if self._limit is not None and len(encoded.ids) > self._limit:
            if self._on_too_long == "fail":
                raise InvalidData(
                    f"the conversation has {len(encoded.ids):,} tokens, more than {self._limit:,}",
                    target=conversation.source,
                    way_out="raise max_seq_length, or choose on_too_long: truncate_turns leaves out the oldest turns, "
                    "drop leaves out the row",
                )
            shorter = None if self._on_too_long == "drop" else self._shorten(conversation, encoded, self._limit)
            if shorter is None:
                return Fitted("too_long", conversation, encoded)
            conversation, encoded, removed = shorter
            outcome = "cut"
        if not encoded.spans:
            outcome = "no_trained_tokens"
        return Fitted(outcome, conversation, encoded, removed)

    def _shorten(
        self, conversation: Conversation, encoded: Encoded, limit: int
    ) -> tuple[Conversation, Encoded, int] | None:
        tried: dict[int, tuple[Conversation, Encoded]] = {}

        def measure(count: int) -> int:
            shorter = without_oldest(conversation, count)
            tried[count] = shorter, self._tokenizer.encode(shorter, loss_on=self._loss_on)
            return len(tried[count][1].ids)

        # An exchange ends with its last answer; one that carries no loss has no place here.
        lasts = [
            max((span.end for span in encoded.spans if begin <= span.message < end), default=None)
            for begin, end in exchanges(conversation)
        ]
        ends = [last for last in lasts if last is not None]
        known = len(ends) == len(lasts) and self._loss_on != "all"
        count = shorten(conversation, limit, measure, length=len(encoded.ids), ends=ends if known else None)
        return None if count is None else (*tried[count], count)


def one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise ``UserError`` for a value that is not one of those allowed."""
    if value not in allowed:
        raise UserError(f"{name} is {value!r}", target=name, way_out=f"one of {', '.join(allowed)}")
