"""``up``, ``down``, ``status`` and ``doctor``."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.context import connect, home, options
from tunesmith.cli.output import emit, say, size, table


def add_to(app: typer.Typer) -> None:
    """Put these commands at the root of ``app``."""
    app.command()(up)
    app.command()(down)
    app.command()(status)
    app.command()(doctor)


def up(
    detach: Annotated[bool, typer.Option("-d", "--detach", help="Run in the background.")] = False,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on. Default: 127.0.0.1.", show_default=False)
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Port. Default: 8787, or a free one if it is taken.", show_default=False)
    ] = None,
    allow_remote: Annotated[
        bool,
        typer.Option(
            "--allow-remote", help="Listen beyond loopback without TLS. Anyone who can reach the port sees the traffic."
        ),
    ] = False,
    tls_certificate: Annotated[Path | None, typer.Option(help="PEM file; turns TLS on.", show_default=False)] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file of its key.", show_default=False)] = None,
) -> None:
    """Start the workspace's server, in the foreground unless -d is given."""
    command = [sys.executable, "-m", "tunesmith.server", "--workspace", str(home())]
    command += ["--host", host] if host else []
    command += ["--port", str(port)] if port is not None else []
    command += ["--allow-remote"] if allow_remote else []
    command += ["--tls-certificate", str(tls_certificate)] if tls_certificate else []
    command += ["--tls-key", str(tls_key)] if tls_key else []
    if not detach:
        os.execv(sys.executable, command)
    from tunesmith.client.discovery import find_server, start_server

    running = find_server(home())
    if running is not None:
        say(f"Already running at {running.url} (process {running.pid}).")
        return
    started = start_server(home(), arguments=command[5:])
    say(f"Running at {started.url} (process {started.pid}). Stop it with: tunesmith down")


def down(
    all_: Annotated[
        bool, typer.Option("--all", help="Also cancel running jobs and stop the instances of deployments.")
    ] = False,
) -> None:
    """Stop the workspace's server. Jobs and deployments go on unless --all is given."""
    from tunesmith.client.discovery import find_server

    running = find_server(home())
    if running is None:
        say(f"No server is running for {home()}.")
        return
    ws = connect(start=False)
    ws.shutdown(everything=all_)
    deadline = time.monotonic() + 30
    while find_server(home()) is not None:
        if time.monotonic() > deadline:
            os.kill(running.pid, signal.SIGTERM)
            deadline = float("inf")
        time.sleep(0.05)
    say("Stopped." if all_ else "Stopped. Running jobs and deployments go on and are found again at the next start.")


def status() -> None:
    """Show whether a server runs, and what the workspace holds."""
    from tunesmith.client.discovery import find_server

    running = find_server(home()) if options.url is None else None
    if options.url is None and running is None:
        if options.json:
            emit({"running": False, "workspace": str(home())})
        else:
            say(f"Not running. Workspace: {home()}. Start it with: tunesmith up -d")
        raise typer.Exit(1)
    answer = connect(start=False).status()
    if options.json:
        emit(answer)
        return
    rows = [(key.replace("_", " "), value) for key, value in _flat(answer)]
    table(None, ["", ""], rows, empty="")


def _flat(value: object, prefix: str = "") -> list[tuple[str, object]]:
    from tunesmith.cli.output import plain

    value = plain(value) if not isinstance(value, dict) else value
    rows: list[tuple[str, object]] = []
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, dict):
                rows += _flat(item, f"{prefix}{key}.")
            else:
                shown = size(item) if key.endswith("bytes") and isinstance(item, int) else item
                rows.append((f"{prefix}{key}", ", ".join(map(str, shown)) if isinstance(shown, list) else shown))
    return rows


def doctor() -> None:
    """Check this machine: hardware, optional parts, what is missing and the command that brings it."""
    from tunesmith.compute.doctor import examine
    from tunesmith.display.doctor import render

    found = examine(home()) if options.url is None else connect(start=False).doctor()
    if options.json:
        emit(found)
    else:
        render(found)
    if not found.healthy:
        raise typer.Exit(1)
