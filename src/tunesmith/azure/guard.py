"""Who may use the Azure face: whoever has a token that the workspace made for Azure's resources.

Not asked for a token here: blobs (they have a signature in the URL), scoring (endpoints have keys), and the documents
that clients read before they have a token.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from tunesmith.azure.errors import error_response
from tunesmith.azure.identity import AzureKeys
from tunesmith.errors import NotAuthenticated

OPEN = ("/blob/", "/endpoints/", "/metadata/", "/discovery", "/registrymanagement/")
"""Short paths that look after themselves."""


class BearerGuard:
    """ASGI middleware. Stands inside ``ShortPaths``."""

    def __init__(self, app: ASGIApp, *, keys: AzureKeys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or hand on."""
        if scope["type"] == "http" and not scope["path"].startswith(OPEN):
            try:
                self._keys.check(Headers(scope=scope).get("authorization"))
            except NotAuthenticated as error:
                await error_response(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)
