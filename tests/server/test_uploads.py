"""Files sent to the server: whole and checked, or not at all."""

from __future__ import annotations

import hashlib
import socket
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.support.house import until
from tests.support.server import RunningServer


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def send(http: httpx.Client, path: str, body: bytes = b"x", **params: str) -> httpx.Response:
    digest = hashlib.sha256(body).hexdigest()
    headers = {"x-content-sha256": digest, "content-type": "application/octet-stream"}
    return http.post("/api/v1/uploads", params={"path": path, **params}, content=body, headers=headers)


def test_files_of_one_upload_lie_in_one_folder(http: httpx.Client) -> None:
    body = b"a" * 3_000_000
    first = send(http, "model/config.json", b"{}").json()
    second = send(http, "model/weights", body, upload=first["upload"]).json()
    assert Path(second["path"]).read_bytes() == body
    assert second["sha256"] == hashlib.sha256(body).hexdigest() and second["size_bytes"] == len(body)
    assert files_below(Path(first["root"])) == ["model/config.json", "model/weights"]


def test_a_wrong_hash_leaves_nothing(http: httpx.Client) -> None:
    upload = send(http, "good").json()
    answer = http.post(
        "/api/v1/uploads",
        params={"path": "bad", "upload": upload["upload"]},
        content=b"changed on the way",
        headers={"x-content-sha256": "0" * 64},
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "InvalidData")
    assert files_below(Path(upload["root"])) == ["good"]


def test_a_body_that_breaks_off_leaves_nothing(server: RunningServer, http: httpx.Client) -> None:
    upload = send(http, "good").json()
    where = urlsplit(server.url)
    with socket.create_connection((where.hostname, where.port), timeout=10) as raw:
        raw.sendall(
            f"POST /api/v1/uploads?path=half&upload={upload['upload']} HTTP/1.1\r\nHost: {where.netloc}\r\n"
            f"Authorization: Bearer {server.token}\r\nContent-Length: 1000\r\n\r\nhalf".encode()
        )
        root = Path(upload["root"])
        until(lambda: len(list(root.iterdir())) == 2, "the file aside")
    until(lambda: files_below(root) == ["good"], "the file aside to go")


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x", "", ".", "a\\b", "a\0b"])
def test_paths_stay_in_the_upload(server: RunningServer, http: httpx.Client, path: str) -> None:
    before = files_below(server.home)
    answer = send(http, path)
    assert answer.status_code in {400, 409}
    assert [name for name in files_below(server.home) if "uploads" in name and name not in before] == []


def test_an_upload_is_made_by_the_server_and_a_file_is_sent_once(http: httpx.Client) -> None:
    assert send(http, "x", upload="made-up").status_code == 404
    assert send(http, "x", upload="../uploads").status_code == 400
    upload = send(http, "x").json()["upload"]
    assert send(http, "x", upload=upload).status_code == 409
