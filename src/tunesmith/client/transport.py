"""HTTP under the SDK: one connection pool, errors rebuilt as the product's own, files streamed both ways.

It knows URLs, tokens, status codes and bytes; it does not know what a model or a job is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel

from tunesmith._version import __version__
from tunesmith.errors import (
    Failure,
    ModelFailed,
    NotAllowed,
    NotAuthenticated,
    NotFound,
    RequestTimeout,
    TooManyRequests,
    TunesmithError,
    Unavailable,
    Unreachable,
    UserError,
    error_from_dict,
)

CHUNK = 1 << 20
"""Bytes read at a time from files and answers."""

_BY_STATUS: dict[int, type[TunesmithError]] = {
    401: NotAuthenticated,
    403: NotAllowed,
    404: NotFound,
    408: RequestTimeout,
    424: ModelFailed,
    429: TooManyRequests,
    502: Unreachable,
    503: Unavailable,
}


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds to wait: for a connection, and between two pieces of an answer.

    ``slow`` is the second one where the server does real work before it answers: hashing a large file, loading a model.
    """

    connect: float = 5.0
    read: float = 60.0
    slow: float = 900.0


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One event of a ``text/event-stream``."""

    id: str | None
    event: str
    data: str


class Transport:
    """Speaks to one server.

    Connecting is retried (nothing was sent yet); a request that was sent never is.
    A server on loopback is reached directly, whatever proxy the environment names.

    Args:
        url: Where the server is.
        token: The workspace's.
        verify: ``True`` for the system's authorities, or the path of a PEM file with certificates to trust.
        pinned: The PEM file holds the very certificate of the server on this machine: it counts whatever name it is
            for.
        timeouts: In seconds.
    """

    def __init__(
        self,
        url: str,
        token: str | None,
        *,
        verify: bool | str = True,
        pinned: bool = False,
        timeouts: Timeouts | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.timeouts = timeouts or Timeouts()
        host = urlsplit(self.url).hostname or ""
        local = host in {"localhost", "::1"} or host.startswith("127.")
        headers = {"User-Agent": f"tunesmith/{__version__}"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        # Reading the system's authorities takes longer than most requests; plain HTTP to this machine asks none.
        plain = local and self.url.startswith("http://")
        checked = False if plain else _verify(verify, pinned)
        self._client = httpx.Client(
            base_url=self.url,
            headers=headers,
            trust_env=not local,
            transport=httpx.HTTPTransport(retries=2, verify=checked) if local else None,
            verify=checked,
            timeout=httpx.Timeout(self.timeouts.read, connect=self.timeouts.connect),
        )

    def __repr__(self) -> str:
        return f"Transport({self.url!r})"

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        body: BaseModel | Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        slow: bool = False,
    ) -> Any:
        """Send a request and return its JSON (``None`` for an empty answer).

        Raises:
            TunesmithError: the server's error, rebuilt; ``Unreachable`` where no answer came.
        """
        with self._reaching():
            response = self._client.request(
                method,
                path,
                content=_encode(body),
                params=_given(params),
                headers=_headers(body, headers),
                timeout=self._timeout(slow),
            )
            _check(response)
        if not response.content:
            return None
        return response.json()

    def text(self, path: str, *, params: Mapping[str, Any] | None = None) -> str:
        """The text of ``GET path``."""
        with self._reaching():
            response = self._client.get(path, params=_given(params), timeout=self._timeout(True))
            _check(response)
        return response.text

    def events(
        self,
        path: str,
        *,
        method: str = "GET",
        body: BaseModel | Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[ServerSentEvent]:
        """The server-sent events of ``path`` until the stream ends. The server sends a comment at least every 15 s."""
        with (
            self._reaching(),
            self._client.stream(
                method,
                path,
                content=_encode(body),
                params=_given(params),
                headers={"Accept": "text/event-stream", **(_headers(body, headers))},
                timeout=self._timeout(method != "GET"),
            ) as response,
        ):
            _check(response)
            yield from _events(response.iter_lines())

    def download(self, path: str, destination: Path) -> None:
        """Save the bytes of ``GET path`` as ``destination``: written aside, then renamed."""
        destination.parent.mkdir(parents=True, exist_ok=True)
        aside = destination.with_name(destination.name + ".part")
        try:
            with self._reaching(), self._client.stream("GET", path, timeout=self._timeout(True)) as response:
                _check(response)
                with aside.open("wb") as file:
                    for chunk in response.iter_bytes(CHUNK):
                        file.write(chunk)
            aside.replace(destination)
        finally:
            aside.unlink(missing_ok=True)

    def upload(self, path: str, file: Path, *, params: Mapping[str, Any]) -> Any:
        """Stream ``file`` to ``POST path`` with its SHA-256, and return the answer's JSON."""
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(file.stat().st_size),
            "X-Content-SHA256": digest,
        }
        with self._reaching():
            response = self._client.post(
                path, content=_chunks(file), params=_given(params), headers=headers, timeout=self._timeout(True)
            )
            _check(response)
        return response.json()

    def _timeout(self, slow: bool) -> httpx.Timeout:
        return httpx.Timeout(self.timeouts.slow if slow else self.timeouts.read, connect=self.timeouts.connect)

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except httpx.TimeoutException as error:
            raise Unreachable(
                f"the server at {self.url} did not answer in time ({type(error).__name__})",
                way_out="look at the server's log (logs/server.log in the workspace folder), then try again",
            ) from error
        except httpx.TransportError as error:
            raise Unreachable(
                f"the server at {self.url} cannot be reached: {error or type(error).__name__}",
                way_out="start it with `tunesmith up -d`, or check the URL and the network",
            ) from error


