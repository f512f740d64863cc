"""How a model writes calls is learnt from its template; the real templates' shapes, one each."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chat.families import FAMILIES, Family, make_folder
from tunesmith.chat.tokens import ChatTokenizer
from tunesmith.generate.tool_format import BARE, HERMES, LLAMA, MISTRAL, PHI4, ToolFormat, tool_format

_TURNS = """
{%- if tools %}{{- '<|im_start|>system\\n' + (tools | tojson) + '<|im_end|>\\n' }}{% endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content }}CALLS{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}"""


def _template(calls: str) -> str:
    return _TURNS.replace("CALLS", calls)


QWEN = _template(
    "{%- for call in message.tool_calls or [] %}"
    '{{- \'\\n<tool_call>\\n{"name": "\' + call.function.name + \'", "arguments": \''
    " + (call.function.arguments | tojson) + '}\\n</tool_call>' }}{% endfor %}"
)
LLAMA3 = _template(
    "{%- if message.tool_calls %}{%- if message.tool_calls | length != 1 %}{{- raise_exception('one call at once') }}"
    '{%- endif %}{{- \'{"name": "\' + message.tool_calls[0].function.name + \'", "parameters": \''
    " + (message.tool_calls[0].function.arguments | tojson) + '}' }}{%- endif %}"
)
MISTRAL3 = _template(
    "{%- if message.tool_calls %}{{- '[TOOL_CALLS] [' }}{%- for call in message.tool_calls %}"
    "{%- if call.id | length != 9 %}{{- raise_exception('ids have 9 characters') }}{%- endif %}"
    '{{- \'{"name": "\' + call.function.name + \'", "arguments": \' + (call.function.arguments | tojson)'
    " + ', \"id\": \"' + call.id + '\"}' }}"
    "{%- if not loop.last %}{{- ', ' }}{%- else %}{{- ']' }}{%- endif %}{%- endfor %}{%- endif %}"
)
MISTRAL11 = _template(
    "{%- for call in message.tool_calls or [] %}"
    "{{- '[TOOL_CALLS]' + call.function.name + '[ARGS]' + (call.function.arguments | tojson) }}{%- endfor %}"
)
NO_CALLS = _template("")

_IM = FAMILIES["chatml"].special


def tokenizer_of(template: str, added: tuple[str, ...], folder: Path) -> ChatTokenizer:
    """A real tokenizer whose model has ``template`` and the special tokens ``added``."""
    family = Family("x", template, _IM, FAMILIES["chatml"].pieces, added)
    return ChatTokenizer.build(make_folder(family, folder))


@pytest.mark.parametrize(
    ("template", "added", "wanted"),
    [
        (QWEN, (), HERMES),
        (QWEN, ("<tool_call>", "</tool_call>"), HERMES),
        (LLAMA3, (), LLAMA),
        (MISTRAL3, ("[TOOL_CALLS]",), MISTRAL),
        (MISTRAL11, ("[TOOL_CALLS]", "[ARGS]"), ToolFormat("[TOOL_CALLS]", "[ARGS]", "", "[TOOL_CALLS]", 9)),
        (NO_CALLS, ("<|tool_call|>", "<|/tool_call|>"), PHI4),
        (NO_CALLS, ("<|python_tag|>",), LLAMA),
        (NO_CALLS, (), BARE),
        (
            FAMILIES["tools"].template,
            ("<call>", "</call>"),
            ToolFormat('<call>{"name": "', '", "arguments": ', "}</call>", '}</call><call>{"name": "'),
        ),
    ],
    ids=["qwen", "qwen-special", "llama", "mistral", "mistral-named-outside", "phi4", "python-tag", "bare", "own"],
)
def test_the_template_tells(template: str, added: tuple[str, ...], wanted: ToolFormat, tmp_path: Path) -> None:
    assert tool_format(tokenizer_of(template, added, tmp_path / "model")) == wanted


@pytest.mark.parametrize(
    ("form", "opening", "closing", "outside"),
    [
        (HERMES, "<tool_call>", "</tool_call>", False),
        (LLAMA, "", "", False),
        (MISTRAL, "[TOOL_CALLS]", "", False),
        (PHI4, "<|tool_call|>", "<|/tool_call|>", False),
        (ToolFormat("[TOOL_CALLS]", "[ARGS]", "", None), "[TOOL_CALLS]", "", True),
    ],
)
def test_marks(form: ToolFormat, opening: str, closing: str, outside: bool) -> None:
    assert (form.opening, form.closing, form.named_outside) == (opening, closing, outside)
