"""MLflow's tracking server as a process of its own: ``python -m tunesmith.tracking.child FOLDER``.

Imports MLflow (half a gigabyte, some seconds), so nothing else imports this module. It

- listens on a loopback port of its own choice, and writes port and pid to ``FOLDER/child.json`` once it answers;
- answers only below a secret path, which it reads from its standard input's first line: no other user of the machine
  can use it, and the face in front has checked the token, the host and the origin already;
- ends when its standard input ends, so that it never outlives the server, however that ended;
- hides the parts of MLflow that reach for the network or run commands (its assistant, its gateway to model vendors).
"""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from tunesmith.starting import starting
from tunesmith.storage.atomic import write_json

PREFIX = "/mlflow"
"""The path below which MLflow is reached."""

HIDDEN = ("/ajax-api/3.0/mlflow/assistant", "/api/3.0/mlflow/assistant", "/gateway", "/ajax-api/3.0/mlflow/gateway")

ARTIFACT_ROUTES = ("/api/2.0/mlflow-artifacts/artifacts/", "/ajax-api/2.0/mlflow-artifacts/artifacts/")
"""MLflow streams artifacts on these paths, but only without its prefix; below it they go through memory."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Shield:
    """The ASGI application around MLflow's: the secret, the hidden parts, the artifact routes."""

    def __init__(self, app: App, secret: str) -> None:
        self._app = app
        self._secret = secret

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what carries the secret."""
        if scope["type"] != "http":
            return
        _, _, rest = str(scope["path"]).partition("/")
        given, _, inner = rest.partition("/")
        path = f"/{inner}"
        if not hmac.compare_digest(given.encode("utf-8", "replace"), self._secret.encode()):
            await _answer(send, 403, "this port answers to its own server only")
            return
        if path.startswith(tuple(PREFIX + hidden for hidden in HIDDEN)):
            await _answer(send, 404, "this part of MLflow is not offered here: it would reach for the network")
            return
        raw = bytes(scope.get("raw_path") or scope["path"].encode())
        raw = raw[len(given) + 1 :]
        if path.startswith(tuple(PREFIX + route for route in ARTIFACT_ROUTES)):
            path, raw = path.removeprefix(PREFIX), raw.removeprefix(PREFIX.encode())
        await self._app({**scope, "path": path, "raw_path": raw}, receive, send)


async def _answer(send: Send, status: int, message: str) -> None:
    body = json.dumps({"error_code": "PERMISSION_DENIED" if status == 403 else "NOT_FOUND", "message": message})
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body.encode()})


def configuration(folder: Path) -> dict[str, str]:
    """The environment that makes MLflow use the store in ``folder``.

    The names with an underscore are how MLflow's own command line hands its options to its server.
    """
    return {
        "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{folder / 'mlflow.db'}",
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(folder / "artifacts"),
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_STATIC_PREFIX": PREFIX,
        "_MLFLOW_SGI_NAME": "uvicorn",
        # Host and origin were checked by the face in front; here only it is let in.
        "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }


def main(arguments: list[str]) -> None:
    """Serve until standard input ends."""
    folder = Path(arguments[0])
    secret = sys.stdin.readline().strip()
    if not secret:
        sys.exit("no secret on standard input")
    os.environ.update(configuration(folder))
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(256)
        asyncio.run(_serve(folder, secret, listening))
    # Taking down half a gigabyte of modules would make whoever stops the server wait for a second.
    sys.stdout.flush()
    os._exit(0)


async def _serve(folder: Path, secret: str, listening: socket.socket) -> None:
    with starting():
        import uvicorn
        from mlflow.server import constants
        from mlflow.server.fastapi_app import app
        from mlflow.server.handlers import _get_tracking_store

    wanted = configuration(folder)
    for name in (constants.BACKEND_STORE_URI_ENV_VAR, constants.ARTIFACTS_DESTINATION_ENV_VAR):
        if name not in wanted:
            raise RuntimeError(f"this MLflow reads its store from {name}, which is not known here")
    # Makes or migrates the database now, so that no request has to wait for it or meets it half made.
    await asyncio.to_thread(_get_tracking_store)
    server = uvicorn.Server(
        uvicorn.Config(
            Shield(app, secret), lifespan="off", log_config=None, access_log=False, ws="none", server_header=False
        )
    )
    loop = asyncio.get_running_loop()

    def wait_for_end() -> None:
        while sys.stdin.readline():
            pass
        loop.call_soon_threadsafe(setattr, server, "should_exit", True)
        loop.call_soon_threadsafe(setattr, server, "force_exit", True)

    threading.Thread(target=wait_for_end, daemon=True).start()
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    if not serving.done():
        # From here on training has the first word on the processor; until here somebody waits for us.
        os.nice(5)
        write_json(folder / "child.json", {"port": listening.getsockname()[1], "pid": os.getpid()})
    await serving


if __name__ == "__main__":
    main(sys.argv[1:])
