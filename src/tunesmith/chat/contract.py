"""The chat contract: how a model's conversations become ids, hashed, travelling with the model from training to
serving.

It is stored as ``chat_contract.json`` in a model package, beside the ``tokenizer.json`` whose hash it names. Its
probes are conversations with the ids they gave when the contract was made: whoever serves the model encodes them
again and refuses to serve when an id differs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from tunesmith.chat.messages import Conversation, Message, ToolCall
from tunesmith.errors import InvalidModel

CONTRACT_FILE = "chat_contract.json"
TOKENIZER_FILE = "tokenizer.json"
FORMAT_VERSION = 1

PROBE_DAY = datetime(2024, 7, 26, 12, 0, 0)
"""What ``strftime_now`` tells while probes are rendered: templates that print the date would give other ids every
day.
"""


@dataclass(frozen=True, slots=True)
class Probe:
    """A conversation and the ids it gave."""

    conversation: Conversation
    add_generation_prompt: bool
    ids: tuple[int, ...] | None
    """``None``: the template refuses this conversation."""

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "conversation": self.conversation.to_openai(),
            "add_generation_prompt": self.add_generation_prompt,
            "ids": None if self.ids is None else list(self.ids),
        }

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> Probe:
        """Read the JSON form back."""
        return cls(
            conversation=Conversation.from_json(json.dumps(body["conversation"])),
            add_generation_prompt=bool(body["add_generation_prompt"]),
            ids=None if body["ids"] is None else tuple(body["ids"]),
        )


@dataclass(frozen=True)
class ChatContract:
    """What fixes a model's tokenization of conversations; see the module's docstring."""

    template: str
    """Jinja source."""
    special_tokens: Mapping[str, str | None]
    """By their names: bos_token, eos_token, pad_token, unk_token, …; the template may read them."""
    end_of_turn: str
    """The token the template puts after an assistant's answer; it carries loss, and generation stops at it."""
    eos_token_ids: tuple[int, ...]
    """Every id that ends generation; that of ``end_of_turn`` first."""
    tokenizer_sha256: str
    """Hash of the bytes of ``tokenizer.json``."""
    surplus_prompt: str = ""
    """What the generation prompt has beyond the header that stands before an answer in a conversation."""
    trailer: str = ""
    """What the template appends at the very end of a conversation and not between its turns (Phi-3: its eos token)."""
    arguments_as_text: bool = False
    """Whether the template wants the arguments of a tool call as JSON text, not as an object."""
    accepts: tuple[str, ...] = ()
    """What the template writes of ``system``, ``system_prompt`` (a system message when the model is asked), ``tools``,
    ``tool_calls``, ``tool``; the rest it refuses or leaves out.
    """
    probes: tuple[Probe, ...] = ()
    tool_template: str | None = None
    """Another template for conversations with tools, where the model has one."""
    added_tokens: tuple[str, ...] = ()
    """Special tokens that the model's configuration names and ``tokenizer.json`` lacks; they are added in this order.
    """
    format_version: int = FORMAT_VERSION

    @property
    def bos_token(self) -> str | None:
        """The token a text begins with, if the model has one."""
        return self.special_tokens.get("bos_token")

    @property
    def eos_token(self) -> str | None:
        """The model's own end token; not always the one that ends a turn."""
        return self.special_tokens.get("eos_token")

    @property
    def pad_token(self) -> str | None:
        """The token that fills up a batch."""
        return self.special_tokens.get("pad_token")

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "format_version": self.format_version,
            "template": self.template,
            "tool_template": self.tool_template,
            "special_tokens": dict(self.special_tokens),
            "added_tokens": list(self.added_tokens),
            "end_of_turn": self.end_of_turn,
            "eos_token_ids": list(self.eos_token_ids),
            "surplus_prompt": self.surplus_prompt,
            "trailer": self.trailer,
            "arguments_as_text": self.arguments_as_text,
            "accepts": list(self.accepts),
            "tokenizer_sha256": self.tokenizer_sha256,
            "probes": [probe.to_dict() for probe in self.probes],
        }

    def to_json(self) -> str:
        """Indented JSON text; equal contracts are equal files.

        Keys inside the probes stay in their order: templates print tools as they come.
        """
        body = {**self.to_dict(), "special_tokens": dict(sorted(self.special_tokens.items()))}
        return json.dumps(body, ensure_ascii=False, indent=1) + "\n"

    @cached_property
    def sha256(self) -> str:
        """The contract's name: hash of its canonical JSON."""
        text = json.dumps(self.to_dict(), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    @classmethod
    def from_json(cls, text: str | bytes, *, place: str = CONTRACT_FILE) -> ChatContract:
        """Read ``to_json`` back. Raises ``InvalidModel`` for anything else."""
        try:
            body = json.loads(text)
            version = body["format_version"]
            if version != FORMAT_VERSION:
                raise InvalidModel(
                    f"the chat contract has format version {version}; this release reads version {FORMAT_VERSION}",
                    target=place,
                    way_out="import the model again with this release",
                )
            return cls(
                template=body["template"],
                tool_template=body["tool_template"],
                special_tokens=body["special_tokens"],
                added_tokens=tuple(body["added_tokens"]),
                end_of_turn=body["end_of_turn"],
                eos_token_ids=tuple(body["eos_token_ids"]),
                surplus_prompt=body["surplus_prompt"],
                trailer=body["trailer"],
                arguments_as_text=body.get("arguments_as_text", False),
                accepts=tuple(body["accepts"]),
                tokenizer_sha256=body["tokenizer_sha256"],
                probes=tuple(Probe.from_dict(probe) for probe in body["probes"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidModel(
                f"not a chat contract: {type(error).__name__}: {error}",
                target=place,
                way_out="import the model again, which writes the contract anew",
            ) from error

    @classmethod
    def read(cls, folder: Path) -> ChatContract:
        """The contract of a model package. Raises ``InvalidModel`` where there is none."""
        path = folder / CONTRACT_FILE
        try:
            text = path.read_bytes()
        except OSError as error:
            raise InvalidModel(
                f"no {CONTRACT_FILE} in the model package: {error.strerror}",
                target=str(folder),
                way_out="import the model (`tunesmith models import NAME --from FOLDER`), which makes its contract",
            ) from error
        return cls.from_json(text, place=str(path))


_WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Current weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]}},
            "required": ["city"],
        },
    },
}

