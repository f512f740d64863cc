"""The way of a request: choose a deployment, wait for a slot, ask an instance, pass the answer on.

The gateway knows endpoints by their routing snapshots and instances by the pool; it knows no HTTP face. A caller that
stops reading (``Generation.aclose``) closes the connection to the instance, which cancels the generation and frees
its slot.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import replace

import orjson

from tunesmith.endpoints.generation import ATTEMPTS, Generation, request_line
from tunesmith.endpoints.instance_client import GONE, InstanceClient, instance_error
from tunesmith.endpoints.journal import Journal
from tunesmith.endpoints.metrics import GatewayMetrics
from tunesmith.endpoints.pool import InstancePool
from tunesmith.endpoints.routing import DeploymentRoute, Route
from tunesmith.endpoints.service import EndpointService
from tunesmith.endpoints.trace import RequestTrace
from tunesmith.endpoints.trace import current as current_trace
from tunesmith.errors import ModelFailed, NotFound, RequestTimeout, TunesmithError, Unavailable, ValidationFailed
from tunesmith.generate.types import GenerateRequest

__all__ = ["ATTEMPTS", "Gateway", "Generation"]


class Gateway:
    """See the module's docstring.

    Args:
        service: has the routing snapshots.
        pool: has the ready instances.
        journal: writes the request log and keeps conversations; None writes nothing.
        draw: random numbers in [0, 1), for traffic and mirror.
        sample: random numbers in [0, 1), for which conversations are kept.
    """

    def __init__(
        self,
        service: EndpointService,
        pool: InstancePool,
        *,
        journal: Journal | None = None,
        draw: Callable[[], float] = random.random,
        sample: Callable[[], float] = random.random,
    ) -> None:
        self._service = service
        self._pool = pool
        self._draw = draw
        self._sample = sample
        self._client = InstanceClient()
        self._mirrors: set[asyncio.Task[None]] = set()
        self.journal = journal
        self.metrics = GatewayMetrics(pool.in_flight, pool.queued)
        service.subscribe(lambda: self.metrics.keep_only(document.key for document in service.wanted()))

    async def close(self) -> None:
        """Close the connections to the instances, and write what is still to be written."""
        for task in list(self._mirrors):
            task.cancel()
        await asyncio.gather(*self._mirrors, return_exceptions=True)
        await self._client.close()
        if self.journal is not None:
            await asyncio.to_thread(self.journal.close)

    def route(self, endpoint: str) -> Route:
        """The routing snapshot of ``endpoint``. Raises ``NotFound``."""
        route = self._service.route(endpoint)
        if route is None:
            raise NotFound(f"there is no endpoint {endpoint[:64]!r}", target="endpoint")
        return route

    async def generate(
        self,
        endpoint: str,
        request: GenerateRequest,
        *,
        deployment: str | None = None,
        model: str | None = None,
    ) -> Generation:
        """Start a generation and return once its first piece is there, or the whole answer when ``stream`` is false.

        ``deployment`` is the header's choice, ``model`` the body's (see ``Route.choose``).

        Raises ``NotFound`` (404), ``TooManyRequests`` (429), ``RequestTimeout`` (408), ``Unavailable`` (503),
        ``ModelFailed`` (424), and what the model refuses (``InvalidData`` 400, ``UnsupportedField`` 422).
        """
        route = self.route(endpoint)
        choice = route.choose(self._draw(), deployment, model)
        chosen = choice.deployment
        if choice.adapter is not None:
            request = replace(request, adapter=choice.adapter)
        body = _dump(request)
        trace = current_trace.get()
        mirrored = route.mirrored(self._draw(), chosen.name) if route.mirror else None
        if mirrored is not None:
            task = asyncio.create_task(self._mirror(mirrored, body, choice.adapter, trace))
            self._mirrors.add(task)
            task.add_done_callback(self._mirrors.discard)
        generation = Generation(
            choice,
            self._pool,
            self._client,
            self.metrics.of(chosen.key),
            self.journal,
            trace,
            stream=request.stream,
            collect=chosen.collector is not None and self._sample() < chosen.collector.sampling_rate,
        )
        try:
            await generation.begin(body)
        except TunesmithError as error:
            error.extra.setdefault("deployment", chosen.name)
            raise
        return generation

    async def tokenize(self, endpoint: str, request: GenerateRequest, *, deployment: str | None = None) -> list[int]:
        """The ids of the prompt that ``request`` would become."""
        chosen = self.route(endpoint).choose(self._draw(), deployment).deployment
        target = await self._pool.acquire(chosen)
        try:
            status, answer = await self._client.ask(target, "/tokenize", _dump(request))
            body = orjson.loads(answer)
            if status != 200:
                raise instance_error(body, status)
            return [int(token) for token in body["ids"]]
        except GONE as error:
            raise Unavailable(f"the instance went away: {error}") from None
        finally:
            self._pool.release(target)

    def note_refusal(self, trace: RequestTrace, status: int, error: str | None = None) -> None:
        """Write down a request that a face refused before the gateway saw it.

        Callers that are slowed down for their wrong keys (429) are not written one by one.
        """
        if self.journal is None or trace.noted or status < 400 or status == 429:
            return
        trace.noted = True
        began = trace.began.timestamp()
        self.journal.note(
            request_line(
                began,
                trace.endpoint,
                protocol=trace.protocol,
                request_id=trace.request_id,
                status=status,
                error=error,
                latency_ms=round((time.time() - began) * 1000, 3),
                attempts=0,
            )
        )

    async def _mirror(
        self, route: DeploymentRoute, body: bytes, adapter: str | None, trace: RequestTrace | None
    ) -> None:
        counters = self.metrics.of(route.key)
        limit = route.settings.max_concurrent_requests_per_instance
        has_it = adapter is None or adapter in route.adapters
        if not has_it or not any(target.in_flight < limit for target in self._pool.targets(route.key)):
            counters.mirrored_dropped += 1
            return
        began, start = time.time(), time.perf_counter()
        status = 200
        usage: dict[str, int] = {}
        try:
            target = await self._pool.acquire(route)
            try:
                async with asyncio.timeout(route.settings.request_timeout_ms / 1000):
                    status, answer = await self._client.ask(target, "/generate", body)
            finally:
                self._pool.release(target)
            last = orjson.loads(answer.rstrip().rpartition(b"\n")[2])
            usage = last.get("usage") or {}
            if status == 200 and "error" in last:  # a stream that failed midway
                status = instance_error(last, ModelFailed.status).status
            elif status == 200 and not usage:
                status = ModelFailed.status
            counters.mirrored_tokens += int(usage.get("completion_tokens", 0))
        except TimeoutError:
            status = RequestTimeout.status
        except TunesmithError as error:
            status = error.status
        except (*GONE, ValueError):
            status = ModelFailed.status
        counters.count(status, mirrored=True)
        if self.journal is not None:
            self.journal.note(
                request_line(
                    began,
                    route.endpoint,
                    deployment=route.name,
                    model=route.model,
                    protocol=trace.protocol if trace else "",
                    request_id=trace.request_id if trace else "",
                    status=status,
                    mirrored=True,
                    latency_ms=round((time.perf_counter() - start) * 1000, 3),
                    prompt_tokens=usage.get("prompt_tokens", 0),
                    completion_tokens=usage.get("completion_tokens", 0),
                )
            )


def _dump(request: GenerateRequest) -> bytes:
    try:
        return orjson.dumps(request.to_dict())
    except TypeError as error:  # a lone surrogate, or a whole number beyond 64 bits, inside the messages or the tools
        raise ValidationFailed(f"the request cannot be written as JSON: {error}", target="messages") from None
