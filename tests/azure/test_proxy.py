"""The proxy as clients use it, on real sockets of loopback."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from tunesmith.azure.certificates import CertificateAuthority
from tunesmith.azure.hosts import SUNK, caught_hosts
from tunesmith.azure.identity import AzureKeys
from tunesmith.azure.proxy import AzureProxy, Head
from tunesmith.azure.upstream import Upstream
from tunesmith.server.http_protocol import HEAD_BYTES, LimitedHttp

KEYS = AzureKeys("token", "11111111-2222-3333-4444-555555555555")
CAUGHT = caught_hosts("ts1")


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Tells what it was asked, and how long the body was."""
    size = 0
    while True:
        message = await receive()
        size += len(message.get("body", b""))
        if not message.get("more_body"):
            break
    host = dict(scope["headers"])[b"host"].decode()
    body = json.dumps({"host": host, "path": scope["path"], "scheme": scope["scheme"], "size": size}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@dataclass
class Running:
    proxy: AzureProxy
    port: int
    direct: int
    trust: ssl.SSLContext

    def url(self, user: str = "tunesmith", password: str | None = None) -> str:
        return f"http://{user}:{password or KEYS.proxy_password}@127.0.0.1:{self.port}"

    def client(self, **options: Any) -> httpx.AsyncClient:
        return httpx.AsyncClient(proxy=self.url(), verify=self.trust, trust_env=False, timeout=30, **options)


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    authority = CertificateAuthority(tmp_path, (*CAUGHT, *SUNK))
    proxy = AzureProxy(echo, authority, KEYS, CAUGHT, LimitedHttp)
    port, direct = await proxy.start()
    yield Running(proxy, port, direct, ssl.create_default_context(cafile=str(authority.certificate_file)))
    await proxy.stop()


@asynccontextmanager
async def plain_server() -> AsyncIterator[int]:
    """Sends back what it gets, in capitals, and closes when the other side is done."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read()).upper())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield int(server.sockets[0].getsockname()[1])


async def raw(port: int, text: str, then: bytes = b"") -> bytes:
    """What comes back for ``text``, and for ``then`` once the first answer is there."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(text.replace("\n", "\r\n").encode())
    answer = b""
    if then:
        answer = await reader.readuntil(b"\r\n\r\n")
        writer.write(then)
        writer.write_eof()
    answer += await reader.read()
    writer.close()
    return answer


def authorization(user: str = "tunesmith", password: str | None = None) -> str:
    pair = base64.b64encode(f"{user}:{password or KEYS.proxy_password}".encode()).decode()
    return f"Proxy-Authorization: Basic {pair}\n"


@pytest.mark.parametrize("host", ["management.azure.com", "eastus.api.azureml.ms", "ts1.blob.core.windows.net"])
async def test_azures_hosts_are_answered_here(running: Running, host: str) -> None:
    async with running.client() as client:
        answer = await client.put(f"https://{host}/a/b?x=1", content=b"y" * 3_000_000)
    assert answer.json() == {"host": host, "path": "/a/b", "scheme": "https", "size": 3_000_000}
    assert answer.headers["date"].endswith("GMT")
    assert running.proxy.connections == {"azure": 1}


async def test_a_connection_stays_open_for_more_requests(running: Running) -> None:
    async with running.client() as client:
        for number in range(20):
            assert (await client.get(f"https://management.azure.com/{number}")).json()["path"] == f"/{number}"
    assert running.proxy.connections == {"azure": 1}


async def test_many_connections_at_once(running: Running) -> None:
    async def ask(number: int) -> str:
        async with running.client() as client:
            path: str = (await client.get(f"https://management.azure.com/{number}")).json()["path"]
            return path

    assert await asyncio.gather(*(ask(number) for number in range(24))) == [f"/{number}" for number in range(24)]


async def test_telemetry_is_thrown_away_and_counted(running: Running) -> None:
    async with running.client() as client:
        for _ in range(2):
            answer = await client.post("https://westus2-0.in.applicationinsights.azure.com/v2.1/track", json=[{}])
            assert answer.json() == {"itemsReceived": 0, "itemsAccepted": 0, "errors": []}
    assert running.proxy.front.sunk == {"westus2-0.in.applicationinsights.azure.com": 2}
    assert running.proxy.connections == {"sunk": 1}


@pytest.mark.parametrize("given", ["", authorization(password="wrong"), "Proxy-Authorization: Bearer x\n"])
async def test_the_proxy_asks_for_its_password(running: Running, given: str) -> None:
    answer = await raw(running.port, f"CONNECT management.azure.com:443 HTTP/1.1\n{given}\n")
    assert answer.startswith(b"HTTP/1.1 407 ")
    assert b"Proxy-Authenticate: Basic" in answer
    assert running.proxy.connections == {"refused": 1}


async def test_other_hosts_are_a_tunnel_byte_for_byte(running: Running) -> None:
    sent = bytes(range(256)) * 4000
    async with plain_server() as port:
        head = f"CONNECT 127.0.0.1:{port} HTTP/1.1\n{authorization()}\n"
        answer = await raw(running.port, head, then=sent)
    assert answer == b"HTTP/1.1 200 Connection established\r\n\r\n" + sent.upper()
    assert running.proxy.connections == {"tunnel": 1}


async def test_the_users_own_proxy_stands_behind_this_one(running: Running, tmp_path: Path) -> None:
    behind = AzureProxy(echo, CertificateAuthority(tmp_path / "b", CAUGHT), KEYS, CAUGHT, LimitedHttp)
    port, _ = await behind.start()
    user = Upstream(f"http://tunesmith:{KEYS.proxy_password}@127.0.0.1:{port}", ("localhost",)).user
    async with plain_server() as far:
        through = await raw(running.port, f"CONNECT 127.0.0.1:{far} HTTP/1.1\n{authorization(user)}\n", then=b"through")
        around = await raw(running.port, f"CONNECT localhost:{far} HTTP/1.1\n{authorization(user)}\n", then=b"around")
    await behind.stop()
    assert through.endswith(b"\r\n\r\nTHROUGH")
    assert around.endswith(b"\r\n\r\nAROUND")
    assert behind.connections == {"tunnel": 1}


async def test_what_cannot_be_reached_is_said(running: Running) -> None:
    async with plain_server() as port:
        pass
    answer = await raw(running.port, f"CONNECT 127.0.0.1:{port} HTTP/1.1\n{authorization()}\n")
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert f"127.0.0.1:{port} cannot be reached".encode() in answer


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("GET http://example.com/ HTTP/1.1\nHost: example.com\n\n", 405),
        ("GET /elsewhere HTTP/1.1\n\n", 405),
        ("nonsense\n\n", 400),
        ("CONNECT management.azure.com HTTP/1.1\n\n", 400),
        ("GET / HTTP/1.1\nx\n\n", 400),
        (f"GET / HTTP/1.1\nA: {'a' * 70_000}\n\n", 400),
    ],
)
async def test_all_else_is_refused(running: Running, text: str, status: int) -> None:
    assert (await raw(running.port, text)).startswith(f"HTTP/1.1 {status} ".encode())


