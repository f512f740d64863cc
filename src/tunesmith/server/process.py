"""The server as a process: the lock, the port, the log, ``server.json`` and the end.

Order matters: the lock first, so that two servers never touch one database; the port next, so that a port in use is
said before anything is opened; then the workspace; then ``server.json``, by which others find the server.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import fcntl
import json
import logging
import logging.handlers
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import uvicorn

from tunesmith._version import __version__
from tunesmith.errors import Conflict, NotAllowed, TunesmithError, UserError
from tunesmith.records.workspace import ServerAddress
from tunesmith.server.memory import settle
from tunesmith.settings import DEFAULT_PORT, Settings, load_settings
from tunesmith.storage.atomic import write_text
from tunesmith.storage.paths import WorkspacePaths

log = logging.getLogger("tunesmith.server")

GRACE_SECONDS = 10
"""How long requests in flight may go on once the server was told to stop."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a server until it is told to stop; the exit status: 0, 1 for a failure, 2 for a user's mistake."""
    options = _parser().parse_args(arguments)
    overrides = {key: value for key, value in vars(options).items() if key != "workspace" and value is not None}
    try:
        settings = load_settings(options.workspace, **overrides)
        run(settings)
    except TunesmithError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def run(settings: Settings) -> None:
    """Serve the workspace of ``settings`` until SIGTERM, SIGINT or ``POST /api/v1/shutdown``.

    Jobs and the instances of deployments go on, and the next server finds them again.

    Raises:
        Conflict: another server holds this workspace, or the port is in use.
        NotAllowed: the address is not loopback, and neither TLS nor the explicit flag is there.
    """
    refuse_open_address(settings)
    paths = WorkspacePaths(settings.home)
    paths.make()
    with _lock(paths), _listen(settings, paths) as listening:
        _start_log(paths, settings.log_level)
        url = _url(settings, listening.getsockname()[1])
        write_text(_port_file(paths), f"{listening.getsockname()[1]}\n", mode=0o600)
        try:
            with asyncio.Runner(loop_factory=_quickest_loop()) as runner:
                runner.run(_serve(settings, paths, listening, url))
        except TunesmithError:
            raise
        except Exception:
            log.exception("the server ended by an unexpected error")
            raise
        finally:
            paths.server_file.unlink(missing_ok=True)


def refuse_open_address(settings: Settings) -> None:
    """Refuse an address that others can reach, unless the traffic is encrypted or the user says so.

    Raises:
        NotAllowed: with the three ways out.
    """
    if settings.loopback or settings.tls or settings.allow_remote:
        return
    raise NotAllowed(
        f"listening on {settings.host} would send the token and the conversations over the network unencrypted",
        target="host",
        way_out="stay on 127.0.0.1 (and use an SSH tunnel), give --tls-certificate and --tls-key, "
        "or say --allow-remote where the network itself is trusted",
    )


def _quickest_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's event loop where the platform has it (not on Windows); None is Python's own."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


