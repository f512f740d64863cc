"""A small real server for endpoints: database, controller, gateway, faces, on a free loopback port.
 ``House`` runs it in a thread of the test process. As a program (``python -m tests.support.house HOME PORT MODEL…``)
it is a server process that can be killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
import uvicorn
from fastapi import FastAPI, Response

from tests.support.exports import shared_exports
from tunesmith.endpoints.controller import EndpointController
from tunesmith.endpoints.gateway import Gateway
from tunesmith.endpoints.pool import InstancePool
from tunesmith.endpoints.service import EndpointService
from tunesmith.errors import NotFound
from tunesmith.records.assets import ModelVersion
from tunesmith.records.base import utcnow
from tunesmith.records.endpoints import CreateDeployment, CreateEndpoint, Deployment, ProbeSettings, RequestSettings
from tunesmith.server.app import add_faces
from tunesmith.storage.database import Database
from tunesmith.storage.paths import WorkspacePaths
from tunesmith.storage.secrets import Secrets

T = TypeVar("T")

QUICK = ProbeSettings(initial_delay=0, period=1, timeout=5, failure_threshold=3)


def until(condition: Callable[[], T | None], what: str, seconds: float = 60.0) -> T:
    """Wait until ``condition`` gives something true, and return it; fail with ``what`` after ``seconds``."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"waited {seconds:g} s for: {what}"
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def port_is_free(port: int) -> bool:
    with contextlib.closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def has_ended(pid: int | None) -> bool:
    """Whether no process ``pid`` runs; one that nobody reaped yet has ended."""
    assert pid is not None
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class Resolver:
    """Model references to folders, as the assets' service would."""

    def __init__(self, models: dict[str, Path]) -> None:
        self.models = models

    def __call__(self, reference: str) -> ModelVersion:
        name, _, version = reference.removeprefix("azureml:").partition(":")
        if name not in self.models:
            raise NotFound(f"there is no model {name!r}", target="model")
        return ModelVersion(
            registry="workspace",
            name=name,
            version=version or "1",
            id=f"azureml:{name}:{version or '1'}",
            created_at=utcnow(),
            state="imported",
            path=str(self.models[name]),
        )


class Rooms:
    """What a server holds for endpoints."""

    def __init__(
        self,
        home: Path,
        models: dict[str, Path],
        base_url: str,
        *,
        controller: bool = True,
        exports: Path | None = None,
    ) -> None:
        self._controlled = controller
        self.paths = WorkspacePaths(home)
        self.paths.make()
        self.database = Database(self.paths.database_file)
        self.resolver = Resolver(models)
        self.service = EndpointService(
            self.database,
            Secrets(self.paths),
            self.resolver,
            folder=self.paths.endpoints,
            base_url=lambda: base_url,
        )
        self.pool = InstancePool()
        self.controller = EndpointController(self.service, self.pool, exports=exports or shared_exports())
        self.gateway = Gateway(self.service, self.pool)

    def app(self) -> FastAPI:
        @contextlib.asynccontextmanager
        async def life(_: FastAPI) -> Any:
            if self._controlled:
                await self.controller.start()
            yield
            await self.gateway.close()
            await self.controller.stop()
            self.database.close()

        app = FastAPI(lifespan=life)
        add_faces(app, self.gateway, self.service)

        @app.get("/state/{endpoint}/{deployment}")
        def state(endpoint: str, deployment: str) -> Response:
            return Response(self.service.get_deployment(endpoint, deployment).model_dump_json())

        return app


class House:
    """The server in a thread of this process."""

    def __init__(
        self,
        home: Path,
        models: dict[str, Path],
        *,
        controller: bool = True,
        port: int | None = None,
        exports: Path | None = None,
    ) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.rooms = Rooms(home, models, self.url, controller=controller, exports=exports)
        self.service = self.rooms.service
        self.controller = self.rooms.controller
        self.pool = self.rooms.pool
        self.gateway = self.rooms.gateway
        self._server = uvicorn.Server(
            uvicorn.Config(self.rooms.app(), host="127.0.0.1", port=self.port, log_level="warning", access_log=False)
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="house", daemon=True)

    def _run(self) -> None:
        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            await self._server.serve()

        asyncio.run(serve())

    def start(self) -> House:
        self._thread.start()
        until(lambda: self._server.started, "the server to start")
        return self

    def __enter__(self) -> House:
        return self.start()

    def __exit__(self, *_: Any) -> None:
        self.close()

    def stop(self) -> None:
        """Stop the server; instances go on."""
        self._server.should_exit = True
        self._thread.join(30)
        assert not self._thread.is_alive()

    def close(self) -> None:
        """Delete everything and stop."""
        for endpoint in self.service.list():
            self.service.delete(endpoint.name)
        until(lambda: not self.service.list(), "the endpoints to go")
        self.stop()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work`` on the server's loop."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def deploy(self, endpoint: str, deployment: str, model: str, *, wait: bool = True, **changes: Any) -> Deployment:
        """An endpoint (made if missing) with a deployment, up unless ``wait`` is false."""
        if endpoint not in [known.name for known in self.service.list()]:
            self.service.create_or_update(CreateEndpoint(name=endpoint))
        request = CreateDeployment(
            **{
                "name": deployment,
                "endpoint": endpoint,
                "model": model,
                "engine": "openvino",
                "precision": "32",
                "readiness_probe": QUICK,
                "liveness_probe": QUICK,
                "request_settings": RequestSettings(request_timeout_ms=60_000, max_queue_wait_ms=30_000),
                **changes,
            }
        )
        record = self.service.create_or_update_deployment(request)
        return self.ready(endpoint, deployment) if wait else record

    def ready(self, endpoint: str, deployment: str) -> Deployment:
        """Wait until the deployment is up."""

        def up() -> Deployment | None:
            record = self.service.get_deployment(endpoint, deployment)
            assert record.provisioning_state != "Failed", (record.error, record.log_tail)
            return record if record.provisioning_state == "Succeeded" else None

        return until(up, f"{endpoint}/{deployment} to be ready", 180)

    def client(self, endpoint: str, **options: Any) -> httpx.Client:
        """An HTTP client with the endpoint's key and base URL."""
        key = self.service.keys(endpoint).primary_key
        return httpx.Client(
            base_url=f"{self.url}/endpoints/{endpoint}",
            headers={"authorization": f"Bearer {key}"},
            timeout=60,
            trust_env=False,
            **options,
        )


def main() -> None:
    home, port, *models = sys.argv[1:]
    rooms = Rooms(Path(home), {name: Path(path) for name, path in (m.split("=", 1) for m in models)}, "")
    print(json.dumps({"port": port}), flush=True)
    uvicorn.run(rooms.app(), host="127.0.0.1", port=int(port), log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
