"""The proxy that a user has already: what goes through it, and how a connection through it is opened.

The variables are those of the process that runs the script, not of the server; so they travel in the user name of our
proxy's URL, and the server keeps nothing about them.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import ipaddress
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from tunesmith.errors import Unreachable, ValidationFailed

PLAIN_USER = "tunesmith"
"""The user name where no other proxy is in use."""
HEAD_BYTES = 65536
CONNECT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Upstream:
    """A proxy for what is not ours, and the hosts that are reached without it."""

    url: str = ""
    """http://[user:password@]host:port; empty: everything is reached directly."""
    no_proxy: tuple[str, ...] = ()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Upstream:
        """From HTTPS_PROXY, ALL_PROXY and NO_PROXY, in either case; the lower case counts first, as it does for curl.

        Raises:
            ValidationFailed: a proxy of a kind that cannot be used.
        """
        values = {
            name: environment.get(name.lower()) or environment.get(name) or ""
            for name in ("HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
        }
        variable = "HTTPS_PROXY" if values["HTTPS_PROXY"] else "ALL_PROXY"
        url = values[variable]
        if url and "://" not in url:
            url = f"http://{url}"
        if url and urlsplit(url).scheme not in {"http", "https"}:
            raise ValidationFailed(
                f"a proxy of the kind {urlsplit(url).scheme!r} cannot stand behind this one",
                target=variable,
                way_out="give an http:// or https:// proxy, or unset the variable for this command",
            )
        try:
            known = not url or (urlsplit(url).hostname and urlsplit(url).port != 0)
        except ValueError:
            known = False
        if not known:
            raise ValidationFailed(
                "the proxy's URL has no host, or a port that is none",
                target=variable,
                way_out="write it as http://HOST:PORT, or unset the variable for this command",
            )
        return cls(url, split_no_proxy(values["NO_PROXY"]) if url else ())

    @property
    def user(self) -> str:
        """The user name that says it to our proxy."""
        if not self.url:
            return PLAIN_USER
        text = json.dumps([self.url, *self.no_proxy], separators=(",", ":"))
        return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode("ascii")

    @classmethod
    def from_user(cls, user: str) -> Upstream:
        """What a user name says.

        Raises:
            ValidationFailed: it cannot be read.
        """
        if user == PLAIN_USER:
            return cls()
        try:
            values = json.loads(base64.urlsafe_b64decode(user + "=" * (-len(user) % 4)))
        except (ValueError, binascii.Error):
            values = None
        if not isinstance(values, list) or not values or not all(isinstance(value, str) for value in values):
            raise ValidationFailed("the user name of the proxy's URL cannot be read", target="Proxy-Authorization")
        return cls(values[0], tuple(values[1:]))

    @property
    def port(self) -> int:
        """The proxy's port; where the URL has none, that of its scheme."""
        parts = urlsplit(self.url)
        return parts.port or (443 if parts.scheme == "https" else 80)

    def serves(self, host: str) -> bool:
        """Whether ``host`` is reached through the proxy."""
        return bool(self.url) and not any(excludes(entry, host) for entry in self.no_proxy)

    async def open(self, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to ``host``.

        Raises:
            Unreachable: with what went wrong.
        """
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                if not self.serves(host):
                    return await asyncio.open_connection(host, port)
                return await self._through(host, port)
        except (OSError, TimeoutError, UnicodeError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            where = f" through the proxy {urlsplit(self.url).hostname}" if self.serves(host) else ""
            cause = str(error) or f"no answer within {CONNECT_SECONDS:g} s"
            raise Unreachable(f"{host}:{port} cannot be reached{where}: {cause}") from error

    async def _through(self, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        parts = urlsplit(self.url)
        secure = parts.scheme == "https"
        reader, writer = await asyncio.open_connection(
            parts.hostname,
            self.port,
            ssl=ssl.create_default_context() if secure else None,
            limit=HEAD_BYTES,
        )
        try:
            authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
            if parts.username is not None:
                pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
                lines.append(f"Proxy-Authorization: Basic {base64.b64encode(pair.encode()).decode('ascii')}")
            writer.write("\r\n".join([*lines, "", ""]).encode())
            await writer.drain()
            head = await reader.readuntil(b"\r\n\r\n")
            status = head.split(b"\r\n", 1)[0].decode("latin-1")
            if status.split(" ")[1:2] != ["200"]:
                raise ConnectionRefusedError(f"it answered {status!r}")
        except BaseException:
            writer.close()
            raise
        return reader, writer


def split_no_proxy(text: str) -> tuple[str, ...]:
    """The entries of a NO_PROXY variable."""
    return tuple(entry.strip() for entry in text.replace(" ", ",").split(",") if entry.strip())


def excludes(entry: str, host: str) -> bool:
    """Whether an entry of NO_PROXY stands for ``host``: ``*``, a name with what is below it, an address, a network."""
    name = host.lower().strip("[]").rstrip(".")
    wanted = entry.lower().partition(":")[0] if entry.count(":") == 1 else entry.lower()
    if wanted == "*":
        return True
    try:
        return ipaddress.ip_address(name) in ipaddress.ip_network(wanted, strict=False)
    except ValueError:
        wanted = wanted.removeprefix("*").removeprefix(".")
        return bool(wanted) and (name == wanted or name.endswith(f".{wanted}"))
