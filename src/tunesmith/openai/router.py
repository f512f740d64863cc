"""Routes of OpenAI's protocol: chat completions, completions, models, below every endpoint's path."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from tunesmith.endpoints.gateway import Gateway, Generation
from tunesmith.endpoints.service import EndpointService
from tunesmith.errors import TunesmithError
from tunesmith.generate.types import GenerateEvent, GenerateRequest, Usage
from tunesmith.openai.answers import ChatShape, CompletionShape, model_list
from tunesmith.openai.bodies import ChatCompletionBody, CompletionBody, parse_body
from tunesmith.openai.face import (
    EventStream,
    Face,
    answer_headers,
    deployment_header,
    error_body,
    json_response,
    server_sent,
    unless_gone,
)
from tunesmith.openai.schema import describe_body


def create_openai_router(gateway: Gateway, endpoints: EndpointService) -> APIRouter:
    """The routes ``/endpoints/{endpoint}/v1/…`` over ``gateway``, opened by the keys of ``endpoints``."""
    face = Face(gateway, endpoints)
    routes = _OpenAIRoutes(face)
    router = APIRouter(tags=["openai"])

    def add(path: str, method: str, handler: Any, body: type[BaseModel] | None, summary: str) -> None:
        router.add_api_route(
            f"/endpoints/{{endpoint}}/v1/{path}",
            face.guarded(handler),
            methods=[method],
            summary=summary,
            operation_id=f"openai_{path.replace('/', '_')}",
            response_class=Response,
            openapi_extra=describe_body(body),
        )

    router.add_api_route(
        "/endpoints/{endpoint}/metrics",
        face.guarded(routes.metrics),
        methods=["GET"],
        summary="Prometheus metrics of the endpoint",
        operation_id="endpoint_metrics",
        response_class=Response,
        openapi_extra=describe_body(None),
    )
    add("chat/completions", "POST", routes.chat, ChatCompletionBody, "Continue a conversation")
    add("completions", "POST", routes.completions, CompletionBody, "Answer one or several prompts")
    add("models", "GET", routes.models, None, "The names that the model field may have")
    return router


class _OpenAIRoutes:
    def __init__(self, face: Face) -> None:
        self._face = face
        self._gateway = face.gateway

    async def chat(self, request: Request, endpoint: str) -> Response:
        body = parse_body(ChatCompletionBody, await self._face.body(request))
        asked = body.to_request()
        generation = await self._begin(request, endpoint, asked, body.model)
        headers = answer_headers(generation)
        shape = ChatShape(generation.model_name)
        if asked.stream:
            return EventStream(_stream(generation, shape.chunk, shape.usage_chunk, body.include_usage), headers)
        result = await generation.result()
        return json_response(shape.whole(result.choices, result.usage), headers)

    async def completions(self, request: Request, endpoint: str) -> Response:
        body = parse_body(CompletionBody, await self._face.body(request))
        requests = body.to_requests()
        if requests[0].stream:
            generation = await self._begin(request, endpoint, requests[0], body.model)
            shape = CompletionShape(generation.model_name, body.echoes[0])
            events = _stream(generation, shape.chunk, shape.usage_chunk, body.include_usage)
            return EventStream(events, answer_headers(generation))
        deployment = deployment_header(request)
        generations = await unless_gone(
            request,
            _all(
                [self._gateway.generate(endpoint, asked, deployment=deployment, model=body.model) for asked in requests]
            ),
        )
        results = [await generation.result() for generation in generations]
        first = generations[0]
        return json_response(CompletionShape(first.model_name).whole(body.echoes, results), answer_headers(first))

    async def models(self, request: Request, endpoint: str) -> Response:
        route = self._gateway.route(endpoint)
        return json_response(model_list(route.model_names, route.created))

    async def metrics(self, request: Request, endpoint: str) -> Response:
        text = self._gateway.metrics.prometheus(endpoint)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _begin(self, request: Request, endpoint: str, asked: GenerateRequest, model: str | None) -> Generation:
        work = self._gateway.generate(endpoint, asked, deployment=deployment_header(request), model=model)
        return await unless_gone(request, work)


async def _all(works: list[Any]) -> list[Generation]:
    return list(await asyncio.gather(*works))


async def _stream(
    generation: Generation,
    chunk: Callable[[GenerateEvent], dict[str, Any]],
    usage_chunk: Callable[[Usage], dict[str, Any]],
    include_usage: bool,
) -> AsyncIterator[bytes]:
    usage: Usage | None = None
    try:
        async for event in generation:
            usage = event.usage or usage
            yield server_sent(chunk(event))
        if include_usage and usage is not None:
            yield server_sent(usage_chunk(usage))
        yield b"data: [DONE]\n\n"
    except TunesmithError as error:
        # The status is sent already: the error is an event, and the stream ends without [DONE].
        yield server_sent(error_body(error))
    finally:
        await generation.aclose()
