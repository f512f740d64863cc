"""Azure ML's ``/score``: the three shapes its documents, notebooks and servers use, told apart by their form.

    A, one conversation    {"input_data": {"input_string": [message, …], "parameters": {…}}}
                           → {"output": "text", …}
    B, conversations       {"input_data": {"input_string": [[message, …], …], "parameters": {…}}}
                           → {"output": ["text", …], …}
    C, prompts             {"input_data": ["prompt", …]} or {"input_string": ["prompt", …], …}
                           → {"output": ["text", …], …}

The answer's shape follows the request's: a list of one stays a list. ``parameters`` count first, the outer
``params`` fill the gaps, and two different values for one thing are refused. Every parameter is honoured or refused
by name; Azure's own newer server loses ``max_new_tokens`` and answers faults with status 200, which is not copied.
``/invocations`` takes what MLflow's scoring server takes for a chat model.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, StrictBool, StrictFloat, StrictInt
from starlette.requests import Request
from starlette.responses import Response

from tunesmith.chat.messages import Message
from tunesmith.endpoints.gateway import Gateway, Generation
from tunesmith.endpoints.service import EndpointService
from tunesmith.errors import Fault, UnsupportedField, ValidationFailed
from tunesmith.generate.types import Choice, GenerateRequest, Usage
from tunesmith.openai.answers import ChatShape
from tunesmith.openai.bodies import ChatCompletionBody, MessageBody, ResponseFormat, parse_body
from tunesmith.openai.face import (
    Face,
    answer_headers,
    deployment_header,
    json_response,
    parse_json,
    unless_gone,
)
from tunesmith.openai.schema import describe_body

MAX_CONVERSATIONS = 64
"""Conversations in one request."""

EXAMPLE = (
    '{"input_data": {"input_string": [{"role": "user", "content": "Hello"}], '
    '"parameters": {"temperature": 0.6, "top_p": 0.9, "max_new_tokens": 200}}}'
)

_ALIASES = {"max_new_tokens": "max_tokens", "max_completion_tokens": "max_tokens"}


class Parameters(BaseModel):
    """The sampling parameters of ``/score``, each optional."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    max_tokens: StrictInt | None = None
    max_new_tokens: StrictInt | None = None
    max_completion_tokens: StrictInt | None = None
    temperature: StrictInt | StrictFloat | None = None
    top_p: StrictInt | StrictFloat | None = None
    top_k: StrictInt | None = None
    do_sample: StrictBool | None = None
    """false is temperature 0."""
    return_full_text: StrictBool | None = None
    """true puts the last user message before the answer."""
    stop: str | list[str] | None = None
    seed: StrictInt | None = None
    frequency_penalty: StrictInt | StrictFloat | None = None
    presence_penalty: StrictInt | StrictFloat | None = None
    response_format: ResponseFormat | None = None
    stream: StrictBool | None = None


class ScoreBody(BaseModel):
    """For the OpenAPI page; the shapes are told apart by hand."""

    input_data: dict[str, Any] | list[str]
    params: Parameters | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """A ``/score`` request, understood."""

    requests: tuple[GenerateRequest, ...]
    single: bool
    """Whether the answer is one text, not a list."""
    prefixes: tuple[str, ...]
    """What ``return_full_text`` puts before each answer."""


def create_score_router(gateway: Gateway, endpoints: EndpointService) -> APIRouter:
    """The routes ``/endpoints/{endpoint}/score`` and ``/endpoints/{endpoint}/invocations``."""
    face = Face(gateway, endpoints)
    router = APIRouter(tags=["score"])

    async def score(request: Request, endpoint: str) -> Response:
        asked = read_score(parse_json(await face.body(request)))
        generations = await _generate(gateway, request, endpoint, asked.requests)
        results = [await generation.result() for generation in generations]
        choices = [result.choices[0] for result in results]
        usage = Usage(
            sum(result.usage.prompt_tokens for result in results),
            sum(result.usage.completion_tokens for result in results),
        )
        body = _answer(asked, choices, usage, generations[0].model_name)
        return json_response(body, answer_headers(generations[0]))

    async def invocations(request: Request, endpoint: str) -> Response:
        asked, model = read_invocation(parse_json(await face.body(request)))
        generation = (await _generate(gateway, request, endpoint, (asked,), model))[0]
        result = await generation.result()
        body = ChatShape(generation.model_name).whole(result.choices, result.usage)
        return json_response(body, answer_headers(generation))

    for path, handler, body, summary in (
        ("score", score, ScoreBody, "Azure ML's scoring call"),
        ("invocations", invocations, None, "MLflow's scoring call for a chat model"),
    ):
        router.add_api_route(
            f"/endpoints/{{endpoint}}/{path}",
            face.guarded(handler),
            methods=["POST"],
            summary=summary,
            operation_id=f"score_{path}",
            response_class=Response,
            openapi_extra=describe_body(body),
        )
    return router


