"""The proxy on a loopback port that Azure's SDK is pointed at.

``CONNECT`` to one of Azure's hosts is answered here: TLS with a certificate of the workspace's own authority, and the
connection then belongs to the HTTP server of the Azure application, in this process. Every other host is a tunnel that
is not looked into. The port also answers the token endpoint of a managed identity, in plain HTTP, as Azure's does.

Both ask for a secret: the proxy for a password, the token endpoint for a header.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import ssl
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

import uvicorn
from starlette.types import ASGIApp
from uvicorn.server import ServerState

from tunesmith.azure.certificates import CertificateAuthority
from tunesmith.azure.environment import TOKEN_PATH
from tunesmith.azure.front import Front
from tunesmith.azure.hosts import SUNK, matches
from tunesmith.azure.identity import AzureKeys
from tunesmith.azure.near import Held, Near, back, forth
from tunesmith.azure.upstream import Upstream
from tunesmith.errors import TunesmithError
from tunesmith.storage.secrets import Secrets

log = logging.getLogger("tunesmith.azure")

HEAD_SECONDS = 60.0
LISTEN = "127.0.0.1"
KEEP_ALIVE_SECONDS = 300
ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Head:
    """The head of a request to the proxy."""

    method: str
    target: str
    headers: Mapping[str, str]
    """By lower-case name."""

    @classmethod
    def parse(cls, raw: bytes) -> Head:
        """Read it. Raises ``ValueError`` where it is none."""
        first, *lines = raw.decode("latin-1").rstrip("\r\n").split("\r\n")
        method, target, version = first.split(" ")
        if not version.startswith("HTTP/1."):
            raise ValueError(version)
        headers = {}
        for line in lines:
            name, separator, value = line.partition(":")
            if not separator:
                raise ValueError(line)
            headers[name.strip().lower()] = value.strip()
        return cls(method, target, headers)


class AzureProxy:
    """The proxy, and the HTTP server behind it. Lives on one event loop.

    Args:
        app: the Azure application.
        authority: signs for Azure's hosts.
        keys: what the two secrets are.
        caught: those hosts.
        http: the protocol of HTTP/1.1 behind the TLS; anybody on this machine reaches it, so it needs limits.
    """

    def __init__(
        self,
        app: ASGIApp,
        authority: CertificateAuthority,
        keys: AzureKeys,
        caught: tuple[str, ...],
        http: type[asyncio.Protocol],
    ) -> None:
        self.authority = authority
        self.front = Front(app)
        self.connections: Counter[str] = Counter()
        """Connections so far: ``azure``, ``sunk``, ``tunnel``, ``refused``."""
        self._keys = keys
        self._caught = caught
        self._config = uvicorn.Config(
            self.front,
            http=http,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
        )
        self._state = ServerState()
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, port: int = 0, direct_port: int = 0) -> tuple[int, int]:
        """Listen on two ports of loopback, the given ones where they are free: the proxy's, and one that speaks TLS at
        once, for clients that are pointed here without a proxy. Returns both.
        """
        self._config.load()
        loop = asyncio.get_running_loop()
        proxy = await self._listen(lambda at: loop.create_server(lambda: Near(self._connected), LISTEN, at), port)
        context = await asyncio.to_thread(self.authority.context, "localhost")
        direct = await self._listen(lambda at: loop.create_server(self._http, LISTEN, at, ssl=context), direct_port)
        self._servers = [proxy, direct]
        return _port(proxy), _port(direct)

    async def stop(self) -> None:
        """Close everything; answers that go on are cut after a moment."""
        for server in self._servers:
            server.close()
        for connection in list(self._state.connections):
            connection.shutdown()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(2):
                while self._state.connections or self._state.tasks:
                    await asyncio.sleep(0.02)
        for request in list(self._state.tasks):
            request.cancel()
        await asyncio.gather(*self._state.tasks, return_exceptions=True)

    async def _listen(self, open_at: Any, port: int) -> asyncio.Server:
        try:
            server: asyncio.Server = await open_at(port)
        except OSError:
            if port == 0:
                raise
            server = await open_at(0)
        return server

    def _http(self) -> asyncio.Protocol:
        """A fresh connection of the HTTP server."""
        kind: Any = self._config.http_protocol_class
        protocol: asyncio.Protocol = kind(config=self._config, server_state=self._state, app_state={})
        return protocol

    def _connected(self, near: Near) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(near))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, near: Near) -> None:
        handed_on = False
        try:
            async with asyncio.timeout(HEAD_SECONDS):
                head = Head.parse(await near.reader.readuntil(b"\r\n\r\n"))
            if head.method == "CONNECT":
                handed_on = await self._connect(head, near)
            elif head.method == "GET" and urlsplit(head.target).path == TOKEN_PATH and head.target.startswith("/"):
                near.answer(*self._token(head))
            else:
                near.answer(405, "this is a proxy for CONNECT; plain HTTP goes to its host directly")
        except (ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
            near.answer(400, "the request's head cannot be read")
        except OSError:
            pass  # the client went away
        except Exception:
            log.exception("unexpected error in the proxy")
        finally:
            if not handed_on:
                near.transport.close()

    # CONNECT

    async def _connect(self, head: Head, near: Near) -> bool:
        """Serve a CONNECT; whether the connection lives on elsewhere."""
        host, port = _authority(head.target)
        try:
            upstream = self._admit(head.headers.get("proxy-authorization", ""))
        except TunesmithError as error:
            self.connections["refused"] += 1
            near.answer(407, str(error))
            return False
        if matches(host, (*self._caught, *SUNK)):
            self.connections["sunk" if matches(host, SUNK) else "azure"] += 1
            return await self._terminate(host, near)
        self.connections["tunnel"] += 1
        try:
            far_reader, far_writer = await upstream.open(host, port)
        except TunesmithError as error:
            near.answer(502, str(error))
            return False
        try:
            near.transport.write(ESTABLISHED)
            await asyncio.gather(forth(near, far_writer), back(far_reader, near))
        finally:
            far_writer.close()
        return False

    def _admit(self, authorization: str) -> Upstream:
        scheme, _, given = authorization.partition(" ")
        try:
            user, _, password = base64.b64decode(given, validate=True).decode("utf-8").partition(":")
        except (ValueError, binascii.Error):
            user, password = "", ""
        if scheme.lower() != "basic" or not Secrets.compare(password, self._keys.proxy_password):
            raise _NotAdmitted("this proxy belongs to a Tunesmith workspace; `tunesmith azure env` prints its address")
        return Upstream.from_user(user)

    async def _terminate(self, host: str, near: Near) -> bool:
        """Be ``host``: TLS, then the HTTP server's connection."""
        context = await asyncio.to_thread(self.authority.context, host.lower().rstrip("."))
        held = Held()
        loop = asyncio.get_running_loop()
        # Nothing may come between these two: the client speaks as soon as it reads the first, and TLS has to hear it.
        near.transport.write(ESTABLISHED)
        try:
            transport = await loop.start_tls(
                near.transport, held, context, server_side=True, ssl_handshake_timeout=HEAD_SECONDS
            )
        except (OSError, ssl.SSLError) as error:
            log.info("TLS with a client for %s failed: %s", host, error)
            return False
        if transport is None:
            return False
        protocol = self._http()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        for data in held.data:
            protocol.data_received(data)
        if held.lost:
            protocol.connection_lost(None)
        return True

    # The token endpoint

    def _token(self, head: Head) -> tuple[int, Any]:
        if not Secrets.compare(head.headers.get("x-identity-header", ""), self._keys.identity_header):
            return 401, "the identity header is wrong; `tunesmith azure env` prints the right one"
        asked = parse_qs(urlsplit(head.target).query)
        resource = asked.get("resource", [""])[0]
        if not resource:
            return 400, "the query has no resource"
        made = self._keys.issue(resource)
        return 200, {
            "access_token": made.token,
            "expires_on": str(made.expires_on),
            "resource": resource,
            "token_type": "Bearer",
        }


class _NotAdmitted(TunesmithError):
    code = "ProxyAuthenticationRequired"
    status = 407


def _authority(target: str) -> tuple[str, int]:
    host, separator, port = target.rpartition(":")
    if not separator or not port.isdigit() or not 0 < int(port) < 65536 or not host:
        raise ValueError(target)
    return host.strip("[]"), int(port)


def _port(server: asyncio.Server) -> int:
    return int(server.sockets[0].getsockname()[1])
