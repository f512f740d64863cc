"""Who answers the lines of a batch: an endpoint, or a model in a child process that ends with the batch."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from tunesmith.cli.batch_rows import COMPLETIONS
from tunesmith.cli.talking import Target
from tunesmith.compute.processes import end_group
from tunesmith.errors import Failure, NotFound, UnsupportedField, error_from_dict

if TYPE_CHECKING:
    from tunesmith.client import Workspace
    from tunesmith.generate.types import GenerateRequest, GenerateResult


GRACE_S = 10.0
"""How long the process of a model may take to end by itself."""


class Asker(Protocol):
    """Answers bodies of OpenAI's requests. ``ask`` may be called from several threads at once."""

    @property
    def about(self) -> str:
        """Who answers, for a person."""

    def ask(self, url: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """The body of the answer. Raises ``TunesmithError``; ``Unavailable`` where trying again may help."""

    def close(self) -> None:
        """End what was started for the batch."""


class EndpointAsker:
    """Sends every line to an endpoint."""

    def __init__(self, ws: Workspace, target: Target) -> None:
        ws.endpoints.get(target.endpoint)
        self._ws = ws
        self._target = target

    @property
    def about(self) -> str:
        """The endpoint."""
        return f"endpoint {self._target}"

    def ask(self, url: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """See ``Asker``."""
        target = self._target
        answer: Mapping[str, Any] = self._ws.endpoints.call(target.endpoint, url, body, target.deployment)
        return answer

    def close(self) -> None:
        """Nothing was started."""


class ModelAsker:
    """A model in a child process, without a server or a deployment (``tunesmith.generate.piped``).

    Raises the engine's own error when it cannot be opened.
    """

    def __init__(self, name: str, folder: Path, *, engine: str, precision: str) -> None:
        self._name = name
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        command = [sys.executable, "-m", "tunesmith.generate.piped", str(folder)]
        self._process = subprocess.Popen(
            [*command, "--engine", engine, "--precision", precision],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C is for the batch, which ends it in good order; see end_group
        )
        self._lock = threading.Lock()
        self._waiting: dict[int, Future[GenerateResult]] = {}
        self._next = 0
        self._ended = False
        try:
            first = self._line()
            if first is None:
                raise self._gone()
            if "ready" not in first:
                raise error_from_dict(first)
        except BaseException:
            self.close()
            raise
        opened = first["ready"]
        self._about = f"{name} ({opened['engine']}, precision {opened['precision']})"
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self) -> ModelAsker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def about(self) -> str:
        """The model and what it runs on."""
        return self._about

    @property
    def pid(self) -> int:
        """Of the child process."""
        return self._process.pid

    def ask(self, url: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """See ``Asker``. The body is checked as an endpoint checks it."""
        from tunesmith.openai.answers import ChatShape, CompletionShape
        from tunesmith.openai.bodies import ChatCompletionBody, CompletionBody, parse_body

        if url == COMPLETIONS:
            text_body = parse_body(CompletionBody, dict(body))
            self._check_model(text_body.model)
            futures = [self._begin(request) for request in text_body.to_requests()]
            results = [future.result() for future in futures]
            return CompletionShape(self._name).whole(text_body.echoes, results)
        chat = parse_body(ChatCompletionBody, dict(body))
        self._check_model(chat.model)
        result = self._begin(chat.to_request()).result()
        return ChatShape(self._name).whole(result.choices, result.usage)

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._ended = True
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it is gone already
            self._process.stdin.close()
        try:
            end_group(self._process, GRACE_S)
        finally:
            self._log.close()

    def _check_model(self, model: str | None) -> None:
        if model is not None and model != self._name:
            raise NotFound(
                f"there is no model {model!r} here", target="model", way_out=f"{self._name}, or leave it out"
            )

    def _begin(self, request: GenerateRequest) -> Future[GenerateResult]:
        if request.stream:
            raise UnsupportedField("a batch does not stream", target="stream", way_out="leave it out")
        future: Future[GenerateResult] = Future()
        with self._lock:
            if self._ended:
                raise self._gone()
            self._next += 1
            number = self._next
            self._waiting[number] = future
            assert self._process.stdin is not None
            try:
                self._process.stdin.write(json.dumps({"id": number, "request": request.to_dict()}) + "\n")
                self._process.stdin.flush()
            except OSError:
                del self._waiting[number]
                raise self._gone() from None
        return future

    def _line(self) -> dict[str, Any] | None:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith("\n"):
            return None
        body: dict[str, Any] = json.loads(line)
        return body

    def _read(self) -> None:
        from tunesmith.generate.types import GenerateResult

        while (body := self._line()) is not None:
            with self._lock:
                future = self._waiting.pop(body["id"])
            if "result" in body:
                future.set_result(GenerateResult.from_dict(body["result"]))
            else:
                future.set_exception(error_from_dict(body))
        with self._lock:
            self._ended, lost = True, list(self._waiting.values())
            self._waiting.clear()
        for future in lost:
            future.set_exception(self._gone())

    def _gone(self) -> Failure:
        """Why the process ended, with the last line that it wrote."""
        status = self._process.poll()
        last = ""
        if not self._log.closed:
            self._log.seek(0)
            lines = self._log.read().decode(errors="replace").strip().splitlines()
            last = f": {lines[-1][:300]}" if lines else ""
        return EngineGone(
            f"the process of the model ended{f' with status {status}' if status is not None else ''}{last}",
            way_out="run the same command again: the lines that are answered are kept",
        )


class EngineGone(Failure):
    """The child process is gone, so no line can be answered any more."""

    code = "EngineGone"
