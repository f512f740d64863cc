"""The engine for GPUs: vLLM's own server, spoken to by token ids.

Prompts go as the ids that the chat contract gives and answers come back as ids, so there is one tokenization here as
well; text and stop strings are made of the ids as in every engine. A stream that nobody reads is closed, and vLLM
frees its place. Formats that must be forced are refused: the grammar would have to run in vLLM.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import aiohttp

from tunesmith.chat.tokens import ChatTokenizer
from tunesmith.errors import ModelFailed, TunesmithError, Unavailable, UnsupportedField
from tunesmith.generate.engines.base import HONOURED, ContractEngine, tokens_left
from tunesmith.generate.engines.lora import adapter_rank
from tunesmith.generate.engines.vllm_server import BASE, VllmServer, command_line, free_port, rank_step
from tunesmith.generate.grammar import needs_grammar
from tunesmith.generate.text import TextAssembler
from tunesmith.generate.types import (
    Capabilities,
    EngineDescription,
    EngineStats,
    FinishReason,
    GenerateEvent,
    GenerateRequest,
    TokenLogprob,
    TopLogprob,
    Usage,
)

if TYPE_CHECKING:
    from tunesmith.models.package import ModelPackage

log = logging.getLogger(__name__)

PREFIX = "token_id:"
"""How vLLM writes a token in log-probabilities when asked for ids."""
LINE_BYTES = 2**24
"""A line of a stream with many log-probabilities is long."""
LOAD_SECONDS = 120.0
"""The longest that loading or unloading an adapter may take."""


@dataclass(eq=False)
class _Choice:
    text: TextAssembler
    tokens: int = 0
    ended: bool = False


@dataclass(eq=False)
class _Adapter:
    """One adapter in vLLM: by what name, out of which folder, how many requests use it."""

    known_as: str
    folder: Path
    running: int = 0
    leaving: bool = False


class VllmEngine(ContractEngine):
    """Speaks to one server, which becomes the engine's: closing ends it.

    ``max_rank`` is the largest rank of an adapter that the server was started for; 0 where it takes none.
    """

    def __init__(
        self,
        server: VllmServer,
        tokenizer: ChatTokenizer,
        description: EngineDescription,
        adapters: Mapping[str, Path],
        max_rank: int = 0,
    ) -> None:
        super().__init__(tokenizer, description, HONOURED - {"tool_choice", "parallel_tool_calls"}, adapters)
        self._server = server
        self._loaded = {name: _Adapter(name, folder) for name, folder in adapters.items()}
        self._max_rank = max_rank
        self._loads = 0
        self._changing = asyncio.Lock()
        self._retiring: set[asyncio.Task[None]] = set()
        self._lock = threading.Lock()
        self._stats = EngineStats()
        self._closed = False

    def capabilities(self) -> Capabilities:
        """What can be honoured."""
        return Capabilities("vllm", self._description.context_length, self._fields, adapters=self._adapters)

    def stats(self) -> EngineStats:
        """Counters now; what waits in vLLM counts as running."""
        with self._lock:
            return self._stats

    def close(self) -> None:
        """End the server."""
        self._closed = True
        self._server.close()

    async def use_adapters(self, adapters: Mapping[str, Path]) -> None:
        """Load those that are new or lie elsewhere, then let the others go once no request uses them any more.

        See ``Engine.use_adapters``. Where one cannot be loaded everything stays as it was.
        """
        async with self._changing:
            if not self._max_rank:
                raise UnsupportedField("vLLM was started without adapters", target="adapters")
            for name, folder in adapters.items():
                rank = adapter_rank(name, folder)
                if rank > self._max_rank:
                    raise UnsupportedField(
                        f"adapter {name!r} has rank {rank} and vLLM was started for up to {self._max_rank}",
                        target=f"adapters.{name}",
                    )
            before = self._loaded
            after: dict[str, _Adapter] = {}
            try:
                for name, folder in adapters.items():
                    there = before.get(name)
                    after[name] = there if there and there.folder == folder else await self._load(name, folder)
            except BaseException:
                for adapter in set(after.values()) - set(before.values()):
                    self._retire(adapter)
                raise
            self._loaded = after
            self._set_adapters(adapters)
            for adapter in set(before.values()) - set(after.values()):
                self._retire(adapter)

    async def _load(self, name: str, folder: Path) -> _Adapter:
        self._loads += 1
        # Never a name that was used before: what is still being answered with the old one is not touched.
        adapter = _Adapter(f"{name}@{self._loads}", folder)
        try:
            await self._ask_for("load_lora_adapter", {"lora_name": adapter.known_as, "lora_path": str(folder)})
        except (asyncio.CancelledError, Unavailable):
            self._retire(adapter)  # given up here, and perhaps loaded there
            raise
        return adapter

    def _retire(self, adapter: _Adapter) -> None:
        adapter.leaving = True
        if adapter.running == 0:
            task = asyncio.ensure_future(self._unload(adapter))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    async def _unload(self, adapter: _Adapter) -> None:
        try:
            await self._ask_for("unload_lora_adapter", {"lora_name": adapter.known_as})
        except TunesmithError as error:
            if not self._closed:
                log.warning("adapter %s stays in vLLM's memory: %s", adapter.known_as, error)

    async def _ask_for(self, route: str, body: dict[str, str]) -> None:
        timeout = aiohttp.ClientTimeout(total=LOAD_SECONDS, sock_connect=10)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, headers=self._authorization) as session,
                session.post(f"{self._server.url}/v1/{route}", json=body) as response,
            ):
                if response.status != 200:
                    text = (await response.text())[:2000]
                    raise ModelFailed(
                        f"vLLM answered {response.status} to {route} of {body['lora_name']}: {text}", target="adapters"
                    )
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unavailable(f"the vLLM server cannot be reached: {error}") from error

    @property
    def _authorization(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._server.key}"}

    async def generate(self, request: GenerateRequest) -> AsyncIterator[GenerateEvent]:
        """Answer ``request``; see ``Engine.generate``."""
        self.capabilities().require(request)
        if needs_grammar(request):
            raise UnsupportedField(
                "the vllm engine cannot force the form of an answer", target="tools", way_out="leave out strict"
            )
        prompt = self._tokenizer.encode_prompt(request.messages, request.tools)
        adapter = self._loaded[request.adapter] if request.adapter is not None else _Adapter(BASE, Path())
        body = self._body(request, prompt, adapter.known_as)
        events = self._forms.read(self._events(request, prompt, body), request)
        adapter.running += 1
        try:
            async with aclosing(cast("Any", events)):
                async for event in events:
                    yield event
        finally:
            adapter.running -= 1
            if adapter.leaving:
                self._retire(adapter)

    def _body(self, request: GenerateRequest, prompt: list[int], model: str) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": model,
            "prompt": prompt,
            "max_tokens": min(
                tokens_left(request, prompt, self._description.context_length),
                self._description.context_length - len(prompt),
            ),
            "temperature": request.temperature,
            "top_p": request.top_p,
            "n": request.n,
            "frequency_penalty": request.frequency_penalty,
            "presence_penalty": request.presence_penalty,
            "stop_token_ids": sorted(self._stop_ids),
            "stream": True,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
        }
        if request.top_k is not None:
            body["top_k"] = request.top_k
        if request.seed is not None:
            body["seed"] = request.seed
        if request.logprobs:
            body["logprobs"] = request.top_logprobs
        return body

    async def _events(
        self, request: GenerateRequest, prompt: list[int], body: dict[str, Any]
    ) -> AsyncIterator[GenerateEvent]:
        if self._closed or not self._server.alive:
            raise Unavailable("the engine is closed" if self._closed else "the vLLM server has ended")
        choices = [_Choice(TextAssembler(self._forms.decoder(request), request.stop)) for _ in range(request.n)]
        self._count(running=request.n, requests=1, prompt_tokens=len(prompt))
        outcome = "cancelled"
        try:
            async with aclosing(cast("Any", self._stream(body))) as chunks:
                async for chunk in chunks:
                    for part in chunk.get("choices", ()):
                        choice = choices[part["index"]]
                        if choice.ended:
                            continue
                        event = self._event(part, choice, request.top_logprobs)
                        self._count(running=-int(choice.ended), completion_tokens=len(event.token_ids))
                        over = all(each.ended for each in choices)
                        if over:
                            outcome = "finished"
                            event = replace(event, usage=Usage(len(prompt), sum(each.tokens for each in choices)))
                        yield event
                        if over:
                            return
            outcome = "failed"
            raise ModelFailed("vLLM's stream ended before the answer did", target="engine")
        except (aiohttp.ClientError, TimeoutError) as error:
            outcome = "failed"
            raise Unavailable(f"the vLLM server cannot be reached: {error}") from error
        except ModelFailed:
            outcome = "failed"
            raise
        finally:
            self._count(running=-sum(not each.ended for each in choices), **{outcome: 1})

    async def _stream(self, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """The chunks of an answer. Closing it closes the connection, which is how vLLM learns that nobody reads."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
        async with (
            aiohttp.ClientSession(timeout=timeout, read_bufsize=LINE_BYTES) as session,
            session.post(
                f"{self._server.url}/v1/completions",
                json=body,
                headers=self._authorization,
            ) as response,
        ):
            if response.status != 200:
                text = (await response.text())[:2000]
                raise ModelFailed(f"vLLM answered {response.status}: {text}", target="engine")
            async for line in response.content:
                data = line.strip().removeprefix(b"data:").strip()
                if not data or not line.startswith(b"data:"):
                    continue
                if data == b"[DONE]":
                    return
                chunk: dict[str, Any] = json.loads(data)
                if "error" in chunk:
                    raise ModelFailed(f"vLLM failed: {chunk['error']}", target="engine")
                yield chunk

    def _event(self, part: Mapping[str, Any], choice: _Choice, top: int) -> GenerateEvent:
        """One piece of a choice, made of its ids; what comes after a stop string is dropped."""
        text = ""
        taken: list[int] = []
        offsets: list[int] = []
        reason: FinishReason | None = None
        for token in part.get("token_ids") or ():
            taken.append(token)
            offsets.append(choice.text.decoded)
            if token in self._stop_ids:
                reason = "stop"
                break
            text += choice.text.push(token)
            if choice.text.stopped is not None:
                reason = "stop"
                break
        said = part.get("finish_reason")
        if reason is None and said is not None:
            reason = {"stop": "stop", "length": "length"}.get(said, "cancelled")  # type: ignore[assignment]
        if reason is not None:
            text += choice.text.finish()
            if reason == "length" and choice.text.stopped is not None:
                reason = "stop"
            choice.ended = True
        choice.tokens += len(taken)
        return GenerateEvent(
            part["index"],
            text,
            tuple(taken),
            self._logprobs(part.get("logprobs"), offsets, top),
            reason,
            choice.text.stopped,
        )

    def _logprobs(self, body: Mapping[str, Any] | None, offsets: list[int], best: int) -> tuple[TokenLogprob, ...]:
        if not body:
            return ()
        tops = body.get("top_logprobs") or [None] * len(body["tokens"])
        found = []
        given = zip(body["tokens"], body["token_logprobs"], tops, strict=True)
        for (name, value, top), begins in zip(given, offsets, strict=False):  # what follows a stop string is dropped
            token = _token(name)
            ranked = sorted(((_token(key), logprob) for key, logprob in (top or {}).items()), key=lambda item: -item[1])
            # vLLM adds the token that was taken where it is not among the best.
            asked = tuple(TopLogprob(self._shown(other), other, logprob) for other, logprob in ranked[:best])
            found.append(TokenLogprob(self._shown(token), token, value, asked, begins))
        return tuple(found)

    def _shown(self, token: int) -> str:
        return self._tokenizer.decode([token], skip_special_tokens=False)

    def _count(self, **changes: int) -> None:
        with self._lock:
            now = self._stats
            self._stats = replace(now, **{name: getattr(now, name) + change for name, change in changes.items()})


