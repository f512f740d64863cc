"""The bodies of OpenAI's requests, strict: a field that is not honoured is refused by name.

Fields that have no effect on an answer (``user``, ``metadata``) are taken. Fields that this product cannot honour are
known by name, so that their neutral value passes (``logit_bias: {}``) and any other is refused with what to do.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, ValidationError

from tunesmith.chat.messages import Message, ToolCall
from tunesmith.errors import Fault, UnsupportedField, ValidationFailed
from tunesmith.generate.json_schemas import check_schema
from tunesmith.generate.types import GenerateRequest
from tunesmith.records.validation import dotted, validation_failed

Number = StrictInt | StrictFloat
ALIASES = {"max_new_tokens": "max_tokens", "max_length": "max_tokens", "repetition_penalty": "frequency_penalty"}


class Strict(BaseModel):
    """A part of a body; unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class TextPart(Strict):
    """One part of a message's content. Only text is understood."""

    type: Literal["text"]
    text: str


class FunctionCall(Strict):
    """The function of a tool call."""

    name: str
    arguments: str | dict[str, Any] = "{}"
    """JSON text, or the object itself."""
    parsed_arguments: Any = None
    """The official client's own reading of ``arguments``, which count."""


class ToolCallBody(Strict):
    """One call that the assistant made."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: FunctionCall
    index: int | None = None


class MessageBody(Strict):
    """One turn of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCallBody] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    # What the official client's own answers have beside these, for an answer is sent back as it came.
    refusal: None = None
    parsed: Any = None
    """The official client's own reading of ``content``, which counts."""
    audio: None = None
    function_call: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None

    def to_message(self, place: str) -> Message:
        """The message as the rest of the project knows it; ``developer`` is ``system``.

        Raises ``ValidationFailed`` when the content is missing or a call's arguments are not a JSON object.
        """
        if self.content is None and not self.tool_calls:
            raise _fault("must be text", f"{place}.content")
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content or ())
        return Message(
            role="system" if self.role == "developer" else self.role,
            content=text,
            name=self.name,
            tool_calls=tuple(
                _tool_call(call, f"{place}.tool_calls[{number}]") for number, call in enumerate(self.tool_calls or ())
            ),
            tool_call_id=self.tool_call_id,
            reasoning_content=self.reasoning_content,
        )


class FunctionBody(Strict):
    """A function that the assistant may call."""

    name: str = Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9_.-]+$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """JSON schema of an object; left out, the function has no arguments."""
    strict: bool | None = None
    """Whether the arguments must follow ``parameters`` also where the model decides to call."""


class ToolBody(Strict):
    """A tool; only functions are understood."""

    type: Literal["function"]
    function: FunctionBody

    def to_tool(self, place: str) -> dict[str, Any]:
        """The tool as templates read it. Raises ``ValidationFailed`` for parameters that are no schema of an object."""
        parameters = self.function.parameters
        if parameters:
            where = f"{place}.function.parameters"
            check_schema(parameters, where)
            if parameters.get("type", "object") != "object":
                raise _fault('must be "object": arguments are given by their names', f"{where}.type")
        return self.model_dump(exclude_none=True)


class FunctionName(Strict):
    """Names a function."""

    name: str


class NamedTool(Strict):
    """The tool that must be called."""

    type: Literal["function"]
    function: FunctionName


