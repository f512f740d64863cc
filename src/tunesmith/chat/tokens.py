"""Messages to token ids and back: the only place in the project where that happens.

A conversation is rendered by the model's chat template and encoded in one piece with ``add_special_tokens=False``
(the template has written every special token, so there is never a second BOS). The ids equal those of transformers'
``apply_chat_template``. Which tokens carry loss is decided by their place in the text (see ``spans.py``): that
``pad`` and ``eos`` are often one token does no harm.

Needs ``tokenizers`` and ``jinja2`` only.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

from tunesmith.chat.contract import (
    CONTRACT_FILE,
    PROBE_CONVERSATIONS,
    PROBE_DAY,
    TOKENIZER_FILE,
    ChatContract,
    Probe,
)
from tunesmith.chat.encoded import Encoded, LossOn, Rendered, TokenSpan
from tunesmith.chat.folder import (
    eos_ids,
    open_tokenizer,
    read_json,
    read_tokenizer,
    special_tokens,
    templates,
    variables,
)
from tunesmith.chat.messages import Conversation, Message
from tunesmith.chat.refusals import check_written, place, refusal
from tunesmith.chat.shape import learn_shape, token_pattern
from tunesmith.chat.spans import NotFoundInText, SpanFinder, TextSpan
from tunesmith.chat.stream import StreamDecoder
from tunesmith.chat.template import ChatTemplate, TemplateRefused
from tunesmith.chat.units import Places, UnitEncoder, WholePlaces
from tunesmith.errors import InvalidData, InvalidModel, UserError

PROBES_AT_LEAST = 5


class ChatTokenizer:
    """A tokenizer with its chat contract.

    >>> tokenizer = ChatTokenizer.load(package.path)                       # doctest: +SKIP
    >>> tokenizer.encode_prompt([Message("user", "Hello!")])               # doctest: +SKIP
    [1, 9690, 198, 2683, 359, ...]

    ``today`` fixes the date that templates may print; ``None`` is the clock.
    """

    def __init__(self, tokenizer_json: bytes, contract: ChatContract, *, today: datetime | None = None) -> None:
        self.contract = contract
        self.tokenizer_json = tokenizer_json
        self.today = today
        self._tokenizer = open_tokenizer(tokenizer_json, contract.added_tokens)
        self._template = ChatTemplate(
            contract.template, variables(contract.special_tokens), tool_source=contract.tool_template
        )
        added = self._tokenizer.get_added_tokens_decoder()
        self._added_ids = frozenset(added)
        ends = [self.token(id) for id in contract.eos_token_ids]
        self._ends = token_pattern([contract.end_of_turn, *ends])
        self._specials = token_pattern([token.content for token in added.values() if token.special])
        self._finder = SpanFinder(
            ends=self._ends,
            tokens=token_pattern([token.content for token in added.values()]),
            surplus_prompt=contract.surplus_prompt,
            trailer=contract.trailer,
        )

    @cached_property
    def _units(self) -> UnitEncoder | None:
        return UnitEncoder.of(self._tokenizer, self.tokenizer_json)

    # ── opening and making

    @classmethod
    def load(cls, folder: Path) -> ChatTokenizer:
        """Open a model package's tokenizer with its contract.

        Raises ``InvalidModel`` when either file is missing, or when ``tokenizer.json`` is not the one the contract
        was made for.
        """
        contract = ChatContract.read(folder)
        content = read_tokenizer(folder)
        found = hashlib.sha256(content).hexdigest()
        if found != contract.tokenizer_sha256:
            raise InvalidModel(
                f"{TOKENIZER_FILE} is not the one the chat contract was made for "
                f"(sha256 {found[:12]}…, the contract names {contract.tokenizer_sha256[:12]}…)",
                target=str(folder / TOKENIZER_FILE),
                way_out="import the model again; a tokenizer that changed gives the model other ids than it learnt",
            )
        return cls(content, contract)

    @classmethod
    def build(cls, folder: Path, *, template: str | None = None) -> ChatTokenizer:
        """Make a tokenizer and its contract from a Hugging Face folder; ``save`` writes the contract.

        ``template`` is Jinja source to use in place of the folder's own. Raises ``InvalidModel`` when the folder has
        no ``tokenizer.json``, no chat template, or a template that cannot be learnt from (see ``shape.py``).
        """
        content = read_tokenizer(folder)
        config = read_json(folder / "tokenizer_config.json")
        special = special_tokens(config, read_json(folder / "special_tokens_map.json"))
        bare = open_tokenizer(content, ())
        added_tokens = tuple(
            dict.fromkeys(token for token in special.values() if token is not None and bare.token_to_id(token) is None)
        )
        tokenizer = open_tokenizer(content, added_tokens)
        source, tool_source = (template, None) if template is not None else templates(folder, config)
        chat_template = ChatTemplate(source, variables(special), tool_source=tool_source)
        shape = learn_shape(chat_template, [token.content for token in tokenizer.get_added_tokens_decoder().values()])
        contract = ChatContract(
            template=source,
            tool_template=tool_source,
            special_tokens=special,
            added_tokens=added_tokens,
            end_of_turn=shape.end_of_turn,
            eos_token_ids=eos_ids(folder, tokenizer, shape.end_of_turn, special.get("eos_token")),
            surplus_prompt=shape.surplus_prompt,
            trailer=shape.trailer,
            arguments_as_text=shape.arguments_as_text,
            accepts=shape.accepts,
            tokenizer_sha256=hashlib.sha256(content).hexdigest(),
        )
        draft = cls(content, contract)
        probes = tuple(draft._probe(conversation, prompt) for conversation, prompt in PROBE_CONVERSATIONS)
        if sum(probe.ids is not None for probe in probes) < PROBES_AT_LEAST:
            raise InvalidModel(
                "the chat template refuses most plain conversations",
                target=str(folder),
                way_out="give the model a chat template that takes turns of user and assistant",
            )
        return cls(content, ChatContract(**{**contract.__dict__, "probes": probes}))

    def save(self, folder: Path) -> Path:
        """Write ``chat_contract.json`` into ``folder``, and ``tokenizer.json`` unless it is there. Returns the
        contract's path.
        """
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / CONTRACT_FILE
        aside = folder / f".{CONTRACT_FILE}.{os.getpid()}"
        aside.write_text(self.contract.to_json(), encoding="utf-8")
        aside.replace(target)
        if not (folder / TOKENIZER_FILE).exists():
            (folder / TOKENIZER_FILE).write_bytes(self.tokenizer_json)
        return target

    # ── facts

    @property
    def vocabulary_size(self) -> int:
        """How many ids there are, added tokens included."""
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    @property
    def pad_id(self) -> int:
        """The id that fills up batches; it is never a label, so any id will do where the model has none."""
        for token in (self.contract.pad_token, self.contract.eos_token):
            if token is not None and (id := self.token_id(token)) is not None:
                return id
        return self.contract.eos_token_ids[0]

    @property
    def bos_id(self) -> int | None:
        """The id of the beginning-of-sequence token, if the model has one."""
        return None if self.contract.bos_token is None else self.token_id(self.contract.bos_token)

    @property
    def end_of_turn_id(self) -> int:
        """The id that ends an assistant's turn."""
        return self.contract.eos_token_ids[0]

    def token_id(self, token: str) -> int | None:
        """The id of a token's text."""
        id: int | None = self._tokenizer.token_to_id(token)
        return id

    def token(self, id: int) -> str:
        """The tokenizer's own text of an id; an empty string for an id it does not have."""
        return self._tokenizer.id_to_token(id) or ""

    def special_tokens_in(self, text: str) -> list[str]:
        """Special tokens written out in a text: encoded, they would be the real ones."""
        return [match.group() for match in self._specials.finditer(text)]

    # ── messages to text and ids

    def render(self, conversation: Conversation, *, add_generation_prompt: bool = False) -> str:
        """The text of a conversation. Raises ``InvalidData`` where the template refuses it."""
        return self._render(conversation, add_generation_prompt)

    def render_marked(self, conversation: Conversation, *, loss_on: LossOn = "assistant") -> Rendered:
        """The text of a conversation with the spans that carry loss.

        Raises ``InvalidData`` where the template refuses the conversation, or writes it so that an answer cannot be
        located.
        """
        if loss_on not in get_args(LossOn):
            raise UserError(
                f"loss_on is {loss_on!r}", target="loss_on", way_out=f"one of {', '.join(get_args(LossOn))}"
            )
        text = self._render(conversation, False)
        messages = conversation.messages

        def render(some: tuple[Message, ...], prompt: bool) -> str:
            return self._text(some, conversation.tools, prompt)

        try:
            if loss_on == "all":
                return Rendered(text, self._all_but_untrained(messages, text, render))
            return Rendered(
                text, tuple(self._finder.answers(messages, text, render, _trained_answers(messages, loss_on)))
            )
        except NotFoundInText as lost:
            raise InvalidData(
                f"the chat template writes this conversation so that this message of the {messages[lost.index].role} "
                "cannot be located in it",
                target=place(conversation, lost.index),
                way_out="leave the row out, or use a chat template that writes the messages as they are",
            ) from None

    def encode(self, conversation: Conversation, *, loss_on: LossOn = "assistant") -> Encoded:
        """The ids of a conversation, and which carry loss. Raises ``InvalidData`` as ``render_marked`` does."""
        rendered = self.render_marked(conversation, loss_on=loss_on)
        encoding = self._tokenizer.encode(rendered.text, add_special_tokens=False)
        return self._locate(WholePlaces(encoding, len(rendered.text)), rendered)

    def encode_batch(self, rendered: Sequence[Rendered]) -> list[Encoded]:
        """Many at once: the same ids as ``encode``, several times faster where the tokenizer allows (see
        ``units.py``).
        """
        texts = [item.text for item in rendered]
        if self._units is not None:
            places: Sequence[Places] = self._units.encode(texts)
        else:
            encodings = self._tokenizer.encode_batch(texts, add_special_tokens=False)
            places = [WholePlaces(encoding, len(text)) for encoding, text in zip(encodings, texts, strict=True)]
        return [self._locate(found, item) for found, item in zip(places, rendered, strict=True)]

    def encode_prompt(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        """The ids of messages with the generation prompt: what a model is given to answer."""
        text = self._render(Conversation(tuple(messages), tuple(tools)), True)
        return self.encode_text(text)

    def encode_text(self, text: str) -> list[int]:
        """The ids of a text that is already rendered; nothing is added to it."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """For each id of a rendered text the characters it stands for."""
        offsets: list[tuple[int, int]] = self._tokenizer.encode(text, add_special_tokens=False).offsets
        return offsets

    # ── ids to text

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of ids."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens)
        return text

    def stream_decoder(self, *, skip_special_tokens: bool = True) -> StreamDecoder:
        """A decoder that takes ids one by one and gives text as soon as it is whole characters."""
        return StreamDecoder(lambda ids: self.decode(ids, skip_special_tokens=skip_special_tokens))

    # ── the promise

    def check_probes(self) -> None:
        """Encode the contract's probes again. Raises ``InvalidModel`` if any id differs from those recorded."""
        for number, probe in enumerate(self.contract.probes):
            again = self._probe(probe.conversation, probe.add_generation_prompt)
            if again.ids != probe.ids:
                raise InvalidModel(
                    f"probe conversation {number} gives other ids than recorded when the contract was made "
                    f"({_differ(again.ids, probe.ids)})",
                    target=f"{CONTRACT_FILE}#probes[{number}]",
                    way_out="import the model again with the installed tokenizers and jinja2, "
                    "or install the versions it was made with",
                )

    def _probe(self, conversation: Conversation, prompt: bool) -> Probe:
        try:
            text = self._text(conversation.messages, conversation.tools, prompt, today=PROBE_DAY)
        except TemplateRefused:
            return Probe(conversation, prompt, None)
        return Probe(conversation, prompt, tuple(self.encode_text(text)))

    # ── inside

    def _text(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        prompt: bool,
        *,
        today: datetime | None = None,
    ) -> str:
        as_text = self.contract.arguments_as_text
        bodies = [message.for_template(arguments_as_text=as_text) for message in messages]
        return self._template.render(bodies, tools, add_generation_prompt=prompt, today=today or self.today)

    def _render(self, conversation: Conversation, prompt: bool) -> str:
        if not conversation.messages:
            raise InvalidData("a conversation without messages", target=conversation.source or None)
        accepts, tools = self.contract.accepts, conversation.tools
        try:
            text = self._text(conversation.messages, tools, prompt)
        except TemplateRefused as refused:
            raise refusal(
                conversation, refused, accepts, lambda messages: self._text(messages, tools, False)
            ) from refused
        if not (tools and self.contract.tool_template):  # a template of its own for tools writes them
            check_written(conversation, accepts, prompt=prompt)
        return text

    def _all_but_untrained(self, messages: tuple[Message, ...], text: str, render: Any) -> tuple[TextSpan, ...]:
        """Everything, less the messages that say ``train: false``."""
        kept: list[TextSpan] = []
        position = 0
        for index, message in enumerate(messages):
            if message.train is not False:
                continue
            if message.role == "assistant":
                hole = self._finder.answers(messages, text, render, [index])[0]
            else:
                hole = self._finder.turn(messages, text, render, index)
            if hole.start > position:
                kept.append(TextSpan(index, position, hole.start, hole.method))
            position = max(position, hole.end)
        if position < len(text):
            kept.append(TextSpan(len(messages) - 1, position, len(text), "prefix"))
        return tuple(kept)

    def _locate(self, places: Places, rendered: Rendered) -> Encoded:
        """Spans of text to runs of tokens.

        A token belongs to a span if it stands for a character of it. At its beginning there is one exception: an
        added token that began before the span (``<|assistant|>`` of Phi-3 swallows the white space after it) was the
        template's.
        """
        ids = places.ids
        spans: list[TokenSpan] = []
        for span in rendered.spans:
            first = places.token_at(span.start)
            if first < len(ids) and ids[first] in self._added_ids and places.begin(first) < span.start:
                first += 1
            last = places.token_at(span.end)
            if last < len(ids) and places.begin(last) < span.end:
                last += 1  # a token that reaches over the end of the span belongs to it
            if spans and first < spans[-1].end:
                first = spans[-1].end
            if last > first:
                spans.append(TokenSpan(span.index, first, last))
        return Encoded(ids, tuple(spans), rendered.method)


def _trained_answers(messages: Sequence[Message], loss_on: LossOn) -> list[int]:
    answers = [index for index, message in enumerate(messages) if message.role == "assistant"]
    by_default = set(answers if loss_on == "assistant" else answers[-1:])
    return [
        index
        for index in answers
        if (messages[index].train if messages[index].train is not None else index in by_default)
    ]


def _differ(now: tuple[int, ...] | None, then: tuple[int, ...] | None) -> str:
    if now is None or then is None:
        return "the template refuses it now" if now is None else "the template refused it then"
    at = next((i for i, (a, b) in enumerate(zip(now, then, strict=False)) if a != b), min(len(now), len(then)))
    return f"position {at}: {now[at : at + 3]} now, {then[at : at + 3]} recorded"
