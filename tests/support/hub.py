"""A small server that speaks the Hugging Face hub's API: model information, files with ranges, and the hub's ways of
refusing."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass
class Repository:
    """One model repository with one commit on ``main``."""

    folder: Path
    commit: str
    license: str = "mit"
    gated: bool = False
    """Metadata is public, files are refused, as on the hub."""
    token: str | None = None
    """Who may read it; ``None``: everybody."""

    @property
    def files(self) -> dict[str, Path]:
        return {p.relative_to(self.folder).as_posix(): p for p in sorted(self.folder.rglob("*")) if p.is_file()}


@dataclass
class FakeHub:
    """The state a test sets and looks at."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)
    """``"GET /path"`` and how often it was asked."""
    ranges: list[str] = field(default_factory=list)
    """The Range headers that were asked."""
    cut: dict[str, int] = field(default_factory=dict)
    """File name → after how many bytes the next answer breaks off, once."""
    lies: dict[str, bytes] = field(default_factory=dict)
    """File name → other content than its checksum promises."""
    more_names: list[str] = field(default_factory=list)
    """Names that the answers list beside the real files."""
    status: int | None = None
    """When set, everything is answered with it."""

    def add(self, name: str, folder: Path, **more: Any) -> Repository:
        commit = hashlib.sha1(name.encode()).hexdigest()
        self.repositories[name] = Repository(folder, commit, **more)
        return self.repositories[name]

    def asked(self, part: str) -> int:
        return sum(count for path, count in self.requests.items() if part in path)


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """Serve a hub on a free loopback port."""
    hub = FakeHub()

    class Handler(_Handler):
        state = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    state: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = self.path.split("?")[0]
        self.state.requests[f"{self.command} {path}"] += 1
        if self.state.status is not None:
            return self._refuse(self.state.status, "", "not now")
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
            return self._info(found[1], found[2] or "main")
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._file(found[1], found[2], found[3], body)
        return self._refuse(404, "", "no such page")

    def _repository(self, name: str, revision: str) -> Repository | None:
        repository = self.state.repositories.get(name)
        allowed = repository and (repository.token is None or self._token() == repository.token)
        if repository is None or not allowed:
            self._refuse(401, "RepoNotFound", "Repository not found")
            return None
        if revision not in ("main", repository.commit):
            self._refuse(404, "RevisionNotFound", "Revision not found")
            return None
        return repository

    def _token(self) -> str:
        return self.headers.get("authorization", "").removeprefix("Bearer ")

    def _info(self, name: str, revision: str) -> None:
        repository = self._repository(name, revision)
        if repository is None:
            return
        siblings = []
        for file, path in repository.files.items():
            entry: dict[str, Any] = {"rfilename": file, "size": path.stat().st_size, "blobId": "0" * 40}
            if file.endswith((".safetensors", ".gguf", ".bin")):
                sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
                entry["lfs"] = {"sha256": sha256, "size": path.stat().st_size, "pointerSize": 134}
            siblings.append(entry)
        siblings += [{"rfilename": other, "size": 1, "blobId": "0" * 40} for other in self.state.more_names]
        body = {
            "id": name,
            "modelId": name,
            "sha": repository.commit,
            "private": False,
            "gated": repository.gated,
            "cardData": {"license": repository.license},
            "siblings": siblings,
        }
        self._send(200, {"Content-Type": "application/json"}, json.dumps(body).encode())

    def _file(self, name: str, revision: str, file: str, with_body: bool) -> None:
        repository = self._repository(name, revision)
        if repository is None:
            return None
        if repository.gated:
            return self._refuse(403, "GatedRepo", "Access to this model is restricted")
        if file not in repository.files:
            return self._refuse(404, "EntryNotFound", "Entry not found")
        content = self.state.lies.get(file, repository.files[file].read_bytes())
        headers = {
            "ETag": f'"{hashlib.sha256(repository.files[file].read_bytes()).hexdigest()}"',
            "X-Repo-Commit": repository.commit,
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
        }
        status = 200
        if asked := self.headers.get("range"):
            self.state.ranges.append(asked)
            start = int(re.match(r"bytes=(\d+)-", asked)[1])  # type: ignore[index]
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            content, status = content[start:], 206
        cut = self.state.cut.pop(file, None) if with_body else None
        return self._send(status, headers, content, body=with_body, cut=cut)

    def _refuse(self, status: int, code: str, message: str) -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": message} if code else {}
        self._send(status, headers, json.dumps({"error": message}).encode(), body=self.command == "GET")

    def _send(
        self, status: int, headers: dict[str, str], content: bytes, *, body: bool = True, cut: int | None = None
    ) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content[:cut])
        if cut is not None:
            self.close_connection = True