def read_score(body: Any) -> Score:
    """Understand a ``/score`` body.

    Raises ``ValidationFailed`` (400) for another shape, with an example of a right one, and ``UnsupportedField``
    (422) for a parameter that is unknown, cannot be honoured or is given twice with different values.
    """
    if not isinstance(body, Mapping) or "input_data" not in body:
        raise _wrong_shape("the body must be an object with input_data", "body")
    for name in body:
        if name not in ("input_data", "params"):
            raise UnsupportedField(
                f"unknown field {str(name)[:80]!r}", target=str(name)[:80], way_out=f"like {EXAMPLE}"
            )
    data = body["input_data"]
    inner: Any = {}
    if isinstance(data, Mapping):
        for name in data:
            if name not in ("input_string", "parameters"):
                raise UnsupportedField(
                    f"unknown field {str(name)[:80]!r}",
                    target=f"input_data.{str(name)[:80]}",
                    way_out=f"like {EXAMPLE}",
                )
        if "input_string" not in data:
            raise _wrong_shape("input_data must have input_string", "input_data.input_string")
        items, place, inner = data["input_string"], "input_data.input_string", data.get("parameters")
    else:
        items, place = data, "input_data"
    conversations, single = _conversations(items, place)
    parameters = _merge(_parameters(inner, "input_data.parameters"), _parameters(body.get("params"), "params"))
    full = bool(parameters.pop("return_full_text", False))
    return Score(
        requests=tuple(GenerateRequest(messages=messages, **parameters) for messages in conversations),
        single=single,
        prefixes=tuple(_last_user(messages) if full else "" for messages in conversations),
    )


def read_invocation(body: Any) -> tuple[GenerateRequest, str | None]:
    """Understand MLflow's scoring body for a chat model: the chat body itself, or one in ``inputs`` or
    ``dataframe_split``.

    Returns the request and the model it names, if any. Raises ``ValidationFailed`` or ``UnsupportedField``.
    """
    if not isinstance(body, Mapping):
        raise _wrong_invocation("the body must be an object", "body")
    inner: Any = body
    parameters: Any = {}
    if "messages" not in body:
        parameters = body.get("params") or {}
        if not isinstance(parameters, Mapping):
            raise _wrong_invocation("params must be an object", "params")
        unknown = [name for name in body if name not in ("inputs", "dataframe_split", "dataframe_records", "params")]
        if unknown:
            raise UnsupportedField(f"unknown field {str(unknown[0])[:80]!r}", target=str(unknown[0])[:80])
        inner = _frame(body)
    chat = parse_body(ChatCompletionBody, {**inner, **parameters})
    if chat.stream:
        raise UnsupportedField("this call does not stream", target="stream", way_out="use /v1/chat/completions")
    return chat.to_request(), chat.model


def _frame(body: Mapping[str, Any]) -> Mapping[str, Any]:
    rows: Any = body.get("inputs", body.get("dataframe_records"))
    split = body.get("dataframe_split")
    if isinstance(split, Mapping) and isinstance(split.get("columns"), list) and isinstance(split.get("data"), list):
        rows = [
            dict(zip(split["columns"], row, strict=False)) if isinstance(row, list) else None for row in split["data"]
        ]
    if isinstance(rows, list) and len(rows) == 1:
        rows = rows[0]
    if not isinstance(rows, Mapping) or not all(isinstance(name, str) for name in rows):
        raise _wrong_invocation("there must be one conversation", "inputs")
    return {name: value for name, value in rows.items() if value is not None}


async def _generate(
    gateway: Gateway,
    request: Request,
    endpoint: str,
    asked: Sequence[GenerateRequest],
    model: str | None = None,
) -> list[Generation]:
    deployment = deployment_header(request)

    async def everything() -> list[Generation]:
        works = [gateway.generate(endpoint, one, deployment=deployment, model=model) for one in asked]
        return list(await asyncio.gather(*works))

    return await unless_gone(request, everything())


def _answer(asked: Score, choices: Sequence[Choice], usage: Usage, model: str) -> dict[str, Any]:
    texts = [prefix + choice.text for prefix, choice in zip(asked.prefixes, choices, strict=True)]
    messages = [{"role": "assistant", "content": choice.text} for choice in choices]
    reasons = [choice.finish_reason for choice in choices]
    one = asked.single
    return {
        "output": texts[0] if one else texts,
        ("message" if one else "messages"): messages[0] if one else messages,
        ("finish_reason" if one else "finish_reasons"): reasons[0] if one else reasons,
        "usage": usage.to_dict(),
        "model": model,
        "id": f"score-{uuid.uuid4().hex}",
        "created": int(time.time()),
    }