def _verify(verify: bool | str, pinned: bool) -> Any:
    if isinstance(verify, bool):
        return verify
    import ssl

    context = ssl.create_default_context(cafile=verify)
    if pinned:
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.check_hostname = False
    return context


def _given(params: Mapping[str, Any] | None) -> dict[str, Any]:
    """``params`` without those that were not given; booleans as ``true`` and ``false``."""
    given = {key: value for key, value in (params or {}).items() if value is not None}
    return {key: str(value).lower() if isinstance(value, bool) else value for key, value in given.items()}


def _encode(body: BaseModel | Mapping[str, Any] | None) -> bytes | None:
    if body is None:
        return None
    if isinstance(body, BaseModel):
        return body.model_dump_json(exclude_unset=True).encode()
    return json.dumps(body).encode()


def _headers(body: object, headers: Mapping[str, str] | None) -> dict[str, str]:
    return {**({"Content-Type": "application/json"} if body is not None else {}), **(headers or {})}


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk


def _check(response: httpx.Response) -> None:
    if response.status_code < 400:
        return
    response.read()
    try:
        body = response.json()
    except ValueError:
        body = None
    error: TunesmithError | None = None
    if isinstance(body, Mapping) and "error" in body:
        error = error_from_dict(body, status=response.status_code)
    else:
        error = UserError(_plain(response)) if response.status_code < 500 else Failure(_plain(response))
    if type(error) in (UserError, Failure) and response.status_code in _BY_STATUS:
        kind = _BY_STATUS[response.status_code]
        error = kind(
            error.message, target=error.target, way_out=error.way_out, details=error.details, extra=error.extra
        )
    if retry := response.headers.get("retry-after"):
        error.extra.setdefault("retry_after", float(retry) if retry.replace(".", "").isdigit() else retry)
    if request_id := response.headers.get("x-request-id"):
        error.extra.setdefault("request_id", request_id)
    raise error


def _plain(response: httpx.Response) -> str:
    text = response.text.strip()
    return f"HTTP {response.status_code}: {text[:500] or response.reason_phrase}"


def _events(lines: Iterator[str]) -> Iterator[ServerSentEvent]:
    identity: str | None = None
    event, data = "message", list[str]()
    for line in lines:
        if not line:
            if data:
                yield ServerSentEvent(identity, event, "\n".join(data))
            event, data = "message", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            data.append(value)
        elif field == "event":
            event = value
        elif field == "id":
            identity = value
