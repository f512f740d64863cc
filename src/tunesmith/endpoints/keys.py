"""Keys and tokens that open an endpoint.

A key is 256 random bits. The two keys of an endpoint are kept encrypted (they must be shown again) and, in memory, as
keyed digests: what a caller sends is digested and compared in constant time against both, so neither the time nor a
memory dump of the routing table tells a key. Access tokens (``aml_token``) are signed with a secret of the endpoint
and expire.

Keys cannot be guessed, so the limiter's purpose is to keep a storm of wrong keys from costing time and log lines: it
slows callers with wrong keys and never one with a right key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable

_DIGEST_KEY = secrets.token_bytes(32)
TOKEN_PREFIX = "tse."


def new_key() -> str:
    """A fresh key: 43 characters, 256 random bits."""
    return secrets.token_urlsafe(32)


def digest(key: str) -> bytes:
    """A digest of ``key`` that only this process can compute."""
    return hmac.digest(_DIGEST_KEY, key.encode("utf-8", "surrogatepass"), "sha256")


def opens(presented: str, digests: tuple[bytes, ...]) -> bool:
    """Whether ``presented`` is one of the keys behind ``digests``; every one is compared, in constant time."""
    mine = digest(presented)
    found = False
    for other in digests:
        found |= hmac.compare_digest(mine, other)
    return found


def new_token(endpoint: str, signing_secret: str, *, lifetime_s: float, now: float | None = None) -> tuple[str, float]:
    """An access token for ``endpoint`` and when it expires, in Unix seconds."""
    expires = (time.time() if now is None else now) + lifetime_s
    payload = base64.urlsafe_b64encode(json.dumps({"endpoint": endpoint, "expires": expires}).encode()).decode()
    return f"{TOKEN_PREFIX}{payload}.{_sign(payload, signing_secret)}", expires


def token_opens(presented: str, endpoint: str, signing_secret: str, *, now: float | None = None) -> bool:
    """Whether ``presented`` is an unexpired access token of ``endpoint``."""
    if not presented.startswith(TOKEN_PREFIX):
        return False
    payload, _, signature = presented.removeprefix(TOKEN_PREFIX).partition(".")
    if not hmac.compare_digest(signature.encode("utf-8", "surrogatepass"), _sign(payload, signing_secret).encode()):
        return False
    try:
        body = json.loads(base64.urlsafe_b64decode(payload))
    except (ValueError, binascii.Error):
        return False
    return bool(body["endpoint"] == endpoint and body["expires"] > (time.time() if now is None else now))


def _sign(payload: str, signing_secret: str) -> str:
    mac = hmac.new(signing_secret.encode(), payload.encode("utf-8", "surrogatepass"), hashlib.sha256)
    return base64.urlsafe_b64encode(mac.digest()).decode()


class WrongKeyLimiter:
    """Counts wrong keys by caller in windows of a minute.

    ``blocked`` answers how many seconds the caller must wait, 0 when it may try. The table is bounded: the oldest
    callers are forgotten first.
    """

    def __init__(
        self,
        limit: int = 20,
        window_s: float = 60.0,
        *,
        callers: int = 4096,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = limit
        self._window = window_s
        self._callers = callers
        self._clock = clock
        self._counts: dict[str, tuple[float, int]] = {}

    def failed(self, caller: str) -> float:
        """Count one wrong key; return the seconds that ``caller`` must now wait (0: none)."""
        now = self._clock()
        since, count = self._counts.pop(caller, (now, 0))
        if now - since >= self._window:
            since, count = now, 0
        self._counts[caller] = (since, count + 1)
        while len(self._counts) > self._callers:
            self._counts.pop(next(iter(self._counts)))
        return 0.0 if count + 1 <= self._limit else max(0.0, self._window - (now - since))