PROBE_CONVERSATIONS: tuple[tuple[Conversation, bool], ...] = (
    (Conversation((Message("user", "Hello!"),)), True),
    (Conversation((Message("system", "Answer briefly."), Message("user", "What is 2024 + 17.5?"))), True),
    (
        Conversation(
            (
                Message("user", "Name a colour."),
                Message("assistant", "Blue."),
                Message("user", "Another one, please."),
                Message("assistant", "Green."),
            )
        ),
        False,
    ),
    (
        Conversation(
            (Message("user", "Grüße aus Zürich, 你好, 🙂👩‍🔬 e\u0301"), Message("assistant", "¡Olé! — ça va…"))
        ),
        False,
    ),
    (
        Conversation(
            (
                Message("user", "  Indent\tthis:\n\n    def f(x):\n        return x  # 0x1F\n"),
                Message("assistant", " ok\n\n"),
            )
        ),
        False,
    ),
    (
        Conversation(
            (Message("user", "a"), Message("assistant", "b"), Message("user", "It's 3,141 o'clock, isn't it?"))
        ),
        True,
    ),
    (
        Conversation(
            (
                Message("user", "How warm is it in Paris?"),
                Message("assistant", "", tool_calls=(ToolCall("get_weather", {"city": "Paris"}, id="a1b2c3d4e"),)),
                Message("tool", '{"celsius": 21}', tool_call_id="a1b2c3d4e", name="get_weather"),
                Message("assistant", "It is 21 degrees."),
            ),
            tools=(_WEATHER,),
        ),
        False,
    ),
)
"""Each with whether it ends in a generation prompt: every kind of text and turn that has ever made a tokenizer
differ.
"""
