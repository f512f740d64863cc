"""Grammars over real tokenizers: whatever the logits, an answer has its form."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.chat.families import FAMILIES, make_folder
from tests.generate.test_tool_format import LLAMA3, MISTRAL3, MISTRAL11, NO_CALLS, QWEN, tokenizer_of
from tunesmith.chat.messages import Message
from tunesmith.chat.tokens import ChatTokenizer
from tunesmith.errors import UnsupportedField, ValidationFailed
from tunesmith.generate.forms import AnswerForms
from tunesmith.generate.grammar import needs_grammar
from tunesmith.generate.json_schemas import check_schema
from tunesmith.generate.request import GenerateRequest
from tunesmith.generate.tool_calls import ToolCallReader

USER = (Message("user", "x"),)
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["a", "b", 3, None]}, "maxItems": 3},
        "home": {"$ref": "#/$defs/place"},
    },
    "required": ["name", "age", "home"],
    "additionalProperties": False,
    "$defs": {
        "place": {
            "type": "object",
            "properties": {"lat": {"type": "number", "minimum": -1, "maximum": 1}, "warm": {"type": "boolean"}},
            "required": ["warm"],
            "additionalProperties": False,
        }
    },
}
SCHEMAS: dict[str, dict[str, Any]] = {
    "person": PERSON,
    "list": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}, "minItems": 1, "maxItems": 4},
    "choice": {"anyOf": [{"const": {"kind": "none"}}, {"type": "boolean"}]},
    "pattern": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
    "date": {"type": "string", "format": "date"},
}


def function(name: str, parameters: dict[str, Any] | None, **more: Any) -> dict[str, Any]:
    body = {"name": name, **more} | ({} if parameters is None else {"parameters": parameters})
    return {"type": "function", "function": body}


TOOLS = (function("find", PERSON), function("stop", None))


def of_schema(schema: dict[str, Any]) -> GenerateRequest:
    return GenerateRequest(
        USER, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    )


def played(tokenizer: ChatTokenizer, request: GenerateRequest, seed: int, most: int = 400) -> tuple[str, bool]:
    """An answer drawn at random under the constraint of ``request``: the text, and whether it came to its end."""
    forms = AnswerForms(tokenizer)
    (constraint,) = forms.constraints(request)
    assert constraint is not None
    decoder = forms.decoder(request)
    random = np.random.default_rng(seed)
    text = ""
    # A model's logits are often wider than its vocabulary: the surplus must never be drawn.
    for _ in range(most):
        logits = random.standard_normal(tokenizer.vocabulary_size + 7, dtype=np.float32)
        constraint.allow(logits)
        token = int(logits.argmax())
        assert np.isfinite(logits[token])
        constraint.accept(token)
        if token in tokenizer.contract.eos_token_ids:
            return text + decoder.flush(), True
        text += decoder.push(token)
    return text, False


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ChatTokenizer]:
    folder = tmp_path_factory.mktemp("forms")
    return {
        "bytes": ChatTokenizer.build(make_folder(FAMILIES["chatml"], folder / "bytes")),
        "metaspace": ChatTokenizer.build(make_folder(FAMILIES["metaspace"], folder / "metaspace")),
        "qwen": tokenizer_of(QWEN, (), folder / "qwen"),
        "qwen-special": tokenizer_of(QWEN, ("<tool_call>", "</tool_call>"), folder / "qwen-special"),
        "llama": tokenizer_of(LLAMA3, (), folder / "llama"),
        "mistral": tokenizer_of(MISTRAL3, ("[TOOL_CALLS]",), folder / "mistral"),
        "mistral-outside": tokenizer_of(MISTRAL11, ("[TOOL_CALLS]", "[ARGS]"), folder / "mistral-outside"),
        "phi4": tokenizer_of(NO_CALLS, ("<|tool_call|>", "<|/tool_call|>"), folder / "phi4"),
    }


@pytest.mark.parametrize("family", ["bytes", "metaspace"])
@pytest.mark.parametrize("name", SCHEMAS)
def test_answers_validate(tokenizers: dict[str, ChatTokenizer], family: str, name: str) -> None:
    for seed in range(3):
        text, ended = played(tokenizers[family], of_schema(SCHEMAS[name]), seed)
        assert ended, text
        jsonschema.validate(json.loads(text), SCHEMAS[name], format_checker=jsonschema.FormatChecker())


def test_json_object_is_an_object_as_far_as_it_goes(tokenizers: dict[str, ChatTokenizer]) -> None:
    request = GenerateRequest(USER, response_format={"type": "json_object"})
    for seed in range(5):
        text, ended = played(tokenizers["bytes"], request, seed, most=60)
        assert text.startswith("{")
        if ended:
            assert isinstance(json.loads(text), dict)


FORMATS = ["qwen", "qwen-special", "llama", "mistral", "mistral-outside", "phi4"]


@pytest.mark.parametrize("family", FORMATS)
def test_forced_calls_are_read_back(tokenizers: dict[str, ChatTokenizer], family: str) -> None:
    tokenizer = tokenizers[family]
    form = AnswerForms(tokenizer).tools
    seen = set()
    for seed in range(4):
        request = GenerateRequest(USER, tools=TOOLS, tool_choice="required", parallel_tool_calls=False)
        text, ended = played(tokenizer, request, seed)
        reader = ToolCallReader(form, ("find", "stop"))
        (said, calls), (rest, more) = reader.push(text), reader.finish()
        assert (ended, said + rest, more) == (True, "", []), text
        (call,) = calls
        seen.add(call.name)
        arguments = json.loads(call.arguments)
        jsonschema.validate(arguments, PERSON if call.name == "find" else {"maxProperties": 0})
    assert seen <= {"find", "stop"}


@pytest.mark.parametrize("family", FORMATS)
def test_a_named_function_is_the_one_that_is_called(tokenizers: dict[str, ChatTokenizer], family: str) -> None:
    tokenizer = tokenizers[family]
    named = {"type": "function", "function": {"name": "stop"}}
    text, ended = played(tokenizer, GenerateRequest(USER, tools=TOOLS, tool_choice=named, parallel_tool_calls=False), 0)
    reader = ToolCallReader(AnswerForms(tokenizer).tools, ("find", "stop"))
    calls = reader.push(text)[1] + reader.finish()[1]
    assert ended
    assert [(call.name, call.arguments) for call in calls] == [("stop", "{}")]


@pytest.mark.parametrize("family", ["qwen", "mistral", "mistral-outside", "phi4"])
def test_several_calls_may_come(tokenizers: dict[str, ChatTokenizer], family: str) -> None:
    tokenizer = tokenizers[family]
    counts = set()
    for seed in range(12):
        request = GenerateRequest(USER, tools=(function("stop", None),), tool_choice="required")
        text, ended = played(tokenizer, request, seed, most=120)
        if ended:
            reader = ToolCallReader(AnswerForms(tokenizer).tools, ("stop",))
            counts.add(len(reader.push(text)[1] + reader.finish()[1]))
    assert max(counts) > 1
    assert 0 not in counts


class Typist:
    """Logits of a model that wants to say ``text``."""

    def __init__(self, tokenizer: ChatTokenizer, text: str) -> None:
        self.ids = [*tokenizer.encode_text(text), tokenizer.contract.eos_token_ids[0]]
        self.width = tokenizer.vocabulary_size

    def may_say_it(self, forms: AnswerForms, request: GenerateRequest) -> bool:
        (constraint,) = forms.constraints(request)
        assert constraint is not None
        for token in self.ids:
            logits = np.zeros(self.width, dtype=np.float32)
            constraint.allow(logits)
            if not np.isfinite(logits[token]):
                return False
            constraint.accept(token)
        return True


ONE = '{"name": "stop", "arguments": {}}'


@pytest.mark.parametrize(
    ("family", "text", "allowed"),
    [
        ("qwen", "Hello, how are you?", True),
        ("qwen", f"Well.\n<tool_call>\n{ONE}\n</tool_call>", True),
        ("qwen", f"<tool_call>\n{ONE}\n</tool_call>", True),
        ("qwen", f"<tool_call>\n{ONE}\n</tool_call>\n<tool_call>\n{ONE}\n</tool_call>", False),
        ("qwen-special", f"Well.<tool_call>\n{ONE}\n</tool_call>", True),
        ("qwen-special", "Well.<tool_call>hello", False),
        ("llama", "Hello, how are you?", True),
        ("llama", '{"name": "stop", "parameters": {}}', True),
        ("llama", '{"name": "go", "parameters": {}}', False),
        ("mistral", f"[TOOL_CALLS] [{ONE}]", True),
        ("mistral", f"[TOOL_CALLS] [{ONE}, {ONE}]", False),
    ],
)
def test_one_call_at_most_beside_text(
    tokenizers: dict[str, ChatTokenizer], family: str, text: str, allowed: bool
) -> None:
    request = GenerateRequest(USER, tools=(function("stop", None),), parallel_tool_calls=False)
    tokenizer = tokenizers[family]
    assert Typist(tokenizer, text).may_say_it(AnswerForms(tokenizer), request) is allowed


def test_strict_arguments_follow_their_schema_where_the_model_decides(tokenizers: dict[str, ChatTokenizer]) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
    tokenizer = tokenizers["qwen"]
    forms = AnswerForms(tokenizer)
    good, bad = (f'<tool_call>\n{{"name": "f", "arguments": {{"n": {n}}}}}\n</tool_call>' for n in (2, 3))
    strict = GenerateRequest(USER, tools=(function("f", schema, strict=True),))
    assert Typist(tokenizer, good).may_say_it(forms, strict)
    assert Typist(tokenizer, "Hello").may_say_it(forms, strict)
    assert not Typist(tokenizer, bad).may_say_it(forms, strict)
    assert not needs_grammar(GenerateRequest(USER, tools=(function("f", schema),)))


def test_a_form_beside_tools_may_be_either(tokenizers: dict[str, ChatTokenizer]) -> None:
    tokenizer = tokenizers["qwen"]
    forms = AnswerForms(tokenizer)
    request = GenerateRequest(
        USER,
        tools=(function("stop", None),),
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": ["yes"]}}},
    )
    assert Typist(tokenizer, '"yes"').may_say_it(forms, request)
    assert Typist(tokenizer, f"<tool_call>\n{ONE}\n</tool_call>").may_say_it(forms, request)
    assert not Typist(tokenizer, "Hello").may_say_it(forms, request)


def test_marks_that_are_special_tokens_are_text_where_there_are_tools(tokenizers: dict[str, ChatTokenizer]) -> None:
    tokenizer = tokenizers["mistral"]
    forms = AnswerForms(tokenizer)
    ids = tokenizer.encode_text("Hi [TOOL_CALLS] [1]<|im_end|>")
    for tools, wanted in (((), "Hi  [1]"), (TOOLS, "Hi [TOOL_CALLS] [1]")):
        decoder = forms.decoder(GenerateRequest(USER, tools=tools))
        assert "".join(decoder.push(token) for token in ids) + decoder.flush() == wanted


@pytest.mark.parametrize(
    ("request_", "target"),
    [
        (of_schema({"type": "array", "uniqueItems": True}), "response_format.json_schema.schema"),
        (of_schema({"type": "string", "pattern": "(("}), "response_format.json_schema.schema"),
        (of_schema({"$ref": "https://example.com/x.json"}), "response_format.json_schema.schema"),
        (
            GenerateRequest(
                USER,
                tools=(TOOLS[0], function("bad", {"properties": {"a": {"uniqueItems": True}}})),
                tool_choice="required",
            ),
            "tools[1].function.parameters",
        ),
    ],
)
def test_what_cannot_be_followed_is_named(
    tokenizers: dict[str, ChatTokenizer], request_: GenerateRequest, target: str
) -> None:
    with pytest.raises(UnsupportedField) as refused:
        AnswerForms(tokenizers["qwen"]).constraints(request_)
    assert refused.value.target == target


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"type": "strin"}, ".type"),
        ({"properties": {"a": {"minimum": "x"}}}, ".properties.a.minimum"),
        ({"anyOf": []}, ".anyOf"),
        ({"items": {"required": ["a", 1]}}, ".items.required[1]"),
    ],
)
def test_what_is_no_schema_is_a_fault_with_its_path(schema: dict[str, Any], path: str) -> None:
    with pytest.raises(ValidationFailed) as refused:
        check_schema(schema, "place")
    assert refused.value.target == f"place{path}"


def test_a_schema_nested_beyond_reason_is_a_fault() -> None:
    schema: dict[str, Any] = {}
    for _ in range(400):
        schema = {"properties": {"a": schema}}
    with pytest.raises(ValidationFailed, match="nested too deeply"):
        check_schema(schema, "place")


parts = st.sampled_from(["object", "string", "integer", "array", "#/$defs/a", "#", "[0-9]+", "a{3}", "(", 1, 0, True])
keys = st.sampled_from(
    ["type", "properties", "required", "items", "enum", "const", "anyOf", "$ref", "minimum", "maxLength", "pattern"]
)
some_schemas = st.recursive(
    parts,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(keys | st.sampled_from(["a", "$defs"]), inner, max_size=4)
    ),
    max_leaves=12,
)


def test_a_schema_that_nothing_can_follow_is_refused_before_the_answer(tokenizers: dict[str, ChatTokenizer]) -> None:
    with pytest.raises(UnsupportedField, match="no answer can follow it") as refused:
        AnswerForms(tokenizers["bytes"]).constraints(of_schema({"$ref": "#"}))
    assert refused.value.target == "response_format.json_schema.schema"


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(schema=st.dictionaries(keys | st.just("$defs"), some_schemas, max_size=5))
def test_any_schema_is_followed_or_refused(tokenizers: dict[str, ChatTokenizer], schema: dict[str, Any]) -> None:
    try:
        check_schema(schema, "schema")
    except ValidationFailed:
        return
    try:
        text, ended = played(tokenizers["bytes"], of_schema(schema), 0, most=12)
    except UnsupportedField as refused:
        assert refused.target == "response_format.json_schema.schema"
    else:
        if ended:
            json.loads(text)
