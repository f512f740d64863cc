"""Random conversations."""

from __future__ import annotations

from hypothesis import strategies as st

from tunesmith.chat.messages import Conversation, Message

_PIECES = st.sampled_from(
    [
        "hello",
        " world",
        "Paris",
        "\n",
        "\n\n",
        "  ",
        "\t",
        ".",
        "?",
        "é",
        "你好",
        "🙂",
        "👩‍🔬",
        "123",
        "2024",
        "<",
        "|",
        "<|",
        "|>",
        "'s",
        "e\u0301",
        "&",
        "{{ x }}",
        "\x00",
    ]
)
texts = st.one_of(st.lists(_PIECES, max_size=8).map("".join), st.text(max_size=12)).filter(
    lambda text: "\ue000" not in text and "\ue001" not in text
)
"""Texts that come in conversations, and some that should not."""


@st.composite
def conversations(
    draw: st.DrawFn,
    *,
    system: bool = True,
    alternates: bool = False,
    flags: bool = False,
    contents: st.SearchStrategy[str] = texts,
) -> Conversation:
    """Turns of user and assistant; with a system message, repeated roles and train flags where allowed."""
    messages = [Message("system", draw(contents))] if system and draw(st.booleans()) else []
    if alternates:
        roles = ["user", "assistant"] * draw(st.integers(1, 3))
    else:
        roles = draw(st.lists(st.sampled_from(["user", "assistant"]), min_size=1, max_size=6))
    train = st.sampled_from([None, None, True, False]) if flags else st.none()
    for role in roles:
        messages.append(Message(role, draw(contents), train=draw(train) if role == "assistant" else None))
    return Conversation(tuple(messages), source="rows.jsonl:1")
