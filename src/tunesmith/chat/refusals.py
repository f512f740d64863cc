"""What a chat template does not take: whose message it is, and the way out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tunesmith.chat.messages import Conversation, Message
from tunesmith.chat.template import TemplateRefused
from tunesmith.errors import InvalidData

_SYSTEM = "put the text into the first user message (`tunesmith data convert FILE NEW.jsonl --fold-system`)"
_TOOLS = "this model's template has no tool turns: leave the row out, or choose a model that was made for tools"


def place(conversation: Conversation, index: int, field: str = "") -> str:
    """The place of a message."""
    return f"{conversation.source}#messages[{index}]" + (f".{field}" if field else "")


def check_written(conversation: Conversation, accepts: Sequence[str], *, prompt: bool) -> None:
    """Raise ``InvalidData`` for a message that the template would leave out without a word; ``prompt``: when it is
    asked.

    ``accepts`` is that of the chat contract. Training on the rest would teach answers to what was never asked.
    """
    for index, message in enumerate(conversation.messages):
        if message.role == "system" and not ("system" in accepts or (prompt and "system_prompt" in accepts)):
            what, field = "system message", "role"
        elif message.tool_calls and "tool_calls" not in accepts:
            what, field = "tool calls", "tool_calls"
        elif message.role == "tool" and "tool" not in accepts:
            what, field = "tool message", "role"
        else:
            continue
        raise InvalidData(
            f"the chat template leaves out the {what}",
            target=place(conversation, index, field),
            way_out=_SYSTEM if message.role == "system" else _TOOLS,
        )


def refusal(
    conversation: Conversation,
    refused: TemplateRefused,
    accepts: Sequence[str],
    render: Callable[[tuple[Message, ...]], str],
) -> InvalidData:
    """Name the first message that the template does not take, and what to do about it."""
    messages = conversation.messages
    index = len(messages) - 1
    for last in range(len(messages)):
        try:
            render(messages[: last + 1])
        except TemplateRefused as inner:
            if str(inner) == str(refused):
                index = last
                break
    message = messages[index]
    if message.role == "system" and "system" not in accepts:
        way_out = _SYSTEM
    elif (message.tool_calls and "tool_calls" not in accepts) or (message.role == "tool" and "tool" not in accepts):
        way_out = _TOOLS
    elif index and messages[index - 1].role == message.role:
        way_out = f"join the two {message.role} messages into one: this template wants the roles to take turns"
    else:
        way_out = "this template wants user and assistant to take turns, beginning with the user"
    return InvalidData(
        f"the chat template refuses the role {message.role!r} here: {refused}",
        target=place(conversation, index, "role"),
        way_out=way_out,
    )
