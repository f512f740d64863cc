"""Conversations: from files to token ids with the places that carry loss.

Only this room turns messages into ids; checking, preparation, training, evaluation and serving all call it. It needs
``tokenizers``, ``jinja2`` and ``pyarrow`` and knows nothing of models, training or servers.

    check      every fault of a file, and what training would see of it
    convert    one format to another
    split      train, validation and test, by conversation
    pack       rows to sequences

``prepare`` (conversations to ids on disk) is in the module of its name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tunesmith.chat.converting import convert
    from tunesmith.chat.messages import Conversation, Message, ToolCall
    from tunesmith.chat.packing import pack
    from tunesmith.chat.prepared import Prepared
    from tunesmith.chat.splitting import split
    from tunesmith.chat.tokens import ChatTokenizer
    from tunesmith.chat.validation import check

__all__ = [
    "ChatTokenizer",
    "Conversation",
    "Message",
    "Prepared",
    "ToolCall",
    "check",
    "convert",
    "pack",
    "split",
]

_HOMES = {
    "ChatTokenizer": "tokens",
    "Conversation": "messages",
    "Message": "messages",
    "Prepared": "prepared",
    "ToolCall": "messages",
    "check": "validation",
    "convert": "converting",
    "pack": "packing",
    "split": "splitting",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is first asked for: who needs messages only does not pay for Arrow."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
