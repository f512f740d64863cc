"""Ids equal transformers'; labels equal a slow, obvious reference; the contract guards both."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.chat.families import FAMILIES, Family, make_folder
from tests.chat.strategies import conversations, texts
from tests.support.tiny import tiny_model
from tunesmith.chat.contract import CONTRACT_FILE, ChatContract
from tunesmith.chat.encoded import LossOn
from tunesmith.chat.messages import Conversation, Message, ToolCall
from tunesmith.chat.tokens import ChatTokenizer
from tunesmith.errors import InvalidData, InvalidModel

BYTE_FAMILIES = [name for name, family in FAMILIES.items() if family.kind == "bytes"]
QUICK = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


def talk(*turns: tuple[str, str]) -> Conversation:
    return Conversation(tuple(Message(role, content) for role, content in turns), source="f.jsonl:7")


# ── ids


@pytest.fixture(scope="session")
def peers(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[ChatTokenizer, Any]]:
    """Our tokenizer beside transformers', for every family and for the tiny models."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    all_folders = dict(folders)
    for name in ("phi3", "llama", "qwen2"):
        all_folders[f"tiny-{name}"] = tiny_model(name, tmp_path_factory.mktemp("tiny") / name)
    # For the model type qwen2 transformers' AutoTokenizer takes Qwen's own pre-tokenizer in place of that of
    # tokenizer.json, which a tiny tokenizer does not have.
    kinds = {name: PreTrainedTokenizerFast if name == "tiny-qwen2" else AutoTokenizer for name in all_folders}
    return {
        name: (ChatTokenizer.build(folder), kinds[name].from_pretrained(folder, local_files_only=True))
        for name, folder in all_folders.items()
    }


@QUICK
@given(data=st.data())
@pytest.mark.parametrize("name", [*FAMILIES, "tiny-phi3", "tiny-llama", "tiny-qwen2"])
def test_ids_equal_those_of_transformers(
    name: str, data: st.DataObject, peers: dict[str, tuple[ChatTokenizer, Any]]
) -> None:
    ours, theirs = peers[name]
    conversation = data.draw(conversations())
    prompt = data.draw(st.booleans())
    body = [message.for_template() for message in conversation.messages]
    try:
        expected = theirs.apply_chat_template(body, add_generation_prompt=prompt, return_dict=False)
    except Exception as error:
        assert type(error).__name__ in ("TemplateError", "UndefinedError")
        with pytest.raises(InvalidData):
            ours.render(conversation, add_generation_prompt=prompt)
        return
    if prompt:
        assert ours.encode_prompt(conversation.messages) == expected
    else:
        assert ours.encode(conversation).ids == expected


def test_ids_with_tools_equal_those_of_transformers(peers: dict[str, tuple[ChatTokenizer, Any]]) -> None:
    ours, theirs = peers["tools"]
    conversation = weather()
    body = [message.for_template() for message in conversation.messages]
    expected = theirs.apply_chat_template(body, tools=list(conversation.tools), return_dict=False)
    assert ours.encode(conversation).ids == expected
    assert ours.encode_prompt(conversation.messages[:1], conversation.tools) == theirs.apply_chat_template(
        body[:1], tools=list(conversation.tools), add_generation_prompt=True, return_dict=False
    )


def test_one_bos_only(tokenizers: dict[str, ChatTokenizer]) -> None:
    tokenizer = tokenizers["late"]
    ids = tokenizer.encode(talk(("user", "a"), ("assistant", "b"))).ids
    assert ids[0] == tokenizer.bos_id
    assert ids.count(tokenizer.bos_id) == 1


# ── labels