def _conversations(items: Any, place: str) -> tuple[list[tuple[Message, ...]], bool]:
    if not isinstance(items, list) or not items:
        raise _wrong_shape("must be a list of messages, of conversations or of prompts", place)
    if len(items) > MAX_CONVERSATIONS and not isinstance(items[0], Mapping):
        raise _wrong_shape(f"at most {MAX_CONVERSATIONS} conversations fit one request, not {len(items)}", place)
    if all(isinstance(item, Mapping) for item in items):
        return [_messages(items, place)], True
    if all(isinstance(item, str) for item in items):
        return [(Message("user", item),) for item in items], False
    if all(isinstance(item, list) for item in items):
        return [_messages(item, f"{place}[{number}]") for number, item in enumerate(items)], False
    kinds = sorted({type(item).__name__ for item in items})
    raise _wrong_shape(f"mixes {', '.join(kinds)}: all must be messages, all conversations or all prompts", place)


def _messages(items: Sequence[Any], place: str) -> tuple[Message, ...]:
    if not items:
        raise _wrong_shape("a conversation needs at least one message", place)
    messages = []
    for number, item in enumerate(items):
        where = f"{place}[{number}]"
        if not isinstance(item, Mapping):
            raise _wrong_shape("must be a message: an object with role and content", where)
        try:
            messages.append(parse_body(MessageBody, dict(item)).to_message(where))
        except (ValidationFailed, UnsupportedField) as error:
            raise type(error)(
                f"{where}: {error.message}",
                target=where if error.target is None else _inside(where, error.target),
                way_out=error.way_out or f"like {EXAMPLE}",
                details=[
                    Fault(fault.message, _inside(where, fault.target or ""), fault.code, fault.way_out)
                    for fault in error.details
                ],
            ) from None
    return tuple(messages)


def _inside(where: str, target: str) -> str:
    return target if target.startswith(where) else f"{where}.{target}".rstrip(".")


def _parameters(values: Any, place: str) -> dict[str, Any]:
    """The given parameters under the names of ``GenerateRequest`` (and ``return_full_text``)."""
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise _wrong_shape("must be an object", place)
    read = parse_body(Parameters, dict(values))
    given = read.model_dump(exclude_none=True, by_alias=True)
    if given.get("stream"):
        raise UnsupportedField("/score does not stream", target=f"{place}.stream", way_out="use /v1/chat/completions")
    given.pop("stream", None)
    for alias, name in _ALIASES.items():
        if alias in given:
            value = given.pop(alias)
            if given.setdefault(name, value) != value:
                raise UnsupportedField(
                    f"{alias} is {value} and {name} is {given[name]}",
                    target=f"{place}.{alias}",
                    way_out="give one of them",
                )
    sample = given.pop("do_sample", None)
    if sample is False:
        if given.get("temperature", 0) > 0:
            raise UnsupportedField(
                f"do_sample is false and temperature is {given['temperature']}",
                target=f"{place}.do_sample",
                way_out="leave temperature out, or let do_sample be true",
            )
        given["temperature"] = 0
    elif sample is True and given.get("temperature") == 0:
        raise UnsupportedField(
            "do_sample is true and temperature is 0", target=f"{place}.do_sample", way_out="give a temperature above 0"
        )
    if read.response_format is not None:
        given["response_format"] = read.response_format.to_form(f"{place}.response_format")
    if "stop" in given:
        given["stop"] = (given["stop"],) if isinstance(given["stop"], str) else tuple(given["stop"])
    return given


def _merge(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    for name, value in second.items():
        if name in first and first[name] != value:
            raise UnsupportedField(
                f"{name} is {first[name]!r} in input_data.parameters and {value!r} in params",
                target=f"params.{name}",
                way_out="give it once",
            )
    return {**second, **first}


def _last_user(messages: Sequence[Message]) -> str:
    return next((message.content for message in reversed(messages) if message.role == "user"), "")


def _wrong_shape(message: str, target: str) -> ValidationFailed:
    way_out = f"like {EXAMPLE}"
    return ValidationFailed(
        f"{target}: {message}" if target != "body" else message,
        target=target,
        way_out=way_out,
        details=[Fault(message, target, "WrongShape")],
    )


def _wrong_invocation(message: str, target: str) -> ValidationFailed:
    return ValidationFailed(
        message,
        target=target,
        way_out='like {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 100}',
        details=[Fault(message, target, "WrongShape")],
    )
