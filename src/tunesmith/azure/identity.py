"""The secrets of the Azure face: access tokens, and what the proxy and the token endpoint ask for.

All are derived from the workspace's token, so they live on when the server restarts and end when that token changes.
An access token is a JWT with an HMAC: the SDK reads its claims, and only this server has to believe it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunesmith.errors import NotAuthenticated

TOKEN_SECONDS = 24 * 3600
"""Azure's own life of a token for a managed identity."""
RESOURCES = frozenset(
    {
        "https://management.azure.com",
        "https://management.core.windows.net",
        "https://ml.azure.com",
        "https://storage.azure.com",
        "https://ml.azure.local",
    }
)
"""What tokens are made for; the last one where no proxy is used. Beside these: the server's own address."""
OWN_ADDRESS = "https://localhost:"
WAY_OUT = "run the script through `tunesmith azure run`, which gives it a credential"


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A token and when it ends, in Unix seconds."""

    token: str
    expires_on: int


class AzureKeys:
    """Everything secret of this face.

    Args:
        token: the workspace's.
        workspace_id: a UUID; it stands for the tenant, too.
    """

    def __init__(self, token: str, workspace_id: str) -> None:
        self._root = hashlib.sha256(b"tunesmith azure\0" + token.encode()).digest()
        self.workspace_id = workspace_id

    def derive(self, purpose: str) -> bytes:
        """32 secret bytes for one purpose; the same after a restart."""
        return hmac.new(self._root, purpose.encode(), hashlib.sha256).digest()

    @property
    def identity_header(self) -> str:
        """What the token endpoint asks for in ``X-IDENTITY-HEADER``."""
        return self.derive("identity header").hex()

    @property
    def proxy_password(self) -> str:
        """What the proxy asks for."""
        return self.derive("proxy").hex()

    def issue(self, resource: str, *, seconds: int = TOKEN_SECONDS) -> AccessToken:
        """A token for ``resource``; its audience is that resource, letter by letter."""
        now = int(time.time())
        claims = {
            "aud": resource,
            "iss": f"https://sts.windows.net/{self.workspace_id}/",
            "iat": now,
            "nbf": now,
            "exp": now + seconds,
            "appid": self.workspace_id,
            "oid": self.workspace_id,
            "sub": self.workspace_id,
            "tid": self.workspace_id,
            "idtyp": "app",
            "ver": "1.0",
        }
        signed = f"{_encode({'alg': 'HS256', 'typ': 'JWT'})}.{_encode(claims)}"
        return AccessToken(f"{signed}.{self._signature(signed)}", now + seconds)

    def check(self, authorization: str | None) -> Mapping[str, Any]:
        """The claims of the token in an ``Authorization`` header.

        Raises:
            NotAuthenticated: there is none, it is not ours, it is for another resource, or its time is over.
        """
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise _refused("the request has no access token")
        signed, _, signature = token.strip().rpartition(".")
        if not hmac.compare_digest(self._signature(signed).encode(), signature.encode("utf-8", "surrogateescape")):
            raise _refused("the access token was not made by this workspace")
        claims = _decode(signed.partition(".")[2])
        audience = str(claims.get("aud", "")).rstrip("/")
        if audience not in RESOURCES and not audience.startswith(OWN_ADDRESS):
            raise _refused(f"the access token is for {claims.get('aud')!r}")
        if claims["exp"] <= time.time():
            raise _refused("the access token's time is over")
        return claims

    def _signature(self, signed: str) -> str:
        key = self.derive("access token")
        return _text(hmac.new(key, signed.encode("utf-8", "surrogateescape"), hashlib.sha256).digest())


def _refused(message: str) -> NotAuthenticated:
    return NotAuthenticated(message, target="Authorization", way_out=WAY_OUT)


def _encode(part: Mapping[str, Any]) -> str:
    return _text(json.dumps(part, separators=(",", ":")).encode())


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def _decode(part: str) -> Mapping[str, Any]:
    try:
        claims: Mapping[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (ValueError, binascii.Error):
        raise _refused("the access token cannot be read") from None
    return claims
