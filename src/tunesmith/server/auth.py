"""Who may speak to the server.

Three locks, in this order, before any route is reached:

* **Host**: a page that a browser loaded from elsewhere may point its own name at this machine (DNS rebinding); so the
  name that the request came by must be one of ours.
* **Origin**: a browser says which page a request comes from; pages of other origins are refused.
* **Token**: the native API and MLflow need the workspace's token, as a bearer, or, from a browser, as the session that
  a one-time link opened. Endpoints have keys of their own and check them where they are served.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Receive, Scope, Send

from tunesmith.errors import NotAllowed, NotAuthenticated, TunesmithError
from tunesmith.server.errors import error_response

SESSION_SECONDS = 12 * 3600
LINK_SECONDS = 600
GUARDED = ("/api/", "/mlflow/", "/mlflow", "/metrics")
"""What the token opens."""
HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]/@\s]+))(?::\d{1,5})?")
"""A Host header: a literal IPv6 address in brackets or a name, and a port."""
ORIGIN = re.compile(r"https?://([^/]+)")


@dataclass(frozen=True, slots=True)
class HostRule:
    """The names and addresses that the server may be called by.

    ``any_address``: the server listens beyond loopback, so any literal address is taken; a literal address cannot be
    rebound by a name server.
    """

    names: frozenset[str]
    any_address: bool

    @classmethod
    def of(cls, bound: str, allowed: Iterable[str] = ()) -> HostRule:
        """The rule for a server bound to ``bound`` that is also called by the names in ``allowed``."""
        names = {"localhost", bound.lower().strip("[]"), *(name.lower() for name in allowed)}
        beyond = not (bound == "localhost" or _is_loopback(bound))
        if beyond:
            names |= {socket.gethostname().lower()}
        return cls(frozenset(names), beyond)

    def admits(self, host: str) -> bool:
        """Whether ``host``, the value of a Host header, is one of ours. The port does not matter."""
        parts = HOST.fullmatch(host)
        if parts is None:
            return False
        name = (parts[1] or parts[2]).lower()
        if name in self.names or _is_loopback(name):
            return True
        return self.any_address and _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(name: str) -> bool:
    return _is_address(name) and ipaddress.ip_address(name).is_loopback


class Sessions:
    """Browser sessions: a one-time link opens one, a signed cookie carries it.

    The signature is keyed with the workspace's token, so sessions live on when the server restarts, and end when the
    token changes. Links are kept in memory only.
    """

    def __init__(self, token: str, workspace_id: str) -> None:
        self._key = hashlib.sha256(b"tunesmith session\0" + token.encode()).digest()
        self._links: dict[str, float] = {}
        # Cookies do not tell ports apart: two workspaces on one machine need two names.
        self.cookie = f"tunesmith-{workspace_id[:8]}"

    def new_link(self) -> str:
        """A code that opens one session, once, within ten minutes."""
        now = time.monotonic()
        self._links = {code: until for code, until in self._links.items() if until > now}
        code = secrets.token_urlsafe(32)
        self._links[code] = now + LINK_SECONDS
        return code

    def open(self, code: str) -> str:
        """The cookie's value for a code.

        Raises:
            NotAuthenticated: the code is wrong, used or too old.
        """
        found = next((known for known in self._links if hmac.compare_digest(known.encode(), code.encode())), None)
        if found is None or self._links.pop(found) < time.monotonic():
            raise NotAuthenticated(
                "this link was used already, or is too old", way_out="ask for a new one: Workspace().login_link()"
            )
        body = f"{int(time.time()) + SESSION_SECONDS}.{secrets.token_urlsafe(16)}"
        return f"{body}.{self._sign(body)}"

    def admits(self, value: str) -> bool:
        """Whether the cookie's value is one of ours and still good."""
        body, _, signature = value.rpartition(".")
        if not hmac.compare_digest(self._sign(body).encode(), signature.encode()):
            return False
        until = body.partition(".")[0]
        return until.isdigit() and int(until) > time.time()

    def _sign(self, body: str) -> str:
        return hmac.new(self._key, body.encode(), hashlib.sha256).hexdigest()


class Guard:
    """ASGI middleware: the three locks."""

    def __init__(self, app: ASGIApp, *, token: str, hosts: HostRule, sessions: Sessions) -> None:
        self._app = app
        self._token = hashlib.sha256(token.encode()).digest()
        self._hosts = hosts
        self._sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or hand on."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # no websockets here
            await send({"type": "websocket.close", "code": 1008})
            return
        refusal = self._refusal(scope["path"], scope["headers"])
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            await error_response(refusal)(scope, receive, send)

    def _refusal(self, path: str, raw: list[tuple[bytes, bytes]]) -> TunesmithError | None:
        hosts = [value.decode("latin-1") for name, value in raw if name == b"host"]
        if len(hosts) != 1 or not self._hosts.admits(hosts[0]):
            return NotAllowed(
                f"the server is not called {', '.join(hosts)[:200]!r}",
                target="Host",
                way_out="use its own address, or name this one in allowed_hosts (TUNESMITH_ALLOWED_HOSTS)",
            )
        origin = next((value.decode("latin-1") for name, value in raw if name == b"origin"), None)
        page = ORIGIN.fullmatch(origin) if origin is not None else None
        if origin is not None and (page is None or page[1].lower() != hosts[0].lower()):
            return NotAllowed(f"requests from pages of {origin[:200]!r} are refused", target="Origin")
        if not path.startswith(GUARDED):
            return None
        headers = Headers(raw=raw)
        authorization = headers.get("authorization")
        if authorization is not None:
            scheme, _, given = authorization.partition(" ")
            digest = hashlib.sha256(given.strip().encode("utf-8", "surrogateescape")).digest()
            if scheme.lower() == "bearer" and hmac.compare_digest(digest, self._token):
                return None
            return NotAuthenticated(
                "the token is wrong",
                target="Authorization",
                way_out="send `Authorization: Bearer TOKEN` with the token in the file `token` of the workspace folder",
            )
        cookies = cookie_parser(headers.get("cookie", ""))
        if self._sessions.admits(cookies.get(self._sessions.cookie, "")):
            return None
        return NotAuthenticated(
            "no token",
            target="Authorization",
            way_out="send `Authorization: Bearer TOKEN` with the token in the file `token` of the workspace folder; "
            "in a browser, open the link that Workspace().login_link() gives",
        )