def _token(name: str) -> int:
    return int(name.removeprefix(PREFIX))


def open_vllm(
    package: ModelPackage,
    vllm: Path,
    *,
    precision: str,
    threads: int | None,
    max_answers: int,
    cache_bytes: int | None,
    adapters: Mapping[str, Path],
    reason: str,
) -> VllmEngine:
    """Start vLLM over a package's folder and wait until it is ready.

    Raises ``UnsupportedField`` for a precision it has not, ``InvalidModel`` for what is no adapter, and
    ``DeploymentFailed`` with the end of its log when it does not come up.
    """
    if precision == "8":
        raise UnsupportedField(
            "int8 weights need the openvino engine", target="precision", way_out="auto, 32, bf16 or 16"
        )
    if threads is not None:
        raise UnsupportedField("vLLM computes on the GPU", target="threads", way_out="leave out threads")
    context = package.manifest.context_length
    port = free_port()
    ranks = [adapter_rank(name, folder) for name, folder in adapters.items()]
    max_rank = rank_step(max(ranks)) if ranks else 0
    command = command_line(
        vllm,
        package.path,
        port=port,
        precision=precision,
        context_length=context,
        max_answers=max_answers,
        cache_bytes=cache_bytes,
        adapters=adapters,
        max_rank=max_rank,
    )
    tokenizer = package.tokenizer()  # before there is a server that a failure would leave behind
    server = VllmServer(command, port, change_adapters=bool(adapters))
    try:
        server.wait_ready()
    except BaseException:
        server.close()
        raise
    description = EngineDescription(
        engine="vllm",
        precision=precision,
        reason=reason,
        threads=0,
        context_length=context,
        details={"command": command, "max_answers": max_answers, "adapters": list(adapters)},
    )
    return VllmEngine(server, tokenizer, description, adapters, max_rank)