async def test_a_client_that_goes_away_before_it_said_anything(running: Running) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", running.port)
    writer.close()
    async with running.client() as client:
        assert (await client.get("https://management.azure.com/")).status_code == 200


async def test_a_managed_identity_gets_a_token(running: Running) -> None:
    url = f"http://127.0.0.1:{running.port}/azure/msi/token"
    query = {"api-version": "2019-08-01", "resource": "https://ml.azure.com"}
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(url, params=query, headers={"X-IDENTITY-HEADER": KEYS.identity_header})
        wrong = await client.get(url, params=query, headers={"X-IDENTITY-HEADER": "x"})
        without = await client.get(url, headers={"X-IDENTITY-HEADER": KEYS.identity_header})
    made = answer.json()
    assert KEYS.check(f"Bearer {made['access_token']}")["aud"] == "https://ml.azure.com"
    assert made["expires_on"] == str(KEYS.check(f"Bearer {made['access_token']}")["exp"])
    assert made["resource"] == "https://ml.azure.com"
    assert (wrong.status_code, without.status_code) == (401, 400)


async def test_the_same_application_without_a_proxy(running: Running) -> None:
    async with httpx.AsyncClient(verify=running.trust, trust_env=False) as client:
        answer = await client.get(f"https://localhost:{running.direct}/x")
    assert answer.json()["host"] == f"localhost:{running.direct}"


async def test_a_head_without_an_end_is_cut_off(running: Running) -> None:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", running.direct, ssl=running.trust, server_hostname="localhost"
    )
    writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"A: b\r\n" * (HEAD_BYTES // 6 + 1))
    async with asyncio.timeout(30):
        answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert f"larger than {HEAD_BYTES} bytes".encode() in answer


async def test_the_ports_are_kept_where_they_are_free(tmp_path: Path) -> None:
    authority = CertificateAuthority(tmp_path, CAUGHT)
    first = AzureProxy(echo, authority, KEYS, CAUGHT, LimitedHttp)
    ports = await first.start()
    second = AzureProxy(echo, authority, KEYS, CAUGHT, LimitedHttp)
    others = await second.start(*ports)
    assert set(ports).isdisjoint(others)
    await first.stop()
    third = AzureProxy(echo, authority, KEYS, CAUGHT, LimitedHttp)
    assert await third.start(*ports) == ports
    await third.stop()
    await second.stop()


def test_a_head_is_parsed() -> None:
    head = Head.parse(b"GET /a HTTP/1.1\r\nHost: h\r\nX-A:  b \r\n\r\n")
    assert head == Head("GET", "/a", {"host": "h", "x-a": "b"})
