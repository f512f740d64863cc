"""``tunesmith endpoints logs``, ``metrics``, ``top`` and the conversations that were collected."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunesmith.cli.context import connect, options
from tunesmith.cli.output import console, emit, say, size, table
from tunesmith.errors import UserError

if TYPE_CHECKING:
    from tunesmith.client import Workspace
    from tunesmith.records.serving import DeploymentMetrics

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Name = Annotated[str, typer.Argument(help="Name of the endpoint.", show_default=False)]
Deployment = Annotated[str | None, typer.Option(help="Only this deployment.", show_default=False)]


@app.command()
def logs(
    name: Name,
    deployment: Deployment = None,
    lines: Annotated[int, typer.Option(help="How many lines from the end.")] = 100,
    requests: Annotated[
        bool, typer.Option("--requests", help="The request log, one JSON line a request, instead of the instances'.")
    ] = False,
) -> None:
    """Print the logs of an endpoint's instances, each line headed by its deployment, or the request log."""
    ws = connect()
    if requests:
        found = ws.endpoints.requests(name, deployment, lines=lines)
        if options.json:
            emit(found)
        else:
            for line in found:
                print(line.model_dump_json(exclude_none=True))
        return
    text = ws.endpoints.logs(name, lines, deployment=deployment)
    if not options.json:
        print(text, end="")
        return
    parts = (line.partition(": ") for line in text.splitlines())
    emit([{"deployment": head, "line": rest} for head, _, rest in parts])


@app.command()
def metrics(name: Name) -> None:
    """Print each deployment's figures: requests, errors, latency, tokens, what runs and what waits."""
    from tunesmith.display.serving import METRIC_COLUMNS, metric_rows

    found = connect().endpoints.metrics(name)
    if options.json:
        emit(found)
    else:
        table(None, METRIC_COLUMNS, metric_rows(found), empty="No deployments.")


@app.command()
def top(
    name: Annotated[
        str | None, typer.Argument(help="Name of the endpoint; all without it.", show_default=False)
    ] = None,
    interval: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.2)] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Look once and end, for scripts.")] = False,
) -> None:
    """Watch the deployments' figures; Ctrl-C ends it."""
    from tunesmith.display.serving import METRIC_COLUMNS, metric_rows, metric_table

    ws = connect()
    if once or options.json:
        found = _all_metrics(ws, name)
        if options.json:
            emit(found)
        else:
            table(None, METRIC_COLUMNS, metric_rows(found), empty="No deployments.")
        return
    out = console()
    if not out.is_terminal:
        raise UserError("top needs a terminal", target="top", way_out="tunesmith endpoints top --once")
    from rich.live import Live

    with Live(metric_table(_all_metrics(ws, name)), console=out, auto_refresh=False, screen=True) as live:
        while True:
            try:
                time.sleep(interval)
            except KeyboardInterrupt:
                return
            live.update(metric_table(_all_metrics(ws, name)), refresh=True)


def _all_metrics(ws: Workspace, name: str | None) -> list[DeploymentMetrics]:
    names = [endpoint.name for endpoint in ws.endpoints.list()] if name is None else [name]
    return [one for each in names for one in ws.endpoints.metrics(each)]


@app.command("export-conversations")
def export_conversations(
    name: Annotated[str, typer.Argument(help="Name of the endpoint; it may be deleted since.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The JSONL file to write.", show_default=False)],
    deployment: Deployment = None,
    since: Annotated[
        datetime | None, typer.Option(help="From this time on, in local time.", show_default=False)
    ] = None,
    until: Annotated[datetime | None, typer.Option(help="Before this time, in local time.", show_default=False)] = None,
    include_cut: Annotated[
        bool, typer.Option("--include-cut", help="Also answers that were cut at their token limit.")
    ] = False,
) -> None:
    """Write the conversations that the data collector kept as training rows, and say what is left out."""
    done = connect().endpoints.export_conversations(
        name,
        out,
        deployment,
        since=None if since is None else since.astimezone(),
        until=None if until is None else until.astimezone(),
        include_cut=include_cut,
    )
    if options.json:
        emit(done)
        return
    say(f"{out}: {done.written} conversations.")
    for reason, count in done.left_out.items():
        say(f"  left out: {count}: {reason}")
    if done.removed_before:
        say(f"  {done.removed_before} older ones had made room for newer ones before (max_mb).")


@app.command("delete-conversations")
def delete_conversations(
    name: Annotated[str, typer.Argument(help="Name of the endpoint; it may be deleted since.", show_default=False)],
    deployment: Deployment = None,
) -> None:
    """Delete the conversations that the data collector kept."""
    freed = connect().endpoints.delete_conversations(name, deployment)
    say(f"Deleted the conversations of {name}; {size(freed or 0)} freed.")
