"""Who may call an endpoint: its keys, its tokens, and the check of what a caller presents."""

from __future__ import annotations

from typing import Literal

from tunesmith.endpoints import keys
from tunesmith.endpoints.routing import Route
from tunesmith.endpoints.table import EndpointTable, not_deleting
from tunesmith.errors import Conflict, Fault, NotAuthenticated, TooManyRequests, ValidationFailed
from tunesmith.records.endpoints import EndpointKeys, EndpointToken

KeyType = Literal["primary", "secondary"]
TOKEN_LIFETIME_S = 3600.0
REFRESH_BEFORE_S = 600.0
"""A client asks for its next token this long before the last one expires."""


class EndpointAccess:
    """Keys and tokens of the endpoints in a table. May be called from any thread."""

    def __init__(self, table: EndpointTable) -> None:
        self._table = table
        self._limiter = keys.WrongKeyLimiter()

    def keys(self, name: str) -> EndpointKeys:
        """Both keys, in clear."""
        with self._table.lock:
            document = self._table.endpoint(name)
            return EndpointKeys(
                primary_key=self._table.secrets.decrypt(document.primary_key),
                secondary_key=self._table.secrets.decrypt(document.secondary_key),
            )

    def regenerate_key(self, name: str, which: KeyType) -> EndpointKeys:
        """Replace one key; the other goes on opening the endpoint, and requests that run go on."""
        if which not in ("primary", "secondary"):
            raise ValidationFailed(
                f"{which!r} is not a key", details=[Fault("primary or secondary", target="key_type", code="Invalid")]
            )
        with self._table.lock:
            document = self._table.endpoint(name)
            not_deleting(document)
            fresh = self._table.secrets.encrypt(keys.new_key())
            self._table.keep_endpoint(document.model_copy(update={f"{which}_key": fresh}), rekeyed=True)
            return self.keys(name)

    def token(self, name: str) -> EndpointToken:
        """A short-lived access token, for an endpoint whose ``auth_mode`` is ``aml_token``.

        It is signed with the primary key, so regenerating that key revokes every token.
        """
        with self._table.lock:
            document = self._table.endpoint(name)
            if document.auth_mode != "aml_token":
                raise Conflict(
                    f"endpoint {name!r} uses keys, not tokens",
                    target="auth_mode",
                    way_out="read its keys, or update its auth_mode to aml_token",
                )
            secret = self._table.secrets.decrypt(document.primary_key)
        token, expires = keys.new_token(name, secret, lifetime_s=TOKEN_LIFETIME_S)
        return EndpointToken(
            access_token=token, expiry_time_utc=int(expires), refresh_after_time_utc=int(expires - REFRESH_BEFORE_S)
        )

    def authenticate(self, name: str, authorization: str | None, caller: str = "") -> Route:
        """The route of ``name`` if ``authorization`` (``Bearer KEY``) opens it.

        An endpoint that does not exist and a wrong key give the same answer, so names cannot be probed. Raises
        ``NotAuthenticated``, or ``TooManyRequests`` when ``caller`` (its address) has sent many wrong keys.
        """
        route = self._table.routes.get(name)
        scheme, _, presented = (authorization or "").partition(" ")
        presented = presented.strip() if scheme.lower() == "bearer" else ""
        if route is None:
            keys.opens(presented, (b"", b""))
        elif route.auth_mode == "key":
            if presented and keys.opens(presented, route.key_digests):
                return route
        elif presented and keys.token_opens(presented, name, route.signing_secret):
            return route
        wait = self._limiter.failed(caller)
        if wait:
            raise TooManyRequests("too many wrong keys from this address", extra={"retry_after": max(1, round(wait))})
        kind = "token" if route is not None and route.auth_mode == "aml_token" else "key"
        raise NotAuthenticated(
            f"no {kind}" if not presented else f"the {kind} does not open this endpoint",
            target="Authorization",
            way_out=f"send 'Authorization: Bearer KEY' with a {kind} of the endpoint "
            + ("(tokens expire; ask for a new one)" if kind == "token" else "(tunesmith endpoints keys NAME)"),
        )
