"""MLflow behind ``/mlflow``: its pages and its REST API, streamed through to the tracking child.

The child starts at the first request. The caller's token and cookies stay here; the child listens on loopback only.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse, Response, StreamingResponse

from tunesmith.errors import Unreachable
from tunesmith.server.dependencies import ServicesOf

if TYPE_CHECKING:
    import aiohttp

router = APIRouter(include_in_schema=False)

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
PAGE_POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; connect-src 'self'; base-uri 'self'; "
    "frame-ancestors 'self'"
)
"""MLflow's pages reach this server only: no usage data leaves the machine."""
ARTIFACT_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""An artifact may be a page that somebody wrote: shown as one, it must not act with the reader's session."""
ARTIFACTS = ("/get-artifact", "/mlflow-artifacts/")
KEPT_HERE = HOP_BY_HOP | {"host", "authorization", "cookie", "origin", "referer"}
"""Headers of a request that the child does not get: they are between the caller and this server."""


@router.get("/mlflow")
async def to_the_page() -> RedirectResponse:
    """MLflow's page lives below the slash."""
    return RedirectResponse("/mlflow/")


@router.api_route("/mlflow/{path:path}", methods=METHODS)
async def proxy(request: Request, services: ServicesOf, path: str) -> Response:
    """Pass a request on and stream its answer back."""
    import aiohttp

    base: str = await run_in_threadpool(services.tracking.ensure_running)
    session = _session(request)
    raw = request.scope.get("raw_path", request.url.path.encode()).decode("latin-1")
    url = base.rstrip("/") + services.tracking.map_path(raw.partition("?")[0])
    query = request.scope["query_string"].decode("latin-1")
    headers = [(name, value) for name, value in request.headers.items() if name not in KEPT_HERE]
    has_body = "content-length" in request.headers or "transfer-encoding" in request.headers
    try:
        answer = await session.request(
            request.method,
            _encoded(url + (f"?{query}" if query else "")),
            headers=headers,
            data=request.stream() if has_body else None,
            allow_redirects=False,
        )
    except aiohttp.ClientError as error:
        raise Unreachable(
            f"MLflow's server does not answer: {error}",
            target=str(services.paths.mlflow_log),
            way_out="look into its log; it is started again at the next request",
        ) from error
    response = StreamingResponse(_body(answer), status_code=answer.status)
    response.raw_headers = [
        (name.lower(), value) for name, value in answer.raw_headers if name.lower().decode("latin-1") not in HOP_BY_HOP
    ]
    for index, (name, value) in enumerate(response.raw_headers):
        if name == b"location" and value.startswith(base.encode()):
            response.raw_headers[index] = (name, value.removeprefix(base.rstrip("/").encode()) or b"/mlflow/")
    is_artifact = any(part in request.url.path for part in ARTIFACTS)
    response.headers["content-security-policy"] = ARTIFACT_POLICY if is_artifact else PAGE_POLICY
    response.headers["x-frame-options"] = "SAMEORIGIN"
    return response


async def _body(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    try:
        async for chunk in answer.content.iter_any():
            yield chunk
    finally:
        answer.release()


def _session(request: Request) -> aiohttp.ClientSession:
    connections: Connections = request.app.state.mlflow_connections
    return connections.session()


class Connections:
    """The connections to the child: made when MLflow is first asked for, closed with the server's loop."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    def session(self) -> aiohttp.ClientSession:
        """The one session."""
        import aiohttp

        if self._session is None:
            self._session = aiohttp.ClientSession(
                auto_decompress=False,
                trust_env=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=600),
            )
        return self._session

    async def aclose(self) -> None:
        """Close them."""
        if self._session is not None:
            await self._session.close()


def _encoded(url: str) -> Any:
    """The URL as it came: encoded once by the caller, not again."""
    from yarl import URL

    return URL(url, encoded=True)