def byte_places(tokenizer: ChatTokenizer, ids: list[int], text: str) -> list[tuple[int, int]]:
    """For each id the bytes it stands for, by spelling the tokens of a byte-level tokenizer out."""
    # Byte-level BPE writes a byte that prints as its own character, and the others, in order, as those from U+0100 on.
    plain = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in plain]
    letters = {chr(byte): byte for byte in plain} | {chr(256 + n): byte for n, byte in enumerate(others)}
    added = {token.content for token in tokenizer._tokenizer.get_added_tokens_decoder().values()}
    places, position = [], 0
    for id in ids:
        token = tokenizer.token(id)
        raw = token.encode() if token in added else bytes(letters[letter] for letter in token)
        assert text.encode()[position : position + len(raw)] == raw
        places.append((position, position + len(raw)))
        position += len(raw)
    assert position == len(text.encode())
    return places


def slow_labels(
    family: Family, tokenizer: ChatTokenizer, conversation: Conversation, trained: set[int]
) -> tuple[list[int], list[bool]]:
    """Write the text by hand, mark every byte, and train on the tokens that stand for a marked byte."""
    pieces = family.pieces(list(conversation.messages), trained)
    text = "".join(piece for piece, _ in pieces)
    assert tokenizer.render(conversation) == text
    marks = [mark for piece, mark in pieces for _ in piece.encode()]
    ids = tokenizer.encode_text(text)
    return ids, [any(marks[start:end]) for start, end in byte_places(tokenizer, ids, text)]


@settings(max_examples=40)
@given(data=st.data())
@pytest.mark.parametrize("name", BYTE_FAMILIES)
def test_labels_equal_the_reference(name: str, data: st.DataObject, tokenizers: dict[str, ChatTokenizer]) -> None:
    family, tokenizer = FAMILIES[name], tokenizers[name]
    conversation = data.draw(conversations(system=family.system, alternates=family.alternates, flags=True))
    choices: tuple[LossOn, ...] = ("assistant", "last_assistant")
    loss_on = data.draw(st.sampled_from(choices))
    answers = [index for index, message in enumerate(conversation.messages) if message.role == "assistant"]
    chosen = set(answers if loss_on == "assistant" else answers[-1:])
    trained = {
        index
        for index in answers
        if conversation.messages[index].train or (conversation.messages[index].train is None and index in chosen)
    }
    encoded = tokenizer.encode(conversation, loss_on=loss_on)
    ids, labels = slow_labels(family, tokenizer, conversation, trained)
    assert encoded.ids == ids
    assert encoded.trained == labels
    assert encoded.trained_count == sum(labels)


@pytest.mark.parametrize("name", list(FAMILIES))
def test_the_end_of_turn_token_carries_loss(name: str, tokenizers: dict[str, ChatTokenizer]) -> None:
    tokenizer = tokenizers[name]
    assert tokenizer.contract.end_of_turn == FAMILIES[name].end_of_turn
    encoded = tokenizer.encode(talk(("user", "a b"), ("assistant", "c"), ("user", "d"), ("assistant", "e f?")))
    assert len(encoded.spans) == 2
    for span in encoded.spans:
        assert encoded.ids[span.end - 1] == tokenizer.end_of_turn_id
        assert tokenizer.end_of_turn_id not in encoded.ids[span.start : span.end - 1]


def test_pad_that_is_eos_does_no_harm(tokenizers: dict[str, ChatTokenizer]) -> None:
    tokenizer = tokenizers["chatml"]
    assert tokenizer.pad_id == tokenizer.end_of_turn_id
    encoded = tokenizer.encode(talk(("user", "a"), ("assistant", "b")))
    places = [index for index, id in enumerate(encoded.ids) if id == tokenizer.pad_id]
    assert [encoded.trained[index] for index in places] == [False, True]


def test_an_answer_that_writes_the_end_of_turn_token_keeps_its_span(tokenizers: dict[str, ChatTokenizer]) -> None:
    tokenizer = tokenizers["chatml"]
    encoded = tokenizer.encode(
        talk(("user", "<|im_end|>"), ("assistant", "a<|im_end|>b"), ("user", "c"), ("assistant", "d"))
    )
    spans = [tokenizer.decode(encoded.ids[s.start : s.end], skip_special_tokens=False) for s in encoded.spans]
    assert spans == ["a<|im_end|>b<|im_end|>", "d<|im_end|>"]


