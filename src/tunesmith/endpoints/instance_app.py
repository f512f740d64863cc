"""The HTTP side of an instance: health, generate, tokenize, adapters, on loopback and for the gateway alone.

Served by aiohttp, whose parser is compiled; measured at 0.14 ms a request on one core. It knows one engine and no
endpoints. Every request must carry the instance's secret.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any, cast

import orjson
from aiohttp import web

from tunesmith.endpoints.documents import SECRET_HEADER
from tunesmith.errors import ModelFailed, NotAuthenticated, TunesmithError, Unavailable, UserError, ValidationFailed
from tunesmith.generate.types import Engine, GenerateEvent, GenerateRequest, collect

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

BODY_LIMIT = 64 * 1024 * 1024


class InstanceApp:
    """Holds the engine once it is open and counts what is in flight.

    ``health`` gives the state to show; ``broken`` is called once when the engine says that it cannot go on, and
    ``changed`` when it serves other adapters.
    """

    def __init__(
        self,
        secret: str,
        health: Callable[[], dict[str, Any]],
        broken: Callable[[TunesmithError], None],
        changed: Callable[[], None],
    ) -> None:
        self._secret = secret.encode()
        self._health = health
        self._broken = broken
        self._changed = changed
        self.engine: Engine | None = None
        self.accepting = False
        self.in_flight = 0
        self.idle = asyncio.Event()
        self.idle.set()

    def application(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(middlewares=[self._guard], client_max_size=BODY_LIMIT)
        app.router.add_get("/health", self.health)
        app.router.add_post("/generate", self.generate)
        app.router.add_post("/tokenize", self.tokenize)
        app.router.add_post("/adapters", self.adapters)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get(SECRET_HEADER, "").encode("utf-8", "surrogateescape")
        try:
            if not hmac.compare_digest(given, self._secret):
                raise NotAuthenticated("this port serves its own gateway only")
            return await handler(request)
        except TunesmithError as error:
            return _error(error)

    async def health(self, request: web.Request) -> web.Response:
        """200 when ready for requests, 503 before and after; the body says how far it is."""
        body = {**self._health(), "in_flight": self.in_flight, "accepting": self.accepting}
        if self.engine is not None:
            body["stats"] = self.engine.stats().to_dict()
        return _json(body, 200 if self.accepting else 503)

    async def tokenize(self, request: web.Request) -> web.Response:
        """``{"messages", "tools"?}`` → ``{"ids", "count"}``: the prompt's ids as generation would see them."""
        engine = self._ready()
        asked = await _request(request)
        ids = engine.tokenizer.encode_prompt(asked.messages, asked.tools)
        return _json({"ids": ids, "count": len(ids)})

    async def adapters(self, request: web.Request) -> web.Response:
        """``{"adapters": {name: folder}}``: serve these and no others. 422 where the engine cannot while it serves."""
        engine = self._ready()
        given = (await _body(request)).get("adapters")
        if not isinstance(given, dict) or not all(isinstance(folder, str) for folder in given.values()):
            raise ValidationFailed("must be folders by name", target="adapters")
        await engine.use_adapters({name: Path(folder) for name, folder in given.items()})
        self._changed()
        return _json({"adapters": list(given)})

    async def generate(self, request: web.Request) -> web.StreamResponse:
        """Answer a ``GenerateRequest``: whole as JSON, or as one event a line when ``stream`` is true."""
        engine = self._ready()
        asked = await _request(request)
        engine.capabilities().require(asked)
        self.in_flight += 1
        self.idle.clear()
        try:
            if asked.stream:
                return await self._stream(request, engine, asked)
            result = await collect(self._events(engine, asked))
            return _json(result.to_dict())
        finally:
            self.in_flight -= 1
            if self.in_flight == 0:
                self.idle.set()

    async def _stream(self, request: web.Request, engine: Engine, asked: GenerateRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "application/x-ndjson"})
        async with aclosing(cast("Any", self._events(engine, asked))) as events:
            try:
                async for event in events:
                    if not response.prepared:
                        await response.prepare(request)
                    await response.write(orjson.dumps(event.to_dict()) + b"\n")
            except TunesmithError as error:
                if not response.prepared:
                    raise
                await response.write(orjson.dumps(error.to_dict()) + b"\n")
        await response.write_eof()
        return response

    async def _events(self, engine: Engine, asked: GenerateRequest) -> AsyncIterator[GenerateEvent]:
        try:
            async with aclosing(cast("Any", engine.generate(asked))) as events:
                async for event in events:
                    yield event
        except UserError:
            raise
        except Unavailable as error:
            if self.accepting:
                self._broken(error)
            raise
        except TunesmithError:
            raise
        except Exception as error:
            raise ModelFailed(f"the engine failed: {type(error).__name__}: {error}") from error

    def _ready(self) -> Engine:
        if self.engine is None or not self.accepting:
            raise Unavailable("the instance takes no requests now")
        return self.engine


async def _request(request: web.Request) -> GenerateRequest:
    return GenerateRequest.from_dict(await _body(request))


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        body = orjson.loads(await request.read())
    except orjson.JSONDecodeError as error:
        raise ValidationFailed(f"the body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise ValidationFailed("the body must be a JSON object")
    return body


def _json(body: dict[str, Any], status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(body), status=status, content_type="application/json")


def _error(error: TunesmithError) -> web.Response:
    return _json(error.to_dict(), error.status)
