"""The gateway's connections to the instances."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import aiohttp
from yarl import URL

from tunesmith.endpoints.documents import SECRET_HEADER
from tunesmith.endpoints.pool import Target
from tunesmith.errors import ModelFailed, TunesmithError, Unavailable, UserError, error_from_dict

GONE = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, ConnectionError)
"""What says that an instance is not there any more."""


class InstanceClient:
    """One pool of connections, opened with the first request. For one event loop."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    def post(self, target: Target, path: str, body: bytes) -> Any:
        """Send ``body`` to an instance; await it, or enter it, for the response."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30.0),
                timeout=aiohttp.ClientTimeout(total=None),
                auto_decompress=False,
                trust_env=False,
                headers={"content-type": "application/json"},
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("accept", "accept-encoding", "user-agent"),
            )
        return self._session.post(_url(target.url + path), data=body, headers={SECRET_HEADER: target.secret})

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None


@lru_cache(maxsize=256)
def _url(text: str) -> URL:
    """Parsed once for each instance and path."""
    return URL(text)


def instance_error(body: Any, status: int) -> TunesmithError:
    """An instance's error as the caller gets it: what the request did wrong as it is, what the model did wrong as
    424."""
    error = error_from_dict(body if isinstance(body, dict) else {}, status=status)
    if isinstance(error, UserError) and status != 401:
        return error
    if isinstance(error, Unavailable):
        return error
    return ModelFailed(
        error.message,
        target=error.target,
        way_out=error.way_out or "look at the deployment's log",
        details=error.details,
        extra={**error.extra, "model_status": error.status, "model_reason": error.code},
    )
