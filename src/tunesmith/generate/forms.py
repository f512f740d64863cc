"""What forms the answers of a model may have: JSON that is kept to its grammar token by token, calls of tools.

``AnswerForms`` belongs to one tokenizer. An engine asks it for the constraint of each answer, for the decoder of its
ids, and lets it read the calls out of the events. The grammars are llguidance's; the first one that is needed costs
reading the vocabulary once, about a second for 50,000 tokens.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import AsyncIterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from tunesmith.chat.folder import open_tokenizer
from tunesmith.chat.stream import StreamDecoder
from tunesmith.errors import Failure, UnsupportedField
from tunesmith.generate.events import GenerateEvent
from tunesmith.generate.grammar import (
    grammar_of,
    is_strict,
    needs_grammar,
    schema_of_arguments,
    schema_of_format,
)
from tunesmith.generate.request import GenerateRequest
from tunesmith.generate.tool_calls import read_tool_calls
from tunesmith.generate.tool_format import BARE, ToolFormat, tool_format

if TYPE_CHECKING:
    from tunesmith.chat.tokens import ChatTokenizer
    from tunesmith.generate.sampling import Logits

KEPT = 64
"""Compiled grammars that are kept for the next request with the same one."""


class AnswerForms:
    """See the module's docstring. May be used from any thread."""

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self._tokenizer = tokenizer
        self._lock = threading.RLock()
        self._compiled: OrderedDict[str, Any] = OrderedDict()
        self._vocabulary: Any = None

    @cached_property
    def tools(self) -> ToolFormat:
        """How the model writes calls of tools."""
        return tool_format(self._tokenizer)

    @cached_property
    def special(self) -> dict[str, int]:
        """Ids of the special tokens by their text: they are no text to a grammar and are not decoded."""
        added = self._opened.get_added_tokens_decoder()
        return {token.content: number for number, token in added.items() if token.special}

    @cached_property
    def _opened(self) -> Any:
        return open_tokenizer(self._tokenizer.tokenizer_json, self._tokenizer.contract.added_tokens)

    def decoder(self, request: GenerateRequest) -> StreamDecoder:
        """The decoder of an answer to ``request``: the marks of calls are text where there are tools."""
        marks = {
            number
            for token, number in self.special.items()
            if request.tools and token in self.tools.before + self.tools.between + self.tools.after
        }
        return StreamDecoder(lambda ids: self._decode(ids, marks)) if marks else self._tokenizer.stream_decoder()

    def _decode(self, ids: list[int], marks: set[int]) -> str:
        text = ""
        begun = 0
        for position, number in enumerate(ids):
            if number in marks:
                text += self._tokenizer.decode(ids[begun:position])
                text += self._tokenizer.decode([number], skip_special_tokens=False)
                begun = position + 1
        return text + self._tokenizer.decode(ids[begun:])

    def read(self, events: AsyncIterator[GenerateEvent], request: GenerateRequest) -> AsyncIterator[GenerateEvent]:
        """``events``, with calls of tools read out of their text where ``request`` has tools."""
        return read_tool_calls(events, request, self.tools) if request.tools else events

    def constraints(self, request: GenerateRequest) -> list[GrammarConstraint | None]:
        """One for each choice of ``request``, or None each where any text will do.

        Takes the time of compiling the grammar: not for an event loop where ``needs_grammar`` is true. Raises
        ``UnsupportedField`` for a schema that cannot be followed while generating.
        """
        if not needs_grammar(request):
            return [None] * request.n
        matcher = self._matcher(grammar_of(request, self.tools if request.tools else BARE, self.special))
        if matcher.is_error():
            self._blame(request, str(matcher.get_error()))
        return [GrammarConstraint(matcher.deep_copy()) for _ in range(request.n)]

    def _matcher(self, grammar: str) -> Any:
        import llguidance

        with self._lock:
            if self._vocabulary is None:
                self._opened.no_padding()
                self._opened.no_truncation()
                ends = list(self._tokenizer.contract.eos_token_ids)
                self._vocabulary = llguidance.LLTokenizer(self._opened.to_str(), eos_token=ends)
            found = self._compiled.get(grammar)
            if found is None:
                found = llguidance.LLMatcher(self._vocabulary, grammar, log_level=0)
                if not found.is_error():
                    found.compute_logit_bias()  # a grammar that no text can begin to follow shows only here
                if not found.is_error():
                    self._compiled[grammar] = found
                    if len(self._compiled) > KEPT:
                        self._compiled.popitem(last=False)
            else:
                self._compiled.move_to_end(grammar)
            return found

    def _blame(self, request: GenerateRequest, message: str) -> None:
        """Raise, naming the schema that is at fault."""
        places = []
        response = request.response_format
        if response is not None and response["type"] != "text":
            places.append(("response_format.json_schema.schema", schema_of_format(response)))
        for number, tool in enumerate(request.tools):
            if tool in request.forced_tools or is_strict(tool):
                places.append((f"tools[{number}].function.parameters", schema_of_arguments(tool)))
        for place, schema in places:
            asked = GenerateRequest(
                request.messages, response_format={"type": "json_schema", "json_schema": {"schema": schema}}
            )
            alone = self._matcher(grammar_of(asked, BARE, {}))
            if alone.is_error():
                raise UnsupportedField(
                    f"this schema cannot be followed while an answer is generated: {_first(alone.get_error())}",
                    target=place,
                    way_out="leave out the part that is named, or check the answer yourself",
                )
        raise UnsupportedField(
            f"these schemas cannot be followed together: {_first(message)}",
            target="tools" if request.tools else "response_format",
            way_out="use fewer or simpler ones",
        )


class GrammarConstraint:
    """Where one answer is in its grammar. Used by one thread."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def allow(self, logits: Logits) -> None:
        """Set the logits (``[vocabulary]``) of what may not come next to minus infinity, in place."""
        allowed = np.frombuffer(self._matcher.compute_logit_bias(), dtype=np.uint8)
        if self._matcher.is_error():
            raise Failure(f"the answer cannot be kept to its form: {_first(self._matcher.get_error())}")
        known = min(allowed.shape[0], logits.shape[0])
        logits[:known][allowed[:known] == 0] = -np.inf
        logits[known:] = -np.inf

    def accept(self, token_id: int) -> None:
        """The token that was taken."""
        if not self._matcher.consume_token(token_id):
            raise Failure(f"the answer left its form: {_first(self._matcher.get_error())}")


def _first(message: str) -> str:
    lines = str(message).strip().splitlines()
    first = (lines[0] if lines else "unknown")[:300]
    return "no answer can follow it" if first == "NoExtensionBias" else first
