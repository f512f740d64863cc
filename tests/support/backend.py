"""A scripted instance: a real HTTP server that speaks the instance protocol and does what the last message says.
 ``say TEXT`` answers the words of TEXT one event each (any other text is said as it is); ``slow`` waits before the
first event until it is cancelled; ``stall`` streams one event and waits; ``cut`` closes the connection before
anything is sent; ``cut-late`` closes it after one event; ``fail`` answers 500; ``fail-late`` sends one event and an
error; ``refuse`` answers 422; ``drain`` answers 503; ``call NAME`` calls a function.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from aiohttp import web

from tunesmith.endpoints.documents import SECRET_HEADER
from tunesmith.endpoints.pool import Target
from tunesmith.errors import Failure, TunesmithError, Unavailable, UnsupportedField


class Backend:
    def __init__(self, name: str = "one") -> None:
        self.name = name
        self.requests: list[dict[str, Any]] = []
        self.cancelled = 0
        self.running = 0
        self.most_running = 0
        self.secret = f"secret-of-{name}"
        self.gate = asyncio.Event()
        self.gate.set()
        self._runner: web.AppRunner | None = None
        self.port = 0

    async def start(self) -> Backend:
        app = web.Application()
        app.router.add_post("/generate", self._generate)
        app.router.add_post("/tokenize", self._tokenize)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def target(self, endpoint: str, deployment: str) -> Target:
        return Target(
            key=(endpoint, deployment),
            instance=self.name,
            url=f"http://127.0.0.1:{self.port}",
            secret=self.secret,
            model="azureml:m:1",
        )

    async def _tokenize(self, request: web.Request) -> web.Response:
        await request.read()
        return web.json_response({"ids": [1, 2, 3], "count": 3})

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        assert request.headers[SECRET_HEADER] == self.secret
        body = await request.json()
        self.requests.append(body)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await self.gate.wait()
            return await self._do(request, body)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1

    async def _do(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        text = str(body["messages"][-1]["content"])
        if text == "slow":
            await asyncio.Event().wait()
        if text == "cut":
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if text == "fail":
            return _error(Failure("the weights melted"))
        if text == "refuse":
            return _error(UnsupportedField("no seeds here", target="seed"))
        if text == "drain":
            return _error(Unavailable("draining"))
        if text.startswith("call "):
            return await self._call(request, body, text.removeprefix("call "))
        words = text.removeprefix("say ").split(" ")
        events: list[dict[str, Any]] = [
            {"index": 0, "text": (" " if number else "") + word, "token_ids": [number]}
            for number, word in enumerate(words)
        ]
        usage = {"prompt_tokens": 7, "completion_tokens": len(words), "total_tokens": 7 + len(words)}
        if not body.get("stream"):
            choice = {"index": 0, "text": " ".join(words), "token_ids": [], "finish_reason": "stop"}
            return web.json_response(
                {"choices": [{**choice, "index": index} for index in range(body.get("n", 1))], "usage": usage}
            )
        response = web.StreamResponse(headers={"content-type": "application/x-ndjson"})
        await response.prepare(request)
        for event in events:
            await response.write(json.dumps(event).encode() + b"\n")
            if text == "stall":
                await asyncio.Event().wait()
            if text == "cut-late":
                await asyncio.sleep(0)
                assert request.transport is not None
                request.transport.close()
                return response
            if text == "fail-late":
                await response.write(json.dumps(Failure("the weights melted").to_dict()).encode() + b"\n")
                await response.write_eof()
                return response
        last = {"index": 0, "finish_reason": "stop", "usage": usage}
        await response.write(json.dumps(last).encode() + b"\n")
        await response.write_eof()
        return response

    async def _call(self, request: web.Request, body: dict[str, Any], name: str) -> web.StreamResponse:
        begin = {"index": 0, "id": "call_1", "name": name, "arguments": ""}
        arguments = '{"city": "Paris"}'
        usage = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
        if not body.get("stream"):
            call = {**begin, "arguments": arguments}
            choice = {"index": 0, "text": "", "token_ids": [], "finish_reason": "tool_calls", "tool_calls": [call]}
            return web.json_response({"choices": [choice], "usage": usage})
        response = web.StreamResponse(headers={"content-type": "application/x-ndjson"})
        await response.prepare(request)
        for event in (
            {"index": 0, "tool_calls": [begin]},
            {"index": 0, "tool_calls": [{"index": 0, "arguments": arguments}]},
            {"index": 0, "finish_reason": "tool_calls", "usage": usage},
        ):
            await response.write(json.dumps(event).encode() + b"\n")
        await response.write_eof()
        return response


def _error(error: TunesmithError) -> web.Response:
    return web.json_response(error.to_dict(), status=error.status)
