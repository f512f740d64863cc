"""How a model writes a call of a tool, learnt from its own chat template.

A conversation with one call, and one with two, are rendered; what stands around the names and the arguments is the
format. Templates that take tools but write no calls (Phi-4's) are known by the tokens of their family. So a tuned model
calls tools the way it learnt to, and nobody names a parser.

    Hermes, Qwen    <tool_call>\\n{"name": "f", "arguments": {…}}\\n</tool_call>
    Llama 3         {"name": "f", "parameters": {…}}
    Mistral         [TOOL_CALLS] [{"name": "f", "arguments": {…}}]        [TOOL_CALLS]f[ARGS]{…}
    Phi-4           <|tool_call|>[{"name": "f", "arguments": {…}}]<|/tool_call|>
"""

from __future__ import annotations

import json
import re
import secrets
import string
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tunesmith.chat.messages import Conversation, Message, ToolCall
from tunesmith.errors import InvalidData

if TYPE_CHECKING:
    from tunesmith.chat.contract import ChatContract
    from tunesmith.chat.tokens import ChatTokenizer

_LETTERS = string.ascii_letters + string.digits
LONG_ID = 24
MISTRAL_ID = 9
"""Characters of a call's id: Mistral's templates refuse any other length."""


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """``before`` NAME ``between`` ARGUMENTS (``joiner`` NAME ``between`` ARGUMENTS)* ``after``."""

    before: str
    between: str
    after: str
    joiner: str | None
    """What stands between two calls; None where the model makes one call a turn."""
    id_length: int = LONG_ID

    @property
    def named_outside(self) -> bool:
        """Whether the name stands before the JSON, not in it."""
        return "{" not in self.before

    @property
    def opening(self) -> str:
        """The mark that a call begins with; empty where a call is bare JSON."""
        lead = self.before if self.named_outside else self.before[: self.before.index("{")]
        return lead.strip().removesuffix("[").strip()

    @property
    def closing(self) -> str:
        """The mark that stands after the calls, if any."""
        rest = self.after if self.named_outside else self.after[self.after.index("}") + 1 :]
        return rest.strip().removeprefix("]").strip()

    @property
    def middle(self) -> str:
        """What parts a name that stands outside from its arguments; may be empty."""
        return self.between.strip() if self.named_outside else ""


HERMES = ToolFormat(
    '<tool_call>\n{"name": "',
    '", "arguments": ',
    "}\n</tool_call>",
    '}\n</tool_call>\n<tool_call>\n{"name": "',
)
LLAMA = ToolFormat('{"name": "', '", "parameters": ', "}", None)
MISTRAL = ToolFormat('[TOOL_CALLS] [{"name": "', '", "arguments": ', "}]", '}, {"name": "', MISTRAL_ID)
PHI4 = ToolFormat('<|tool_call|>[{"name": "', '", "arguments": ', "}]<|/tool_call|>", '}, {"name": "')
BARE = ToolFormat('{"name": "', '", "arguments": ', "}", None)

_FAMILIES = (
    ("<tool_call>", HERMES),
    ("[TOOL_CALLS]", MISTRAL),
    ("<|tool_call|>", PHI4),
    ("<|python_tag|>", LLAMA),
)
"""By a token of the vocabulary, or a word of the template."""

_NAME, _OTHER = "get_weather", "find_restaurant"
_CITY = {"city": "Paris"}
_TOOLS: tuple[dict[str, Any], ...] = tuple(
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "About a city",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
    for name in (_NAME, _OTHER)
)
_CALLS = (ToolCall(_NAME, _CITY, id="a1b2c3d4e"), ToolCall(_OTHER, _CITY, id="f5g6h7i8j"))
_ID = re.compile(r',\s*"id":\s*"[a-z0-9]{9}"')


def new_call_id(length: int) -> str:
    """An id for a call, of ``ToolFormat.id_length`` letters."""
    letters = "".join(secrets.choice(_LETTERS) for _ in range(length))
    return letters if length == MISTRAL_ID else f"call_{letters}"


def tool_format(tokenizer: ChatTokenizer) -> ToolFormat:
    """The format of a model's calls; bare JSON where neither the template nor the vocabulary tells."""
    contract = tokenizer.contract
    known = _family(tokenizer)
    one = _rendered(tokenizer, _CALLS[:1])
    if one is None:
        return known or BARE
    found = _one(one, contract)
    if found is None:
        return known or BARE
    before, between, after = found
    two = _rendered(tokenizer, _CALLS)
    joiner = None if two is None else _joiner(two, between)
    length = MISTRAL_ID if "[TOOL_CALLS]" in before else LONG_ID
    return ToolFormat(before, between, after, joiner, length)


def _family(tokenizer: ChatTokenizer) -> ToolFormat | None:
    contract = tokenizer.contract
    templates = contract.template + (contract.tool_template or "")
    for mark, known in _FAMILIES:
        if mark in templates or tokenizer.token_id(mark) is not None:
            return known
    return None


def _rendered(tokenizer: ChatTokenizer, calls: tuple[ToolCall, ...]) -> str | None:
    """The assistant's turn with ``calls``, without its header; None where the template writes no calls."""
    asked = (Message("user", "Where is it warm?"),)
    answered = (*asked, Message("assistant", "", tool_calls=calls))
    try:
        prompt = tokenizer.render(Conversation(asked, _TOOLS), add_generation_prompt=True)
        whole = tokenizer.render(Conversation(answered, _TOOLS))
    except InvalidData:
        return None
    surplus = tokenizer.contract.surplus_prompt
    header = prompt[: len(prompt) - len(surplus)] if surplus and prompt.endswith(surplus) else prompt
    # A header that differs is no reason to give up: what the user said is in both.
    start = len(header) if whole.startswith(header) else whole.find(asked[0].content) + len(asked[0].content)
    return whole[start:]


def _one(turn: str, contract: ChatContract) -> tuple[str, str, str] | None:
    """(before, between, after) of a turn with one call."""
    name = turn.find(_NAME)
    if name < 0:
        return None
    found = _arguments(turn, name + len(_NAME))
    if found is None:
        return None
    start, end = found
    after = turn[end:]
    ends = [at for token in _ends(contract) if (at := after.find(token)) >= 0]
    after = after[: min(ends)] if ends else after
    before = turn[:name]
    if "{" in before and "}" not in after:
        return None  # the arguments are no part of an object with the name: a shape of its own
    return before.lstrip(), turn[name + len(_NAME) : start], _ID.sub("", after).rstrip()


def _arguments(turn: str, position: int) -> tuple[int, int] | None:
    """Where the arguments' JSON object stands from ``position`` on."""
    while (position := turn.find("{", position)) >= 0:
        try:
            value, end = json.JSONDecoder().raw_decode(turn, position)
        except ValueError:
            position += 1
            continue
        return (position, end) if value == _CITY else None
    return None


def _joiner(turn: str, between: str) -> str | None:
    name = turn.find(_NAME)
    other = turn.find(_OTHER, name)
    found = _arguments(turn, name + len(_NAME))
    if name < 0 or other < 0 or found is None or found[1] > other:
        return None
    if not turn[other + len(_OTHER) :].startswith(between):
        return None
    return _ID.sub("", turn[found[1] : other])


def _ends(contract: ChatContract) -> list[str]:
    named = [contract.end_of_turn, contract.eos_token, "<|eom_id|>"]
    return [token for token in named if token]
