"""The HTTP layer under the SDK, against real sockets that answer well, badly, slowly or not at all."""

from __future__ import annotations

import hashlib
import http.server
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tunesmith.client.transport import Timeouts, Transport
from tunesmith.errors import (
    Failure,
    NotAuthenticated,
    NotFound,
    TooManyRequests,
    Unreachable,
    UserError,
    ValidationFailed,
)


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers by path; keeps what it was asked."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        length = int(self.headers.get("content-length", 0))
        body = self.rfile.read(length)
        seen: list[tuple[str, str, dict[str, str], bytes]] = self.server.seen  # type: ignore[attr-defined]
        seen.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body))
        status, kind, answer = ANSWERS[self.path.partition("?")[0]]
        self.send_response(status)
        self.send_header("content-type", kind)
        if status == 429:
            self.send_header("retry-after", "7")
        cut = self.path == "/cut"
        self.send_header("content-length", str(len(answer) + (100 if cut else 0)))
        self.end_headers()
        self.wfile.write(answer)
        if cut:
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


OURS = {
    "error": {
        "code": "ValidationFailed",
        "message": "the request has 1 fault",
        "details": [{"code": "UnknownField", "message": "unknown field 'nmae'", "target": "nmae"}],
    }
}
EVENTS = b"""id: 1
event: job
data: {"a": 1}

: a comment

data: one
data: two

event: end
data: {}

"""
JSON = "application/json"
ANSWERS: dict[str, tuple[int, str, bytes]] = {
    "/ok": (200, JSON, b'{"x": 1}'),
    "/empty": (200, JSON, b""),
    "/ours": (400, JSON, json.dumps(OURS).encode()),
    "/plain": (502, "text/plain", b"bad gateway"),
    "/foreign": (401, JSON, b'{"error": {"message": "no", "type": "authentication_error", "code": null}}'),
    "/queue": (429, JSON, b'{"error": {"message": "full", "code": "whatever"}}'),
    "/missing": (404, "text/html", b"<html>"),
    "/teapot": (418, "text/plain", b"short and stout"),
    "/broken": (500, JSON, b'{"error": "text"}'),
    "/events": (200, "text/event-stream", EVENTS),
    "/file": (200, "application/octet-stream", b"x" * 3_000_000),
    "/cut": (200, "application/octet-stream", b"half"),
    "/up": (200, JSON, b"{}"),
}


@pytest.fixture
def server() -> Iterator[http.server.ThreadingHTTPServer]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.seen = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def transport(server: http.server.ThreadingHTTPServer) -> Iterator[Transport]:
    transport = Transport(f"http://127.0.0.1:{server.server_port}/", "secret")
    yield transport
    transport.close()


def test_sends_the_token_and_only_the_parameters_that_were_given(
    server: http.server.ThreadingHTTPServer, transport: Transport
) -> None:
    assert transport.request("GET", "/ok", params={"a": None, "b": True, "c": 3}) == {"x": 1}
    assert transport.request("POST", "/empty", body={"k": "v"}) is None
    (_, first, headers, _), (method, _, sent, body) = server.seen  # type: ignore[attr-defined]
    assert first == "/ok?b=true&c=3"
    assert headers["authorization"] == "Bearer secret"
    assert (method, sent["content-type"], json.loads(body)) == ("POST", "application/json", {"k": "v"})
    assert "secret" not in repr(transport)


def test_rebuilds_the_error_with_its_faults(transport: Transport) -> None:
    with pytest.raises(ValidationFailed, match="1 fault") as caught:
        transport.request("GET", "/ours")
    assert [fault.target for fault in caught.value.details] == ["nmae"]


@pytest.mark.parametrize(
    ("path", "kind", "words"),
    [
        ("/plain", Unreachable, "bad gateway"),
        ("/foreign", NotAuthenticated, "^no$"),
        ("/missing", NotFound, "404"),
        ("/teapot", UserError, "stout"),
        ("/broken", Failure, "text"),
        ("/queue", TooManyRequests, "full"),
    ],
)
def test_finds_the_error_of_answers_that_are_not_ours(
    transport: Transport, path: str, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words) as caught:
        transport.request("GET", path)
    assert type(caught.value) is kind
    if kind is TooManyRequests:
        assert caught.value.extra["retry_after"] == 7.0  # type: ignore[attr-defined]


def test_reads_events_with_ids_comments_and_several_lines(transport: Transport) -> None:
    events = list(transport.events("/events"))
    assert [(e.id, e.event, e.data) for e in events] == [
        ("1", "job", '{"a": 1}'),
        ("1", "message", "one\ntwo"),
        ("1", "end", "{}"),
    ]


def test_downloads_whole_files_or_none(transport: Transport, tmp_path: Path) -> None:
    transport.download("/file", tmp_path / "a" / "file")
    assert (tmp_path / "a" / "file").stat().st_size == 3_000_000
    with pytest.raises(Unreachable):
        transport.download("/cut", tmp_path / "b" / "file")
    assert list((tmp_path / "b").iterdir()) == []


def test_uploads_a_file_with_its_hash(
    server: http.server.ThreadingHTTPServer, transport: Transport, tmp_path: Path
) -> None:
    (tmp_path / "f").write_bytes(b"hello")
    transport.upload("/up", tmp_path / "f", params={"path": "f"})
    _, path, headers, body = server.seen[-1]  # type: ignore[attr-defined]
    assert (path, body) == ("/up?path=f", b"hello")
    assert headers["x-content-sha256"] == hashlib.sha256(b"hello").hexdigest()


def test_says_how_to_start_a_server_that_is_not_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        transport = Transport(f"http://127.0.0.1:{taken.getsockname()[1]}", None)
        with pytest.raises(Unreachable, match="cannot be reached") as caught:
            transport.request("GET", "/ok")
        transport.close()
    assert "tunesmith up -d" in (caught.value.way_out or "")


def test_gives_up_on_a_server_that_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        transport = Transport(url, None, timeouts=Timeouts(connect=1, read=0.1, slow=0.1))
        with pytest.raises(Unreachable, match="did not answer in time"):
            transport.request("GET", "/ok")
        transport.close()