def test_greedy_special_tokens_of_phi3_are_not_trained_on(tokenizers: dict[str, ChatTokenizer]) -> None:
    tokenizer = tokenizers["metaspace"]
    encoded = tokenizer.encode(talk(("user", "hi"), ("assistant", "  you"), ("user", "a"), ("assistant", "ok")))
    tokens = [[tokenizer.token(id) for id in encoded.ids[s.start : s.end]] for s in encoded.spans]
    assert tokens == [["▁y", "o", "u", "<|end|>"], ["▁o", "k", "<|end|>"]]


def test_first_word_after_a_space_is_trained_on(tokenizers: dict[str, ChatTokenizer]) -> None:
    """The generation prompt of this template ends before the space that the answer begins with."""
    tokenizer = tokenizers["strict"]
    encoded = tokenizer.encode(talk(("user", "hi"), ("assistant", "hello")))
    (span,) = encoded.spans
    assert tokenizer.decode(encoded.ids[span.start : span.end], skip_special_tokens=False) == " hello </s>"
    prompt = tokenizer.encode_prompt([Message("user", "hi")])
    assert encoded.ids[: span.start] == prompt


@settings(max_examples=40)
@given(data=st.data())
@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in ("late", "surplus")])
def test_what_stands_before_an_answer_is_the_prompt_it_is_asked_with(
    name: str, data: st.DataObject, tokenizers: dict[str, ChatTokenizer]
) -> None:
    """Training and serving see the same ids: the ids up to the last answer are those of its prompt."""
    family, tokenizer = FAMILIES[name], tokenizers[name]
    words = st.text("abc .?", max_size=8).map(str.lstrip)  # white space would join the header's last token
    conversation = data.draw(conversations(system=family.system, alternates=True, contents=words))
    encoded = tokenizer.encode(conversation, loss_on="last_assistant")
    (span,) = encoded.spans
    prompt = tokenizer.encode_prompt(conversation.messages[:-1])
    assert encoded.ids[: span.start] == prompt


def test_loss_on_all_trains_on_everything_but_what_says_no(tokenizers: dict[str, ChatTokenizer]) -> None:
    tokenizer = tokenizers["chatml"]
    conversation = Conversation(
        (
            Message("system", "s"),
            Message("user", "u", train=False),
            Message("assistant", "a", train=False),
            Message("user", "v"),
            Message("assistant", "b"),
        )
    )
    encoded = tokenizer.encode(conversation, loss_on="all")
    texts = [tokenizer.decode(encoded.ids[s.start : s.end], skip_special_tokens=False) for s in encoded.spans]
    assert texts == [
        "<|im_start|>system\ns<|im_end|>\n",
        "<|im_start|>assistant\n",
        "\n<|im_start|>user\nv<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n",
    ]
    plain = tokenizer.encode(talk(("user", "u"), ("assistant", "a")), loss_on="all")
    assert all(plain.trained)


def weather() -> Conversation:
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
    return Conversation(
        (
            Message("user", "How warm?"),
            Message("assistant", "", tool_calls=(ToolCall("weather", {"city": "Zürich", "x": {"y": [1, None]}}),)),
            Message("tool", '{"c": 21}'),
            Message("assistant", "21 degrees."),
        ),
        tools=(tool,),
        source="f.jsonl:3",
    )


def test_tool_calls_are_trained_on_and_results_are_not(tokenizers: dict[str, ChatTokenizer]) -> None:
    tokenizer = tokenizers["tools"]
    encoded = tokenizer.encode(weather())
    texts = [tokenizer.decode(encoded.ids[s.start : s.end], skip_special_tokens=False) for s in encoded.spans]
    assert texts == [
        '<call>{"name": "weather", "arguments": {"city": "Zürich", "x": {"y": [1, null]}}}</call><|im_end|>',
        "21 degrees.<|im_end|>",
    ]
    assert "# Tools" in tokenizer.render(weather())


