"""Tokenizer folders of every kind that templates and tokenizers come in, made without torch.

Each family has a template with a trait that has broken somebody's labels, and what it must write, said once more in
plain Python (``pieces``): texts with whether they carry loss. Those are the reference of the label tests.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from tests.support.tiny import CHATML_TEMPLATE, CORPUS, PHI3_TEMPLATE
from tunesmith.chat.messages import Message

Pieces = list[tuple[str, bool]]


@dataclass(frozen=True)
class Family:
    name: str
    template: str
    special: dict[str, str]
    """By name: bos_token and so on."""
    pieces: Callable[[list[Message], set[int]], Pieces]
    """Messages and the indices of those that are trained on, to texts and whether they carry loss."""
    added: tuple[str, ...] = ()
    kind: str = "bytes"
    """bytes: byte-level BPE; metaspace: SentencePiece's way, with byte fallback and greedy special tokens."""
    system: bool = True
    alternates: bool = False
    end_of_turn: str = "<|im_end|>"
    extra_files: dict[str, str] = field(default_factory=dict)


def _chatml(messages: list[Message], trained: set[int]) -> Pieces:
    out: Pieces = []
    for index, message in enumerate(messages):
        out.append((f"<|im_start|>{message.role}\n", False))
        out.append((f"{message.content}<|im_end|>", index in trained))
        out.append(("\n", False))
    return out


def _phi3(messages: list[Message], trained: set[int]) -> Pieces:
    out: Pieces = []
    for index, message in enumerate(messages):
        out.append((f"<|{message.role}|>\n", False))
        out.append((f"{message.content}<|end|>", index in trained))
        out.append(("\n", False))
    return [*out, ("<|endoftext|>", False)]


DEFAULT_SYSTEM_TEXT = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
DEFAULT_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    + DEFAULT_SYSTEM_TEXT
    + "<|im_end|>\n' }}{% endif %}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def _default_system(messages: list[Message], trained: set[int]) -> Pieces:
    begin: Pieces = (
        [] if messages[0].role == "system" else [(f"<|im_start|>system\n{DEFAULT_SYSTEM_TEXT}<|im_end|>\n", False)]
    )
    return begin + _chatml(messages, trained)


STRICT = """
{%- if messages[0]['role'] == 'system' %}{{ raise_exception('no system role here') }}{% endif %}
{%- for message in messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('roles must alternate user/assistant') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {{- bos_token + '[ASK] ' + message['content'] + ' [/ASK]' }}
    {%- else %}
        {{- ' ' + message['content'] | trim + ' ' + eos_token }}
    {%- endif %}
{%- endfor %}"""


def _strict(messages: list[Message], trained: set[int]) -> Pieces:
    out: Pieces = []
    for index, message in enumerate(messages):
        if message.role == "user":
            out.append((f"<s>[ASK] {message.content} [/ASK]", False))
        else:
            out.append((f" {message.content.strip()} </s>", index in trained))
    return out


THINKING = """
{%- set ns = namespace(last=0) %}
{%- for message in messages %}{% if message.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {%- set content = message.content %}
        {%- set thought = message.reasoning_content if message.reasoning_content is defined else '' %}
        {%- if '</think>' in content %}
            {%- set thought = content.split('</think>')[0].split('<think>')[-1].strip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if loop.index0 > ns.last %}{{- '<think>\\n' + thought + '\\n</think>\\n\\n' }}{%- endif %}
        {{- content + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}"""


def _thinking(messages: list[Message], trained: set[int]) -> Pieces:
    last = max((index for index, message in enumerate(messages) if message.role == "user"), default=0)
    out: Pieces = []
    for index, message in enumerate(messages):
        content, thought = message.content, message.reasoning_content or ""
        if message.role == "assistant" and "</think>" in content:
            thought = content.split("</think>")[0].split("<think>")[-1].strip("\n")
            content = content.split("</think>")[-1].lstrip("\n")
        if message.role == "assistant" and index > last:
            content = f"<think>\n{thought}\n</think>\n\n{content}"
        out.append((f"<|im_start|>{message.role}\n", False))
        out.append((f"{content}<|im_end|>", index in trained))
        out.append(("\n", False))
    return out


LATE = """
{%- set users = messages | selectattr('role', 'equalto', 'user') | list %}
{%- set ns = namespace(users=0) %}
{{- bos_token }}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {%- set ns.users = ns.users + 1 %}
        {%- if ns.users == users | length %}{{- '[NOTE]last[/NOTE]' }}{% endif %}
        {{- '[ASK]' + message.content + '[/ASK]' }}
    {%- elif message.role == 'assistant' %}
        {{- message.content + eos_token }}
    {%- else %}
        {{- '[SYS]' + message.content + '[/SYS]' }}
    {%- endif %}
{%- endfor %}"""