class _Server(uvicorn.Server):
    """uvicorn's server without its signal handlers: the process stops by the lifecycle, in one way."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield


async def _serve(settings: Settings, paths: WorkspacePaths, listening: socket.socket, url: str) -> None:
    from tunesmith.server.app import create_app
    from tunesmith.server.http_protocol import LimitedHttp
    from tunesmith.server.lifecycle import Lifecycle
    from tunesmith.workspace import open_workspace

    services = open_workspace(settings)
    try:
        lifecycle = Lifecycle(url=url)
        app = create_app(services, lifecycle)
        config = uvicorn.Config(
            app,
            http=LimitedHttp,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            lifespan="on",
            ws="none",
            timeout_keep_alive=75,
            timeout_graceful_shutdown=GRACE_SECONDS,
            ssl_certfile=settings.tls_certificate,
            ssl_keyfile=settings.tls_key,
        )
        server = _Server(config)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, lifecycle.stop)
        # The socket listens already: who comes before the application is ready waits in its queue. So the address can
        # be told first, and what the application starts (runners, instances) finds it.
        _announce(settings, paths, url, services.id)
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.005)
        if server.started:
            log.info("tunesmith %s serves %s at %s", __version__, settings.home, url)
            print(f"Serving {settings.home} at {url} (process {os.getpid()}). Stop with Ctrl-C.", flush=True)
            settle()
        stopping = asyncio.create_task(lifecycle.stopping.wait())
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        paths.server_file.unlink(missing_ok=True)
        server.should_exit = True
        await serving
        stopping.cancel()
    finally:
        services.close()
    log.info("stopped")


def _announce(settings: Settings, paths: WorkspacePaths, url: str, workspace_id: str) -> None:
    import psutil

    address = ServerAddress(
        url=url,
        pid=os.getpid(),
        process_started=psutil.Process().create_time(),
        workspace_id=workspace_id,
        version=__version__,
        certificate=str(settings.tls_certificate.absolute()) if settings.tls_certificate else None,
    )
    write_text(paths.server_file, address.model_dump_json(indent=2) + "\n", mode=0o600)


def _url(settings: Settings, port: int) -> str:
    host = settings.host
    if host in {"0.0.0.0", "::", ""}:
        host = "127.0.0.1" if host != "::" else "::1"
    return f"{'https' if settings.tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


@contextlib.contextmanager
def _lock(paths: WorkspacePaths) -> Iterator[None]:
    """Hold the workspace for this process; the system lets go of it however the process ends."""
    handle = os.open(paths.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in {errno.EWOULDBLOCK, errno.EACCES}:
                raise
            raise _second_server(paths) from None
        yield
    finally:
        os.close(handle)


def _second_server(paths: WorkspacePaths) -> Conflict:
    try:
        running = ServerAddress.model_validate_json(paths.server_file.read_bytes())
    except (OSError, ValueError):
        return Conflict(
            f"another server is starting over the workspace {paths.home}",
            target=str(paths.lock_file),
            way_out="wait a moment and use that one, or choose another folder with --workspace",
        )
    return Conflict(
        f"the workspace {paths.home} has a server already: {running.url}, process {running.pid}",
        target=str(paths.lock_file),
        way_out="use that one, stop it with `tunesmith down`, or choose another folder with --workspace",
        extra={"url": running.url, "pid": running.pid},
    )


def _port_file(paths: WorkspacePaths) -> Path:
    """The port of the last server, so that the URLs of endpoints stay when it starts again."""
    return paths.home / "server.port"


@contextlib.contextmanager
def _listen(settings: Settings, paths: WorkspacePaths) -> Iterator[socket.socket]:
    if settings.port is not None:
        candidates = [settings.port]
    else:
        candidates = [DEFAULT_PORT, 0]
        with contextlib.suppress(OSError, ValueError):
            candidates.insert(0, int(_port_file(paths).read_text("ascii")))
    family, _, _, _, address = _address(settings.host)
    for port in candidates:
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((address[0], port))
            listening.listen(2048)
        except OSError as error:
            listening.close()
            if error.errno == errno.EADDRINUSE and settings.port is None:
                continue
            raise _cannot_listen(settings.host, port, error) from None
        with listening:
            yield listening
        return


def _address(host: str) -> Any:
    try:
        return socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except socket.gaierror as error:
        raise UserError(
            f"{host!r} is not an address of this machine: {error.strerror}",
            target="host",
            way_out="127.0.0.1 is always one",
        ) from None


def _cannot_listen(host: str, port: int, error: OSError) -> TunesmithError:
    if error.errno == errno.EADDRINUSE:
        return Conflict(
            f"port {port} of {host} is in use by {_holder(port) or 'another process'}",
            target="port",
            way_out="stop that one, name another port with --port, or name none and a free one is found",
        )
    if error.errno in {errno.EACCES, errno.EPERM}:
        return NotAllowed(
            f"this user may not listen on port {port}", target="port", way_out="name a port above 1023 with --port"
        )
    return UserError(f"cannot listen on {host} port {port}: {error.strerror}", target="host")


def _holder(port: int) -> str | None:
    """The process that listens on ``port``, where this user may see it."""
    import psutil

    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            here = connection.laddr and connection.laddr[1] == port
            if here and connection.status == psutil.CONN_LISTEN and connection.pid:
                return f"process {connection.pid} ({psutil.Process(connection.pid).name()})"
    return None


def _start_log(paths: WorkspacePaths, level: str) -> None:
    handler = logging.handlers.RotatingFileHandler(
        paths.server_log, maxBytes=10_000_000, backupCount=3, encoding="utf-8"
    )
    os.chmod(paths.server_log, 0o600)  # noqa: PTH101
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(level.upper())
    # These two tell of each request and each connection; what matters of them is told by us.
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)
    sys.excepthook = _log_unexpected


def _log_unexpected(kind: type[BaseException], error: BaseException, traceback: Any) -> None:
    log.critical("unexpected end", exc_info=(kind, error, traceback))
    print(f"Error: {kind.__name__}: {error}; the traceback is in the server's log", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tunesmith.server", description="The server of one workspace.")
    parser.add_argument("--workspace", type=Path, help="folder; else TUNESMITH_HOME, else ~/.tunesmith")
    parser.add_argument("--host", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, help=f"default {DEFAULT_PORT}, or a free one when that is in use; 0: any")
    parser.add_argument("--tls-certificate", type=Path, help="PEM file with the certificate")
    parser.add_argument("--tls-key", type=Path, help="PEM file with its key")
    parser.add_argument(
        "--allow-remote", action="store_true", default=None, help="listen beyond loopback although there is no TLS"
    )
    parser.add_argument("--name", help="name of a new workspace")
    parser.add_argument("--log-level", choices=["debug", "info", "warning", "error"])
    parser.add_argument("--version", action="version", version=json.dumps({"version": __version__}))
    return parser
