"""MLflow over ``azureml://``: its REST calls go to the workspace's MLflow, its artifacts to blob storage.

Two names differ between Azure and MLflow, and are translated: a job's run is called by the job's name there, and
artifacts lie at an ``azureml://`` URI, from which clients find run history's artifact calls.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool
from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from tunesmith.azure import arm
from tunesmith.azure.blob_account import StorageAccount
from tunesmith.azure.blob_places import MLFLOW, within
from tunesmith.azure.context import AzureContext
from tunesmith.errors import NotFound, Unreachable, ValidationFailed
from tunesmith.storage.names import safe_join
from tunesmith.storage.tables import JobRow

if TYPE_CHECKING:
    import httpx

LONGEST_NAME = 255
"""Bytes of a file's name, and so of a run's."""
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
_KEPT_HERE = frozenset(
    {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "host", "authorization", "cookie",
     "content-length", "origin", "referer"}
)  # fmt: skip
_URI = re.compile(r'"mlflow-artifacts:/+([^"]+?)/([^"/]+)/artifacts((?:/[^"]*)?)"')
_RUN_KEYS = ("run_id", "run_uuid")
_MLFLOW_ID = re.compile(r"[0-9a-f]{32}")


class ArtifactPath(arm.ArmBody):
    """One artifact to be written."""

    path: str
    tags: dict[str, str] | None = None


class ArtifactPaths(arm.ArmBody):
    """The artifacts that a client is about to write."""

    paths: list[ArtifactPath] = Field(default_factory=list)


def create_tracking_router(context: AzureContext) -> APIRouter:
    """MLflow's routes, and those of run history that its artifacts need."""
    face = _Tracking(context)
    router = APIRouter()
    router.add_api_route("/mlflow/api/2.0/preview/mlflow/runs/log-batch-async", face.log_later, methods=["POST"])
    router.add_api_route("/mlflow/api/2.0/preview/mlflow/runs/get-run-data-status", face.is_logged, methods=["GET"])
    router.add_api_route("/mlflow/{path:path}", face.forward, methods=METHODS)
    for base in ("/history/experiments/{experiment}", "/history/experimentids/{experiment}"):
        artifacts = f"{base}/runs/{{run}}/artifacts"
        router.add_api_route(f"{artifacts}/batch/metadata", face.begin, methods=["POST"])
        router.add_api_route(f"{artifacts}/contentinfo", face.content, methods=["GET"])
        router.add_api_route(f"{artifacts}/path", face.list_below, methods=["GET"])
        router.add_api_route(artifacts, face.list_all, methods=["GET"])
    return router