def _late(messages: list[Message], trained: set[int]) -> Pieces:
    users = [index for index, message in enumerate(messages) if message.role == "user"]
    out: Pieces = [("<s>", False)]
    for index, message in enumerate(messages):
        if message.role == "user":
            note = "[NOTE]last[/NOTE]" if users and index == users[-1] else ""
            out.append((f"{note}[ASK]{message.content}[/ASK]", False))
        elif message.role == "assistant":
            out.append((f"{message.content}</s>", index in trained))
        else:
            out.append((f"[SYS]{message.content}[/SYS]", False))
    return out


SURPLUS = """
{%- for message in messages %}
    {{- '<|' + message.role + '|>' + message.content | trim + ('<|im_end|>' if message.role == 'assistant' else '') }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|><think>\\n' }}{% endif %}"""


def _surplus(messages: list[Message], trained: set[int]) -> Pieces:
    out: Pieces = []
    for index, message in enumerate(messages):
        out.append((f"<|{message.role}|>", False))
        end = "<|im_end|>" if message.role == "assistant" else ""
        out.append((f"{message.content.strip()}{end}", index in trained))
    return out


GENERATION = """
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- '<|im_start|>assistant\\n' }}
        {%- generation %}{{ message.content + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}"""

TOOLS = """
{%- if tools %}
    {{- '<|im_start|>system\\n# Tools\\n' }}
    {%- for tool in tools %}{{- tool | tojson + '\\n' }}{% endfor %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'tool' %}
        {{- '<|im_start|>user\\n<result>' + message.content + '</result><|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content }}
        {%- for call in message.tool_calls or [] %}
            {{- '<call>' + {'name': call.function.name, 'arguments': call.function.arguments} | tojson + '</call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}"""


def _tools(messages: list[Message], trained: set[int]) -> Pieces:
    out: Pieces = []
    for index, message in enumerate(messages):
        if message.role == "tool":
            out.append((f"<|im_start|>user\n<result>{message.content}</result><|im_end|>\n", False))
            continue
        calls = "".join(
            "<call>" + json.dumps({"name": call.name, "arguments": call.arguments}, ensure_ascii=False) + "</call>"
            for call in message.tool_calls
        )
        out.append((f"<|im_start|>{message.role}\n", False))
        out.append((f"{message.content}{calls}<|im_end|>", index in trained))
        out.append(("\n", False))
    return out


_IM = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>", "unk_token": "<|endoftext|>"}
_PHI = {"bos_token": "<s>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "unk_token": "<unk>"}
_S = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"}

FAMILIES = {
    family.name: family
    for family in (
        Family("chatml", CHATML_TEMPLATE, _IM, _chatml),
        Family(
            "phi3",
            PHI3_TEMPLATE,
            _PHI,
            _phi3,
            ("<|assistant|>", "<|system|>", "<|end|>", "<|user|>"),
            end_of_turn="<|end|>",
        ),
        Family("default-system", DEFAULT_SYSTEM, _IM, _default_system),
        Family("strict", STRICT, _S, _strict, system=False, alternates=True, end_of_turn="</s>"),
        Family("thinking", THINKING, _IM, _thinking, ("<think>", "</think>")),
        Family("late", LATE, _S, _late, ("[NOTE]",), end_of_turn="</s>"),
        Family("surplus", SURPLUS, _IM, _surplus, ("<|user|>", "<|assistant|>", "<|system|>")),
        Family("generation-tag", GENERATION, _IM, _chatml),
        Family("tools", TOOLS, _IM, _tools, ("<call>", "</call>")),
        Family(
            "metaspace",
            PHI3_TEMPLATE,
            _PHI,
            _phi3,
            ("<|assistant|>", "<|system|>", "<|end|>", "<|user|>"),
            kind="metaspace",
            end_of_turn="<|end|>",
        ),
    )
}


def make_folder(family: Family, folder: Path) -> Path:
    """A Hugging Face folder with the tokenizer files of a family."""
    folder.mkdir(parents=True, exist_ok=True)
    specials = list(dict.fromkeys([*family.special.values(), *family.added]))
    if family.kind == "bytes":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        trainer = trainers.BpeTrainer(
            vocab_size=450, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
        )
        tokenizer.train_from_iterator(CORPUS, trainer)
    else:
        bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
        vocabulary = {token: id for id, token in enumerate([*specials, *bytes_, "▁", *"abcdefghijklmnopqrstuvwxyz?.,"])}
        merges = [("▁", letter) for letter in "abcdefghijklmnopqrstuvwxyz"]
        for left, right in merges:
            vocabulary[left + right] = len(vocabulary)
        tokenizer = Tokenizer(
            models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True)
        )
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        tokenizer.add_special_tokens(
            [AddedToken(token, rstrip=True, normalized=False, special=True) for token in specials]
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        **family.special,
        "tokenizer_class": "TokenizersBackend",
        "backend": "tokenizers",
        "model_max_length": 512,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text(family.template)
    return folder