class JsonSchema(Strict):
    """The schema of ``response_format``."""

    name: str
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Strict):
    """The form that the answer must have."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    def to_form(self, place: str = "response_format") -> dict[str, Any]:
        """The form for an engine. Raises ``ValidationFailed`` where the schema is missing, or is none."""
        if (self.type == "json_schema") != (self.json_schema is not None):
            what = "is required" if self.json_schema is None else f"is not for the type {self.type}"
            raise _fault(what, f"{place}.json_schema", 'like {"name": "answer", "schema": {"type": "object"}}')
        if self.json_schema is not None and self.json_schema.schema_ is not None:
            check_schema(self.json_schema.schema_, f"{place}.json_schema.schema")
        return self.model_dump(exclude_none=True, by_alias=True)


class StreamOptions(Strict):
    """What a stream carries beside the text."""

    include_usage: bool = False
    include_obfuscation: bool = False
    """Nothing is added to hide the length of pieces: the default, false, is honoured."""


class Sampling(Strict):
    """What both kinds of completion share."""

    model: str | None = None
    """A model or deployment of the endpoint; see ``/v1/models``."""
    max_tokens: StrictInt | None = None
    temperature: Number | None = None
    top_p: Number | None = None
    top_k: StrictInt | None = None
    n: StrictInt | None = None
    stop: str | list[str] | None = None
    seed: StrictInt | None = None
    frequency_penalty: Number | None = None
    presence_penalty: Number | None = None
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    # No effect on an answer.
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    metadata: dict[str, str] | None = None
    logit_bias: dict[str, Any] | None = None

    def sampling(self) -> dict[str, Any]:
        """The fields of ``GenerateRequest`` that are given."""
        given = {
            name: getattr(self, name)
            for name in (
                "temperature",
                "top_p",
                "top_k",
                "n",
                "seed",
                "frequency_penalty",
                "presence_penalty",
                "stream",
            )
            if getattr(self, name) is not None
        }
        if self.stop is not None:
            given["stop"] = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        if self.logit_bias:
            raise UnsupportedField("tokens cannot be biased", target="logit_bias", way_out="leave it out")
        if self.stream_options is not None and not self.stream:
            raise _fault("is for streams only", "stream_options", "set stream to true, or leave it out")
        if self.stream_options is not None and self.stream_options.include_obfuscation:
            raise UnsupportedField(
                "pieces are not padded", target="stream_options.include_obfuscation", way_out="leave it out"
            )
        return given

    @property
    def include_usage(self) -> bool:
        """Whether the stream ends with a chunk that has the usage."""
        return self.stream_options is not None and self.stream_options.include_usage


class ChatCompletionBody(Sampling):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[MessageBody], Field(min_length=1)]
    max_completion_tokens: StrictInt | None = None
    logprobs: StrictBool | None = None
    top_logprobs: StrictInt | None = None
    response_format: ResponseFormat | None = None
    tools: list[ToolBody] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedTool | None = None
    parallel_tool_calls: StrictBool | None = None
    store: StrictBool | None = None
    service_tier: str | None = None
    modalities: list[str] | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None

    def to_request(self) -> GenerateRequest:
        """The request for an engine. Raises ``ValidationFailed`` or ``UnsupportedField``."""
        if self.max_tokens is not None and self.max_completion_tokens not in (None, self.max_tokens):
            raise UnsupportedField(
                f"max_tokens is {self.max_tokens} and max_completion_tokens is {self.max_completion_tokens}",
                target="max_completion_tokens",
                way_out="give one of them",
            )
        self._refuse()
        given = self.sampling()
        limit = self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens
        if limit is not None:
            given["max_tokens"] = limit
        if self.logprobs is not None:
            given["logprobs"] = self.logprobs
        if self.top_logprobs is not None:
            given["top_logprobs"] = self.top_logprobs
        if self.response_format is not None:
            given["response_format"] = self.response_format.to_form()
        given |= self._tools()
        messages = tuple(message.to_message(f"messages[{i}]") for i, message in enumerate(self.messages))
        return GenerateRequest(messages=messages, **given)

    def _tools(self) -> dict[str, Any]:
        """The fields of ``GenerateRequest`` about tools; none of them where no tool may be called."""
        tools = tuple(tool.to_tool(f"tools[{number}]") for number, tool in enumerate(self.tools or ()))
        if not tools:
            for name, value in (("tool_choice", self.tool_choice), ("parallel_tool_calls", self.parallel_tool_calls)):
                if value not in (None, "auto", "none", True):
                    raise _fault("needs tools", name)
            return {}
        if self.tool_choice == "none":
            return {}
        given: dict[str, Any] = {"tools": tools}
        if isinstance(self.tool_choice, NamedTool):
            given["tool_choice"] = self.tool_choice.model_dump()
        elif self.tool_choice is not None:
            given["tool_choice"] = self.tool_choice
        if self.parallel_tool_calls is not None:
            given["parallel_tool_calls"] = self.parallel_tool_calls
        return given

    def _refuse(self) -> None:
        if self.store:
            raise UnsupportedField("answers are not stored for later", target="store", way_out="leave it out")
        if self.service_tier not in (None, "auto", "default"):
            raise UnsupportedField("there is one tier", target="service_tier", way_out="leave it out")
        if self.modalities not in (None, ["text"]):
            raise UnsupportedField("answers are text", target="modalities", way_out="leave it out")
        for name in ("reasoning_effort", "verbosity"):
            if getattr(self, name) is not None:
                raise UnsupportedField("cannot be set", target=name, way_out="leave it out")


class CompletionBody(Sampling):
    """``POST /v1/completions``: each prompt is one user message, for the model is a chat model."""

    prompt: str | list[str]
    echo: StrictBool | None = None
    suffix: str | None = None
    best_of: StrictInt | None = None
    logprobs: Annotated[StrictInt, Field(ge=0, le=5)] | None = None
    """How many of the most probable tokens are told at each place, beside the one that was taken."""

    @property
    def prompts(self) -> list[str]:
        """The prompts as a list."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt

    @property
    def echoes(self) -> list[str]:
        """For each prompt, what stands before its answers."""
        return [prompt if self.echo else "" for prompt in self.prompts]

    def to_requests(self) -> list[GenerateRequest]:
        """One request for each prompt. Raises ``ValidationFailed`` or ``UnsupportedField``."""
        if self.suffix:
            raise UnsupportedField("text cannot be inserted before a suffix", target="suffix", way_out="leave it out")
        if self.best_of not in (None, 1, self.n or 1):
            raise UnsupportedField("answers are not ranked", target="best_of", way_out="leave it out; n is honoured")
        if self.logprobs is not None and self.echo:
            raise UnsupportedField(
                "log-probabilities of a prompt are not computed", target="echo", way_out="leave out echo or logprobs"
            )
        prompts = self.prompts
        if not prompts:
            raise _fault("there must be at least one prompt", "prompt")
        given = self.sampling()
        if self.stream and len(prompts) > 1:
            raise UnsupportedField("a stream has one prompt", target="prompt", way_out="send one prompt a request")
        if self.logprobs is not None:
            given |= {"logprobs": True, "top_logprobs": self.logprobs}
        # OpenAI's own default: without a limit these completions are short.
        given["max_tokens"] = 16 if self.max_tokens is None else self.max_tokens
        return [GenerateRequest(messages=(Message("user", prompt),), **given) for prompt in prompts]