def test_template_that_is_not_prefix_stable_says_so(tokenizers: dict[str, ChatTokenizer]) -> None:
    tokenizer = tokenizers["late"]
    encoded = tokenizer.encode(talk(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")))
    assert encoded.method == "marked"
    assert tokenizer.encode(talk(("user", "a"), ("assistant", "b"))).method == "prefix"


LATE_TOOLS = """
{%- set users = messages | selectattr('role', 'equalto', 'user') | list %}
{%- set ns = namespace(turn=0) %}
{%- for message in messages %}
    {%- if not message.tool_calls and message.role != 'tool' %}
        {%- if (message.role == 'user') != (ns.turn % 2 == 0) %}{{ raise_exception('alternate!') }}{% endif %}
        {%- set ns.turn = ns.turn + 1 %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {%- if tools and message == users[-1] %}{{- '[NOTE]' + tools | tojson }}{% endif %}
        {{- '[ASK]' + message.content + '[/ASK]' }}
    {%- elif message.role == 'tool' %}
        {{- '[RESULT]' + message.content + '[/RESULT]' }}
    {%- elif message.tool_calls %}
        {%- for call in message.tool_calls %}
            {{- '[CALL]' + call.function.name + ':' + call.function.arguments + ';' }}
        {%- endfor %}
        {{- eos_token }}
    {%- else %}
        {{- ' ' + message.content | trim + eos_token }}
    {%- endif %}
{%- endfor %}"""


def test_tool_calls_are_found_where_tools_stand_before_the_last_question(folders: dict[str, Path]) -> None:
    """The call cannot be replaced by a plain answer (the roles would not alternate), and its prompt is no prefix."""
    tokenizer = ChatTokenizer.build(folders["late"], template=LATE_TOOLS)
    assert tokenizer.contract.arguments_as_text
    first = Message("user", "hi"), Message("assistant", "yes?")
    conversation = replace(
        weather(), messages=(*first, *weather().messages, Message("user", "a"), Message("assistant", "b"))
    )
    encoded = tokenizer.encode(conversation)
    texts = [tokenizer.decode(encoded.ids[s.start : s.end], skip_special_tokens=False) for s in encoded.spans]
    call = '[CALL]weather:{"city": "Zürich", "x": {"y": [1, null]}};</s>'
    assert texts == [" yes?</s>", call, " 21 degrees.</s>", " b</s>"]
    assert encoded.method == "marked"


def test_a_system_message_that_is_written_for_prompts_only(folders: dict[str, Path]) -> None:
    template = FAMILIES["chatml"].template.replace(
        "{% for message in messages %}",
        "{% for message in messages if message.role != 'system' or messages[-1].role == 'user' %}",
    )
    tokenizer = ChatTokenizer.build(folders["chatml"], template=template)
    system, user = Message("system", "s"), Message("user", "u")
    assert "s<|im_end|>" in tokenizer.decode(tokenizer.encode_prompt([system, user]), skip_special_tokens=False)
    with pytest.raises(InvalidData, match="leaves out the system message"):
        tokenizer.encode(Conversation((system, user, Message("assistant", "a"))))


def test_generation_prompt_with_a_surplus_is_learnt(tokenizers: dict[str, ChatTokenizer]) -> None:
    assert tokenizers["surplus"].contract.surplus_prompt == "<think>\n"
    assert tokenizers["phi3"].contract.trailer == "<|endoftext|>"
    assert tokenizers["chatml"].contract.surplus_prompt == tokenizers["chatml"].contract.trailer == ""


# ── refusals


def test_refused_system_role_names_row_and_role(tokenizers: dict[str, ChatTokenizer]) -> None:
    with pytest.raises(InvalidData) as caught:
        tokenizers["strict"].encode(talk(("system", "s"), ("user", "u"), ("assistant", "a")))
    assert caught.value.target == "f.jsonl:7#messages[0].role"
    assert "'system'" in caught.value.message
    assert "--fold-system" in str(caught.value.way_out)


def test_refused_order_names_the_message(tokenizers: dict[str, ChatTokenizer]) -> None:
    with pytest.raises(InvalidData) as caught:
        tokenizers["strict"].encode(talk(("user", "u"), ("assistant", "a"), ("assistant", "b")))
    assert caught.value.target == "f.jsonl:7#messages[2].role"
    assert "join the two assistant messages" in str(caught.value.way_out)


def test_tool_turns_that_a_template_leaves_out_are_refused(tokenizers: dict[str, ChatTokenizer]) -> None:
    with pytest.raises(InvalidData) as caught:
        tokenizers["phi3"].encode(weather())
    assert caught.value.target == "f.jsonl:3#messages[1].tool_calls"
    assert "leaves out the tool calls" in caught.value.message


def test_empty_conversation_is_refused(chatml: ChatTokenizer) -> None:
    with pytest.raises(InvalidData, match="without messages"):
        chatml.encode(Conversation((), source="f.jsonl:1"))


# ── ids to text


@settings(max_examples=60)
@given(text=texts)
@example(text="Grüße 👩‍🔬 你好")
@pytest.mark.parametrize("name", ["chatml", "metaspace"])
def test_streamed_text_is_the_text(name: str, text: str, tokenizers: dict[str, ChatTokenizer]) -> None:
    tokenizer = tokenizers[name]
    ids = [*tokenizer.encode_text(text), tokenizer.end_of_turn_id]
    stream = tokenizer.stream_decoder()
    deltas = [stream.push(id) for id in ids]
    assert "".join(deltas) + stream.flush() == tokenizer.decode(ids)
    assert not any(delta.endswith("\ufffd") for delta in deltas) or "\ufffd" in text


@settings(max_examples=60)
@given(ids=st.lists(st.integers(3, 449), max_size=40))
def test_streamed_text_of_any_ids_is_their_decoding(ids: list[int], chatml: ChatTokenizer) -> None:
    stream = chatml.stream_decoder()
    text = "".join(stream.push(id) for id in ids)
    assert text + stream.flush() == chatml.decode(ids)


def test_half_a_character_is_shown_as_such_at_the_end(chatml: ChatTokenizer) -> None:
    ids = chatml.encode_text("🙂")
    stream = chatml.stream_decoder()
    assert [stream.push(id) for id in ids[:-1]] == [""] * (len(ids) - 1)
    assert stream.flush() == "\ufffd"


# ── the contract


def test_contract_travels_with_the_package(folders: dict[str, Path], tmp_path: Path) -> None:
    built = ChatTokenizer.build(folders["phi3"])
    built.save(tmp_path / "package")
    loaded = ChatTokenizer.load(tmp_path / "package")
    loaded.check_probes()
    assert loaded.contract == built.contract
    assert loaded.contract.sha256 == built.contract.sha256 == ChatTokenizer.build(folders["phi3"]).contract.sha256
    assert sum(probe.ids is not None for probe in built.contract.probes) >= 5
    body = json.loads((tmp_path / "package" / CONTRACT_FILE).read_text())
    assert body["tokenizer_sha256"] == hashlib.sha256((folders["phi3"] / "tokenizer.json").read_bytes()).hexdigest()
    assert body["end_of_turn"] == "<|end|>"


def test_another_tokenizer_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    ChatTokenizer.build(folders["phi3"]).save(tmp_path)
    shutil.copy(folders["chatml"] / "tokenizer.json", tmp_path / "tokenizer.json")
    with pytest.raises(InvalidModel, match="not the one the chat contract was made for"):
        ChatTokenizer.load(tmp_path)


@pytest.mark.parametrize("name", FAMILIES)
def test_probes_hold_once_the_contract_was_written_and_read(
    name: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    path = ChatTokenizer.build(folders[name]).save(tmp_path)
    loaded = ChatTokenizer.load(tmp_path)
    loaded.check_probes()
    assert loaded.contract.to_json() == path.read_text(encoding="utf-8")


def test_probes_catch_a_changed_template(folders: dict[str, Path], tmp_path: Path) -> None:
    path = ChatTokenizer.build(folders["chatml"]).save(tmp_path)
    body = json.loads(path.read_text())
    body["template"] = body["template"].replace("<|im_end|>' + '\n'", "<|im_end|>'")
    path.write_text(json.dumps(body))
    with pytest.raises(InvalidModel, match="probe conversation 0 gives other ids") as caught:
        ChatTokenizer.load(tmp_path).check_probes()
    assert caught.value.target == "chat_contract.json#probes[0]"


def test_probes_hold_on_another_day(folders: dict[str, Path], tmp_path: Path) -> None:
    family = FAMILIES["chatml"]
    dated = "{{ '<|im_start|>system\nToday is ' + strftime_now('%d %b %Y') + '<|im_end|>\n' }}" + family.template
    tokenizer = ChatTokenizer.build(folders["chatml"], template=dated)
    tokenizer.save(tmp_path)
    ChatTokenizer.load(tmp_path).check_probes()
    assert "26 Jul 2024" in tokenizer.decode(tokenizer.contract.probes[0].ids or ())
    assert "26 Jul 2024" not in tokenizer.render(talk(("user", "u")))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no tokenizer.json in the model folder"),
        ({"tokenizer.model": b"x"}, "only tokenizer.model"),
        ({"tokenizer.json": b"{}"}, "cannot be read"),
    ],
)
def test_folders_without_a_usable_tokenizer(files: dict[str, bytes], message: str, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidModel, match=message) as caught:
        ChatTokenizer.build(tmp_path)
    assert caught.value.way_out


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}{{ m.content }}", "not valid Jinja"),
        ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", "puts no token after"),
        (
            "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}",
            "leaves out what the assistant",
        ),
        ("{{ raise_exception('never') }}", "refuses a plain conversation.*never"),
        ("{{ messages.append(1) }}", "refuses a plain conversation"),
        ("{{ ''.__class__.__mro__ }}", "leaves out|refuses"),
    ],
)
def test_templates_that_cannot_be_used(template: str, message: str, folders: dict[str, Path]) -> None:
    with pytest.raises(InvalidModel, match=message):
        ChatTokenizer.build(folders["chatml"], template=template)


