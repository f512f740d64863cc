"""The way of a request: choose a deployment, wait for a slot, ask an instance, pass the answer on.
 The gateway knows endpoints by their routing snapshots and instances by the pool; it knows no HTTP face. As long as
nothing of an answer has been passed on, an instance that goes away costs a request nothing but time: it is sent to
another one. A caller that stops reading (``aclose``) closes the connection to the instance, which cancels the
generation and frees its slot.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any

import aiohttp
import orjson

from tunesmith.endpoints.documents import SECRET_HEADER
from tunesmith.endpoints.metrics import CLIENT_GONE, DeploymentCounters, GatewayMetrics
from tunesmith.endpoints.pool import InstancePool, Target
from tunesmith.endpoints.routing import DeploymentRoute, Route
from tunesmith.endpoints.service import EndpointService
from tunesmith.errors import (
    ModelFailed,
    NotFound,
    RequestTimeout,
    TunesmithError,
    Unavailable,
    UserError,
    ValidationFailed,
    error_from_dict,
)
from tunesmith.generate.types import GenerateEvent, GenerateRequest, GenerateResult

ATTEMPTS = 4
"""Instances that one request may be sent to before it fails."""

_GONE = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, ConnectionError)


class Gateway:
    """See the module's docstring.

    Args:
        service: has the routing snapshots.
        pool: has the ready instances.
        draw: random numbers in [0, 1), for traffic and mirror.
    """

    def __init__(
        self,
        service: EndpointService,
        pool: InstancePool,
        *,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._service = service
        self._pool = pool
        self._draw = draw
        self._session: aiohttp.ClientSession | None = None
        self._mirrors: set[asyncio.Task[None]] = set()
        self.metrics = GatewayMetrics(pool.in_flight, pool.queued)

    async def close(self) -> None:
        """Close the connections to the instances."""
        for task in list(self._mirrors):
            task.cancel()
        await asyncio.gather(*self._mirrors, return_exceptions=True)
        if self._session is not None:
            await self._session.close()
            self._session = None

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
        chosen = route.choose(self._draw(), deployment, model)
        body = _dump(request)
        mirrored = route.mirrored(self._draw(), chosen.name) if route.mirror else None
        if mirrored is not None:
            task = asyncio.create_task(self._mirror(mirrored, body))
            self._mirrors.add(task)
            task.add_done_callback(self._mirrors.discard)
        generation = Generation(self, chosen, self.metrics.of(chosen.key), stream=request.stream)
        try:
            await generation._begin(body)
        except TunesmithError as error:
            error.extra.setdefault("deployment", chosen.name)
            raise
        return generation

    async def tokenize(self, endpoint: str, request: GenerateRequest, *, deployment: str | None = None) -> list[int]:
        """The ids of the prompt that ``request`` would become."""
        chosen = self.route(endpoint).choose(self._draw(), deployment)
        target = await self._pool.acquire(chosen)
        try:
            async with self._post(target, "/tokenize", _dump(request)) as response:
                body = orjson.loads(await response.read())
                if response.status != 200:
                    raise _instance_error(body, response.status)
                return [int(token) for token in body["ids"]]
        except _GONE as error:
            raise Unavailable(f"the instance went away: {error}") from None
        finally:
            self._pool.release(target)

    def _post(self, target: Target, path: str, body: bytes) -> Any:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30.0),
                timeout=aiohttp.ClientTimeout(total=None),
                auto_decompress=False,
                trust_env=False,
                headers={"content-type": "application/json"},
            )
        return self._session.post(target.url + path, data=body, headers={SECRET_HEADER: target.secret})

    async def _mirror(self, route: DeploymentRoute, body: bytes) -> None:
        counters = self.metrics.of(route.key)
        limit = route.settings.max_concurrent_requests_per_instance
        if not any(target.in_flight < limit for target in self._pool.targets(route.key)):
            counters.mirrored_dropped += 1
            return
        status = 200
        try:
            target = await self._pool.acquire(route)
            try:
                async with asyncio.timeout(route.settings.request_timeout_ms / 1000):
                    async with self._post(target, "/generate", body) as response:
                        answer = await response.read()
                        status = response.status
            finally:
                self._pool.release(target)
            last = answer.rstrip().rpartition(b"\n")[2]
            usage = orjson.loads(last).get("usage") or {}
            counters.mirrored_tokens += int(usage.get("completion_tokens", 0))
        except TimeoutError:
            status = RequestTimeout.status
        except TunesmithError as error:
            status = error.status
        except (*_GONE, ValueError):
            status = ModelFailed.status
        counters.count(status, mirrored=True)


class Generation:
    """One answer on its way: an async iterator of events, to be closed when no longer wanted."""

    def __init__(self, gateway: Gateway, route: DeploymentRoute, counters: DeploymentCounters, *, stream: bool) -> None:
        self._gateway = gateway
        self._pool = gateway._pool
        self._route = route
        self._counters = counters
        self._stream = stream
        self._target: Target | None = None
        self._response: aiohttp.ClientResponse | None = None
        self._whole: bytes = b""
        self._start = time.perf_counter()
        self._deadline: float | None = None
        self._outcome: int | None = None
        self._usage: dict[str, int] | None = None

    @property
    def deployment(self) -> str:
        """The deployment that answers."""
        return self._route.name

    @property
    def model(self) -> str:
        """Reference of the model version that answers."""
        return self._route.model

    @property
    def model_name(self) -> str:
        """Its name alone."""
        return self._route.model_name

    async def __aenter__(self) -> Generation:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def result(self) -> GenerateResult:
        """The whole answer, for a request with ``stream=False``."""
        try:
            body = orjson.loads(self._whole)
            self._usage = body["usage"]
            answer = GenerateResult.from_dict(body)
        except (ValueError, KeyError, TypeError) as error:
            self._finish(ModelFailed.status)
            raise ModelFailed(f"the instance's answer cannot be read: {error}") from None
        self._finish(200)
        return answer

    async def lines(self) -> AsyncIterator[bytes]:
        """The events of a stream as the instance wrote them, one JSON object each; errors are raised."""
        assert self._response is not None
        rest = b""
        try:
            while True:
                async with asyncio.timeout_at(self._deadline):
                    chunk = await self._response.content.readany()
                if not chunk:
                    break
                *whole, rest = (rest + chunk).split(b"\n")
                for line in whole:
                    if line.startswith(b'{"error"'):
                        raise _instance_error(orjson.loads(line), 500)
                    if b'"usage"' in line:
                        self._usage = orjson.loads(line).get("usage") or self._usage
                    yield line
            if self._usage is None:
                raise ModelFailed("the instance's answer ended before it was whole", target=self._route.name)
            self._finish(200)
        except TimeoutError:
            error = self._too_slow()
            self._finish(error.status)
            raise error from None
        except _GONE:
            self._gateway._pool.remove(self._required_target())
            self._finish(ModelFailed.status)
            raise ModelFailed(
                "the instance went away while it answered; what came is not whole",
                target=self._route.name,
                way_out="send the request again",
            ) from None
        except TunesmithError as error:
            self._finish(error.status)
            raise
        finally:
            await self.aclose()

    async def __aiter__(self) -> AsyncIterator[GenerateEvent]:
        lines = self.lines()
        try:
            async for line in lines:
                yield GenerateEvent.from_dict(orjson.loads(line))
        finally:
            await lines.aclose()  # type: ignore[attr-defined]

    async def aclose(self) -> None:
        """Stop. The instance sees its connection close and cancels what it still generates."""
        self._finish(CLIENT_GONE)

    # Inside

    async def _begin(self, body: bytes) -> None:
        avoid: Target | None = None
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self._target = target = await self._pool.acquire(self._route, avoid=avoid)
            except TunesmithError as error:
                self._finish(error.status)
                raise
            except asyncio.CancelledError:
                self._finish(CLIENT_GONE)
                raise
            if self._deadline is None:
                # The time limit is for the model: waiting for a slot has its own.
                loop = asyncio.get_running_loop()
                self._deadline = loop.time() + self._route.settings.request_timeout_ms / 1000
            try:
                async with asyncio.timeout_at(self._deadline):
                    await self._ask(target, body)
                return
            except TimeoutError:
                slow = self._too_slow()
                self._finish(slow.status)
                raise slow from None
            except (*_GONE, Unavailable) as error:
                self._give_back()
                self._pool.remove(target)
                avoid = target
                if attempt == ATTEMPTS:
                    self._finish(Unavailable.status)
                    raise Unavailable(
                        f"{ATTEMPTS} instances of deployment {self._route.name!r} went away one after the other",
                        extra={"retry_after": 5},
                    ) from error
                self._counters.retries += 1
            except TunesmithError as error:
                self._finish(error.status)
                raise
            except BaseException:
                self._finish(CLIENT_GONE)
                raise

    async def _ask(self, target: Target, body: bytes) -> None:
        self._response = response = await self._gateway._post(target, "/generate", body)
        if response.status != 200:
            try:
                answer = orjson.loads(await response.read())
            except ValueError:
                answer = {}
            raise _instance_error(answer, response.status)
        if self._stream:
            self._counters.first_token.add(time.perf_counter() - self._start)
        else:
            self._whole = await response.read()
            self._give_back()

    def _too_slow(self) -> RequestTimeout:
        limit = self._route.settings.request_timeout_ms
        return RequestTimeout(
            f"the model took longer than {limit} ms",
            target="request_settings.request_timeout_ms",
            way_out="ask for fewer tokens (max_tokens), or raise request_timeout_ms of the deployment",
        )

    def _required_target(self) -> Target:
        assert self._target is not None
        return self._target

    def _give_back(self) -> None:
        if self._response is not None:
            if self._response.content.is_eof():
                self._response.release()  # read to its end: the connection serves again
            else:
                self._response.close()
            self._response = None
        if self._target is not None:
            self._pool.release(self._target)
            self._target = None

    def _finish(self, status: int) -> None:
        if self._outcome is not None:
            return
        self._outcome = status
        self._give_back()
        self._counters.count(status)
        if status == 200:
            self._counters.latency.add(time.perf_counter() - self._start)
        if self._usage is not None:
            self._counters.prompt_tokens += self._usage.get("prompt_tokens", 0)
            self._counters.completion_tokens += self._usage.get("completion_tokens", 0)


def _dump(request: GenerateRequest) -> bytes:
    try:
        return orjson.dumps(request.to_dict())
    except TypeError as error:  # a lone surrogate, or a whole number beyond 64 bits, inside the messages or the tools
        raise ValidationFailed(f"the request cannot be written as JSON: {error}", target="messages") from None


def _instance_error(body: Any, status: int) -> TunesmithError:
    """An instance's error as the caller gets it: what the request did wrong as it is, what the model did wrong as
    424."""
    error = error_from_dict(body if isinstance(body, dict) else {}, status=status)
    if isinstance(error, UserError) and status != 401:
        return error
    if isinstance(error, Unavailable):
        return error
    return ModelFailed(
        error.message,
        target=error.target,
        way_out=error.way_out or "look at the deployment's log",
        details=error.details,
        extra={**error.extra, "model_status": error.status, "model_reason": error.code},
    )