class _Tracking:
    def __init__(self, context: AzureContext) -> None:
        self._services = context.services
        self._account = StorageAccount(context)

    # ── MLflow's calls ──────────────────────────────────────────────────────────────────────────────────────────

    async def forward(self, request: Request, path: str) -> Response:
        """Pass a call on and answer it in Azure's names."""
        return await self._pass(request, f"/mlflow/{path}")

    async def log_later(self, request: Request) -> Response:
        """Logging in the background: done at once, so there is nothing to wait for."""
        answer = await self._pass(request, "/mlflow/api/2.0/mlflow/runs/log-batch")
        return JSONResponse({"batch_tracking_id": "done"}) if answer.status_code == 200 else answer

    async def is_logged(self) -> dict[str, bool]:
        """Whether what was logged in the background is there."""
        return {"is_complete": True}

    async def _pass(self, request: Request, path: str) -> Response:
        import httpx

        tracking = self._services.tracking
        base: str = await run_in_threadpool(tracking.ensure_running)
        query: list[tuple[str, str | int | float | bool | None]] = [
            (key, await self._run_id(key, value)) for key, value in request.query_params.multi_items()
        ]
        headers = [(name, value) for name, value in request.headers.items() if name not in _KEPT_HERE]
        content: Any = None
        # The body of an artifact is its own, whatever it holds.
        if "json" in request.headers.get("content-type", "") and "/mlflow-artifacts/" not in path:
            content = await self._translated(await request.body())
        elif "content-length" in request.headers or "transfer-encoding" in request.headers:
            content = request.stream()
        client = httpx.AsyncClient(trust_env=False, timeout=httpx.Timeout(600, connect=10))
        try:
            sent = client.build_request(
                request.method, base + tracking.map_path(path), params=query, headers=headers, content=content
            )
            answer = await client.send(sent, stream=True)
        except httpx.HTTPError as error:
            await client.aclose()
            raise Unreachable(
                f"MLflow's server does not answer: {error}",
                target=str(self._services.paths.mlflow_log),
                way_out="look into its log; it is started again at the next request",
            ) from error
        kept = {name: value for name, value in answer.headers.items() if name == "content-type"}
        if "json" not in answer.headers.get("content-type", ""):
            return StreamingResponse(_pieces(client, answer), answer.status_code, headers=kept)
        try:
            text = (await answer.aread()).decode("utf-8")
        finally:
            await answer.aclose()
            await client.aclose()
        host = arm.api_url(request).removeprefix("https://")
        place = f"azureml://{host}/mlflow/v2.0{arm.workspace_id(request)}/experiments"
        return Response(_URI.sub(rf'"{place}/\1/runs/\2/artifacts\3"', text), answer.status_code, headers=kept)

    async def _translated(self, body: bytes) -> bytes:
        """A body whose run is named as MLflow knows it.

        Raises:
            ValidationFailed: it is no JSON; MLflow's own server would answer with a 500, which its clients send again.
        """
        try:
            read = json.loads(body) if body.strip() else {}
        except (ValueError, RecursionError) as error:
            raise ValidationFailed(f"the body is no JSON: {error}", target="body") from None
        if not isinstance(read, dict):
            raise ValidationFailed("the body must be a JSON object", target="body")
        for key in _RUN_KEYS:
            if isinstance(read.get(key), str):
                read[key] = await self._run_id(key, read[key])
        return json.dumps(read).encode()

    async def _run_id(self, key: str, value: str) -> str:
        """MLflow's id of a run that is named by its job."""
        if key not in _RUN_KEYS or _MLFLOW_ID.fullmatch(value):
            return value
        return await run_in_threadpool(self._run_of_job, value) or value

    def _run_of_job(self, job: str) -> str | None:
        with self._services.database.reading() as session:
            row = session.get(JobRow, job)
        if row is None:
            return None
        # The mirror makes it a little after the job; who asks for it before makes it now.
        return row.mlflow_run_id or self._services.tracking.start_run(job)

    # ── artifacts ───────────────────────────────────────────────────────────────────────────────────────────────

    def begin(self, request: Request, experiment: str, run: str, body: arm.Json) -> dict[str, Any]:
        """Where a client is to write the artifacts that it names."""
        paths = [entry.path for entry in arm.read_body(ArtifactPaths, body).paths]
        for path in paths:
            safe_join(self._folder(experiment, run), path, target="paths")
        return {
            "artifacts": {path: self._named(run, path) for path in paths},
            "artifactContentInformation": {
                path: self._content(request, experiment, run, path, "cwr") for path in paths
            },
            "errors": {},
        }

    def content(self, request: Request, experiment: str, run: str, path: str) -> dict[str, Any]:
        """Where an artifact is read."""
        if not safe_join(self._folder(experiment, run), path, target="path").is_file():
            raise NotFound(f"the run {run[:80]} has no artifact {path[:300]!r}", target="path")
        return self._content(request, experiment, run, path, "r")

    def list_all(self, experiment: str, run: str) -> dict[str, Any]:
        """Every artifact of a run."""
        return self._listed(experiment, run, "")

    def list_below(self, experiment: str, run: str, path: str = "") -> dict[str, Any]:
        """The artifacts of a run below a folder."""
        return self._listed(experiment, run, path)

    def _listed(self, experiment: str, run: str, below: str) -> dict[str, Any]:
        root = self._folder(experiment, run)
        files = sorted(
            path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file() and within(path, root)
        )
        found = [name for name in files if name.startswith(below)]
        return {"value": [self._named(run, name) for name in found], "continuationToken": None, "nextLink": None}

    def _folder(self, experiment: str, run: str) -> Path:
        root = self._services.paths.mlflow_artifacts
        for field, name in (("experiment", experiment), ("run", run)):
            if len(name.encode("utf-8", "surrogatepass")) > LONGEST_NAME:
                raise NotFound(f"there is no {field} {name[:80]!r}…", target=field)
        return safe_join(root, f"{experiment}/{self._known(run)}/artifacts", target="run")

    def _known(self, run: str) -> str:
        return run if _MLFLOW_ID.fullmatch(run) else self._run_of_job(run) or run

    def _content(self, request: Request, experiment: str, run: str, path: str, permissions: str) -> dict[str, Any]:
        blob = f"{experiment}/{self._known(run)}/artifacts/{path}"
        token = self._account.sas.blob_token(MLFLOW, blob, permissions=permissions)
        return {**self._named(run, path), "contentUri": f"{self._account.url(request, MLFLOW, blob)}?{token}"}

    @staticmethod
    def _named(run: str, path: str) -> Mapping[str, Any]:
        return {"origin": "ExperimentRun", "container": f"dcid.{run}", "path": path, "tags": {}}


async def _pieces(client: httpx.AsyncClient, answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for piece in answer.aiter_bytes():
            yield piece
    finally:
        await answer.aclose()
        await client.aclose()