def test_a_folder_without_a_template(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copy(folders["chatml"] / "tokenizer.json", tmp_path)
    with pytest.raises(InvalidModel, match="no chat template"):
        ChatTokenizer.build(tmp_path)


def test_named_templates_in_the_configuration(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copy(folders["tools"] / "tokenizer.json", tmp_path)
    config = json.loads((folders["tools"] / "tokenizer_config.json").read_text())
    config["chat_template"] = [
        {"name": "default", "template": FAMILIES["chatml"].template},
        {"name": "tool_use", "template": FAMILIES["tools"].template},
    ]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = ChatTokenizer.build(tmp_path)
    assert tokenizer.contract.tool_template == FAMILIES["tools"].template
    assert "# Tools" in tokenizer.render(weather())


def test_special_tokens_that_the_tokenizer_lacks_are_added(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    family = Family(
        "late", FAMILIES["late"].template, {"bos_token": "<s>", "eos_token": "</s>"}, FAMILIES["late"].pieces
    )
    folder = make_folder(family, tmp_path / "model")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "pad_token": "<pad>"}))
    ours = ChatTokenizer.build(folder)
    theirs = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    assert ours.contract.added_tokens == ("<pad>",)
    assert ours.pad_id == theirs.pad_token_id
    assert ours.vocabulary_size == len(theirs)


def test_eos_ids_have_the_end_of_turn_first(tmp_path: Path) -> None:
    folder = make_folder(FAMILIES["phi3"], tmp_path / "model")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 5, 999_999]}))
    contract = ChatTokenizer.build(folder).contract
    tokenizer = ChatTokenizer.build(folder)
    assert [tokenizer.token(id) for id in contract.eos_token_ids][:2] == ["<|end|>", "<|endoftext|>"]
    assert 999_999 not in contract.eos_token_ids


def test_a_contract_of_another_version_is_refused() -> None:
    with pytest.raises(InvalidModel, match="format version 9"):
        ChatContract.from_json('{"format_version": 9}')
    with pytest.raises(InvalidModel, match="not a chat contract"):
        ChatContract.from_json("[]")
