"""What becomes of a row when it is encoded for a model, with the policy for long rows: checking foretells it,
preparation keeps it.

A ``RowEncoder`` works on chunks of rows that were read, in this process or (see ``workers.py``) in others; what goes
in and comes out can be pickled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import numpy as np

from tunesmith.chat.contract import ChatContract
from tunesmith.chat.encoded import Encoded, LossOn, Rendered
from tunesmith.chat.fitting import Fitter, OnTooLong
from tunesmith.chat.formats import parse_row
from tunesmith.chat.messages import Conversation
from tunesmith.chat.readers import Row
from tunesmith.chat.tokens import ChatTokenizer
from tunesmith.errors import Fault, InvalidData

RowOutcome = Literal["kept", "cut", "too_long", "no_trained_tokens", "faulty", "refused"]
"""``faulty``: the row itself; ``refused``: by the model's template."""


@dataclass(frozen=True, slots=True)
class EncodeJob:
    """Everything a ``RowEncoder`` depends on."""

    tokenizer_json: bytes
    contract: str
    """The chat contract's JSON."""
    today: datetime
    """The day that templates may print."""
    loss_on: LossOn
    limit: int | None
    """Tokens; ``None`` is no limit."""
    on_too_long: OnTooLong
    keep: bool
    """Whether ids and conversations are wanted, or only their numbers."""

    @classmethod
    def of(
        cls, tokenizer: ChatTokenizer, *, loss_on: LossOn, limit: int | None, on_too_long: OnTooLong, keep: bool
    ) -> EncodeJob:
        """The job of a tokenizer. Raises ``UserError`` for a parameter that has no such value."""
        Fitter(tokenizer, limit=limit, on_too_long=on_too_long, loss_on=loss_on)
        today = tokenizer.today or datetime.now()
        contract = tokenizer.contract.to_json()
        return cls(tokenizer.tokenizer_json, contract, today, loss_on, limit, on_too_long, keep)


@dataclass(slots=True)
class EncodedRow:
    """A row that was encoded, or why it was not."""

    number: int
    place: str
    outcome: RowOutcome
    faults: Sequence[Fault] = ()
    """With the outcomes ``faulty`` and ``refused``, and with ``too_long`` where long rows are to fail."""
    warnings: Sequence[Fault] = ()
    notes: Sequence[str] = ()
    ignored: Sequence[str] = ()
    length_before: int = 0
    """Tokens, before anything is cut."""
    length: int = 0
    trained: int = 0
    exchanges_removed: int = 0
    ends_trained: bool = False
    """Whether an end-of-turn token carries loss."""
    marked: bool = False
    tools_ignored: bool = False
    ids: np.ndarray | None = None
    """int32."""
    spans: np.ndarray | None = None
    """int32: beginnings and ends of the runs of tokens that carry loss, in turn."""
    conversation: str = ""
    """JSON, as it was cut."""


class RowEncoder:
    """Encodes rows by a job."""

    def __init__(self, job: EncodeJob) -> None:
        contract = ChatContract.from_json(job.contract)
        self._job = job
        self._tokenizer = ChatTokenizer(job.tokenizer_json, contract, today=job.today)
        self._fitter = Fitter(self._tokenizer, limit=job.limit, on_too_long=job.on_too_long, loss_on=job.loss_on)
        self._ends = frozenset(contract.eos_token_ids)
        self._writes_tools = "tools" in contract.accepts or contract.tool_template is not None

    def encode(self, rows: Sequence[Row]) -> list[EncodedRow]:
        """Encode a chunk of rows, in order."""
        found: list[EncodedRow] = []
        waiting: list[tuple[EncodedRow, Conversation, Rendered]] = []
        for row in rows:
            parsed = parse_row(row)
            item = EncodedRow(row.number, row.location, "faulty", parsed.faults, (), parsed.notes, parsed.ignored)
            found.append(item)
            if parsed.conversation is None:
                continue
            try:
                rendered = self._tokenizer.render_marked(parsed.conversation, loss_on=self._job.loss_on)
            except InvalidData as error:
                item.outcome = "refused"
                item.faults = [Fault(error.message, error.target, "TemplateRefuses", error.way_out)]
                continue
            waiting.append((item, parsed.conversation, rendered))
        encoded = self._tokenizer.encode_batch([rendered for _, _, rendered in waiting])
        for (item, conversation, _), ids in zip(waiting, encoded, strict=True):
            self._fit(item, conversation, ids)
        return found

    def _fit(self, item: EncodedRow, conversation: Conversation, encoded: Encoded) -> None:
        item.tools_ignored = bool(conversation.tools) and not self._writes_tools
        item.length_before = len(encoded.ids)
        if not self._job.keep:
            item.warnings = self._warnings(conversation, item.tools_ignored)
        try:
            fitted = self._fitter.fit(conversation, encoded)
        except InvalidData as error:
            item.outcome = "too_long"
            item.faults = [Fault(error.message, error.target, "TooLong", error.way_out)]
            return
        item.outcome = fitted.outcome
        if fitted.outcome not in ("kept", "cut"):
            return
        ids, spans = fitted.encoded.ids, fitted.encoded.spans
        item.length = len(ids)
        item.trained = fitted.encoded.trained_count
        item.exchanges_removed = fitted.exchanges_removed
        item.marked = fitted.encoded.method == "marked"
        item.ends_trained = any(ids[span.end - 1] in self._ends for span in spans)
        if self._job.keep:
            item.ids = np.array(ids, dtype=np.int32)
            item.spans = np.array([edge for span in spans for edge in (span.start, span.end)], dtype=np.int32)
            item.conversation = fitted.conversation.to_json()

    def _warnings(self, conversation: Conversation, tools_ignored: bool) -> list[Fault]:
        warnings: list[Fault] = []
        for index, message in enumerate(conversation.messages):
            if special := self._tokenizer.special_tokens_in(message.content):
                place = f"{conversation.source}#messages[{index}].content"
                text = f"writes out the model's special token {special[0]!r}, which will be taken for the real one"
                warnings.append(Fault(text, place, "SpecialTokenInText", "remove it from the text"))
        if tools_ignored:
            text = "describes tools, which this model's chat template does not write"
            warnings.append(
                Fault(text, f"{conversation.source}#tools", "ToolsIgnored", "choose a model made for tools")
            )
        return warnings