B = TypeVar("B", bound=BaseModel)


def parse_body(model: type[B], body: bytes | Any) -> B:
    """Read a body (bytes, or a JSON value).

    Raises ``UnsupportedField`` (422) when the only fault is unknown fields, ``ValidationFailed`` (400) with every
    fault otherwise.
    """
    try:
        if isinstance(body, bytes):
            return model.model_validate_json(body)
        return model.model_validate(body)
    except ValidationError as failure:
        errors = failure.errors(include_url=False)
        unknown = [error for error in errors if error["type"] == "extra_forbidden"]
        whole = validation_failed(errors, model=model, what="body")
        if unknown and len(unknown) == len(errors):
            first = unknown[0]["loc"]
            way_out = whole.details[0].way_out or _near(str(first[-1]), model)
            raise UnsupportedField(
                f"unknown field {str(first[-1])[:80]!r}", target=dotted(first), way_out=way_out, details=whole.details
            ) from None
        raise whole from None


def _near(name: str, model: type[BaseModel]) -> str | None:
    close = difflib.get_close_matches(name, model.model_fields, n=1)
    guess = ALIASES.get(name) or (close[0] if close else None)
    return f"did you mean {guess!r}?" if guess else None


def _tool_call(call: ToolCallBody, place: str) -> ToolCall:
    arguments: Any = call.function.arguments
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError:
            arguments = None
    if not isinstance(arguments, Mapping):
        raise _fault("must be a JSON object, or its text", f"{place}.function.arguments")
    return ToolCall(call.function.name, arguments, call.id)


def _fault(message: str, target: str, way_out: str | None = None) -> ValidationFailed:
    return ValidationFailed(f"{target} {message}", target=target, details=[Fault(message, target, way_out=way_out)])
