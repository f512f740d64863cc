"""One answer on its way from an instance to a caller.

It takes a slot, asks an instance, passes the answer on, and at the end, whichever it is, gives the slot back, counts
and writes the request down. As long as nothing has been passed on, an instance that goes away costs a request nothing
but time: it is sent to another one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any

import orjson

from tunesmith.endpoints.instance_client import GONE, InstanceClient, Reply, instance_error
from tunesmith.endpoints.journal import Answered, Journal
from tunesmith.endpoints.metrics import CLIENT_GONE, DeploymentCounters
from tunesmith.endpoints.pool import InstancePool, Target
from tunesmith.endpoints.routing import Choice
from tunesmith.endpoints.trace import RequestTrace
from tunesmith.errors import ModelFailed, RequestTimeout, TunesmithError, Unavailable
from tunesmith.generate.types import GenerateEvent, GenerateResult

ATTEMPTS = 4
"""Instances that one request may be sent to before it fails."""


class Generation:
    """An async iterator of events, to be closed when no longer wanted.

    Args:
        choice: who is to answer.
        counters: of the deployment.
        stream: whether the answer is wanted piece by piece.
        collect: whether the conversation is to be kept.
    """

    def __init__(
        self,
        choice: Choice,
        pool: InstancePool,
        client: InstanceClient,
        counters: DeploymentCounters,
        journal: Journal | None,
        trace: RequestTrace | None,
        *,
        stream: bool,
        collect: bool = False,
    ) -> None:
        self._choice = choice
        self._route = choice.deployment
        self._pool = pool
        self._client = client
        self._counters = counters
        self._journal = journal
        self._trace = trace
        self._stream = stream
        self._body = b""
        self._kept: list[bytes] | None = [] if collect else None
        self._target: Target | None = None
        self._instance: str | None = None
        self._reply: Reply | None = None
        self._whole: bytes = b""
        self._start = time.perf_counter()
        self._time = time.time()
        self._queued = 0.0
        self._first_token: float | None = None
        self._attempts = 0
        self._deadline: float | None = None
        self._outcome: int | None = None
        self._usage: dict[str, int] | None = None

    @property
    def deployment(self) -> str:
        """The deployment that answers."""
        return self._route.name

    @property
    def model(self) -> str:
        """Reference of the model version that answers, or of its adapter."""
        return self._choice.model

    @property
    def model_name(self) -> str:
        """Its name alone."""
        return self._choice.model_name

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
            self._finish(ModelFailed.status, ModelFailed.__name__)
            raise ModelFailed(f"the instance's answer cannot be read: {error}") from None
        if self._kept is not None:
            self._kept.append(self._whole)
        self._finish(200)
        return answer

    async def lines(self) -> AsyncIterator[bytes]:
        """The events of a stream as the instance wrote them, one JSON object each; errors are raised."""
        assert self._reply is not None
        rest = b""
        try:
            while True:
                async with asyncio.timeout_at(self._deadline):
                    chunk = await self._reply.readany()
                if not chunk:
                    break
                *whole, rest = (rest + chunk).split(b"\n")
                for line in whole:
                    if line.startswith(b'{"error"'):
                        raise instance_error(orjson.loads(line), 500)
                    if b'"usage"' in line:
                        self._usage = orjson.loads(line).get("usage") or self._usage
                    if self._kept is not None:
                        self._kept.append(line)
                    yield line
            if self._usage is None:
                raise ModelFailed("the instance's answer ended before it was whole", target=self._route.name)
            self._finish(200)
        except TimeoutError:
            raise self._failed(self._too_slow()) from None
        except GONE:
            if self._target is not None:
                self._pool.remove(self._target)
            error = ModelFailed(
                "the instance went away while it answered; what came is not whole",
                target=self._route.name,
                way_out="send the request again",
            )
            raise self._failed(error) from None
        except TunesmithError as error:
            raise self._failed(error) from None
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

    async def begin(self, body: bytes) -> None:
        """Get as far as the first piece of the answer, or the whole where it is not streamed.

        Raises what ``Gateway.generate`` says.
        """
        self._body = body
        avoid: Target | None = None
        while True:
            target = await self._acquire(avoid)
            try:
                async with asyncio.timeout_at(self._deadline):
                    await self._ask(target, body)
                return
            except TimeoutError:
                raise self._failed(self._too_slow()) from None
            except (*GONE, Unavailable) as error:
                self._give_back()
                self._pool.remove(target)
                avoid = target
                if self._attempts == ATTEMPTS:
                    gone = Unavailable(
                        f"{ATTEMPTS} instances of deployment {self._route.name!r} went away one after the other",
                        extra={"retry_after": 5},
                    )
                    raise self._failed(gone) from error
                self._counters.retries += 1
            except TunesmithError as error:
                raise self._failed(error) from None
            except BaseException:
                self._finish(CLIENT_GONE)
                raise

    # Inside

    async def _acquire(self, avoid: Target | None) -> Target:
        asked = time.perf_counter()
        try:
            target = await self._pool.acquire(self._route, avoid=avoid)
        except TunesmithError as error:
            raise self._failed(error) from None
        except asyncio.CancelledError:
            self._finish(CLIENT_GONE)
            raise
        finally:
            self._queued += time.perf_counter() - asked
        self._target, self._instance = target, target.instance
        self._attempts += 1
        if self._deadline is None:
            # The time limit is for the model: waiting for a slot has its own.
            self._deadline = asyncio.get_running_loop().time() + self._route.settings.request_timeout_ms / 1000
        return target

    async def _ask(self, target: Target, body: bytes) -> None:
        self._reply = reply = await self._client.post(target, "/generate", body)
        if reply.status != 200:
            try:
                answer = orjson.loads(await reply.read())
            except ValueError:
                answer = {}
            raise instance_error(answer, reply.status)
        if self._stream:
            self._first_token = time.perf_counter() - self._start
            self._counters.first_token.add(self._first_token)
        else:
            self._whole = await reply.read()
            self._give_back()

    def _too_slow(self) -> RequestTimeout:
        limit = self._route.settings.request_timeout_ms
        return RequestTimeout(
            f"the model took longer than {limit} ms",
            target="request_settings.request_timeout_ms",
            way_out="ask for fewer tokens (max_tokens), or raise request_timeout_ms of the deployment",
        )

    def _failed(self, error: TunesmithError) -> TunesmithError:
        self._finish(error.status, error.code)
        return error

    def _give_back(self) -> None:
        if self._reply is not None:
            self._reply.close()
            self._reply = None
        if self._target is not None:
            self._pool.release(self._target)
            self._target = None

    def _finish(self, status: int, error: str | None = None) -> None:
        if self._outcome is not None:
            return
        self._outcome = status
        self._give_back()
        latency = time.perf_counter() - self._start
        usage = self._usage or {}
        prompt, completion = usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)
        self._counters.finished(status, latency, self._first_token, prompt, completion)
        if self._trace is not None:
            self._trace.noted = True
        if self._journal is not None:
            line = self._line(status, error, latency, prompt, completion)
            self._journal.note(line)
            # What was refused, failed or given up is no conversation, and would drive out those that are.
            if status == 200 and self._kept is not None and self._route.collector is not None:
                self._counters.collected += 1
                self._journal.collect(
                    Answered(self._route.key, self._route.collector, self._body, tuple(self._kept), line)
                )
                self._kept = None

    def _line(self, status: int, error: str | None, latency: float, prompt: int, completion: int) -> dict[str, Any]:
        trace = self._trace
        return request_line(
            self._time,
            self._route.endpoint,
            deployment=self._route.name,
            model=self._choice.model,
            protocol=trace.protocol if trace else "",
            request_id=trace.request_id if trace else "",
            status=status,
            error=error,
            stream=self._stream,
            cancelled=status == CLIENT_GONE,
            instance=self._instance,
            latency_ms=round(latency * 1000, 3),
            queued_ms=round(self._queued * 1000, 3),
            ttft_ms=None if self._first_token is None else round(self._first_token * 1000, 3),
            prompt_tokens=prompt,
            completion_tokens=completion,
            attempts=self._attempts,
        )


def request_line(began: float, endpoint: str, **values: Any) -> dict[str, Any]:
    """An entry of the request log (``RequestLine``); ``began`` in Unix seconds, what is None left out."""
    line: dict[str, Any] = {"time": _iso(began), "endpoint": endpoint}
    line.update((name, value) for name, value in values.items() if value is not None)
    return line


def _iso(seconds: float) -> str:
    whole, part = divmod(round(seconds * 1000), 1000)
    moment = time.gmtime(whole)
    return f"{moment[0]}-{moment[1]:02}-{moment[2]:02}T{moment[3]:02}:{moment[4]:02}:{moment[5]:02}.{part:03}Z"
