"""Shared access signatures: links to blobs that carry their own permission and end.

The form and the signed text are those of Azure's service SAS, so a token that is made elsewhere with the account's key
is good here too.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

from tunesmith.azure.blob_errors import BlobError
from tunesmith.storage.secrets import Secrets

VERSION = "2023-11-03"
"""Of the signed text; later versions of the service sign the same."""
OLDEST = "2020-12-06"
"""Versions before it sign another text."""
ALL = "racwdl"
"""Read, add, create, write, delete, list."""
CLOCK_SKEW = timedelta(minutes=15)

_SIGNED = ("sip", "spr", "sv", "sr", "snapshot", "ses", "rscc", "rscd", "rsce", "rscl", "rsct")
"""What is signed after the resource and the identifier, in this order."""


class SasKey:
    """Signs and checks for one storage account.

    Args:
        account: its name, which is a part of what is signed.
        key: the account's.
    """

    def __init__(self, account: str, key: bytes) -> None:
        self.account = account
        self._key = key

    def container_token(
        self, container: str, *, permissions: str = ALL, lifetime: timedelta = timedelta(hours=1)
    ) -> str:
        """A token for everything in a container, as a query string."""
        query = {
            "sv": VERSION,
            "st": _time(datetime.now(UTC) - CLOCK_SKEW),
            "se": _time(datetime.now(UTC) + lifetime),
            "sr": "c",
            "sp": permissions,
        }
        return urlencode({**query, "sig": self._sign(query, f"/blob/{self.account}/{container}")})

    def blob_token(
        self, container: str, blob: str, *, permissions: str = "r", lifetime: timedelta = timedelta(hours=1)
    ) -> str:
        """A token for one blob, as a query string."""
        query = {"sv": VERSION, "se": _time(datetime.now(UTC) + lifetime), "sr": "b", "sp": permissions}
        return urlencode({**query, "sig": self._sign(query, f"/blob/{self.account}/{container}/{blob}")})

    def check(self, query: Mapping[str, str], container: str, blob: str, needed: str) -> None:
        """Admit a request whose token has one of the permissions in ``needed``.

        Raises:
            BlobError: 403, saying what is wrong with the token.
        """
        version = query.get("sv", "")
        if version < OLDEST:
            raise _failed(f"the token has the version {version!r}, and {OLDEST} or later is wanted")
        scope = query.get("sr", "")
        if scope not in ("b", "c"):
            raise _failed(f"the token is for {scope!r}; tokens for a blob (b) or a container (c) are known")
        resource = f"/blob/{self.account}/{container}" + (f"/{blob}" if scope == "b" else "")
        if not Secrets.compare(query.get("sig", ""), self._sign(query, resource)):
            raise _failed("the signature is wrong")
        now = datetime.now(UTC)
        if not query.get("se"):
            raise _failed("the token has no end (se)")
        if query.get("st") and _moment(query["st"]) > now + timedelta(seconds=1):
            raise _failed(f"the token is not valid before {query['st']}")
        if _moment(query["se"]) <= now:
            raise _failed(f"the token ended at {query['se']}; ask for a new one")
        if not set(needed) & set(query.get("sp", "")):
            message = f"the token permits {query.get('sp', '')!r}, and one of {needed!r} is needed"
            raise BlobError(403, "AuthorizationPermissionMismatch", message)

    def _sign(self, query: Mapping[str, str], resource: str) -> str:
        parts = [query.get("sp", ""), query.get("st", ""), query.get("se", ""), resource, query.get("si", "")]
        parts += [query.get(name, "") for name in _SIGNED]
        return base64.b64encode(
            hmac.new(self._key, "\n".join(parts).encode("utf-8", "surrogatepass"), hashlib.sha256).digest()
        ).decode()


def _failed(why: str) -> BlobError:
    return BlobError(403, "AuthenticationFailed", f"Server failed to authenticate the request: {why}")


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise _failed(f"{text[:40]!r} is not a time") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
