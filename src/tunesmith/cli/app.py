"""The command tree. Command modules import what they need when they run, so ``--help`` stays quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli import (
    azure,
    batch,
    chat,
    compare,
    components,
    compute,
    data,
    deployments,
    endpoints,
    finetune,
    jobs,
    models,
    quickstart,
    server,
)
from tunesmith.cli.context import options

app = typer.Typer(
    name="tunesmith",
    help="Fine-tune, evaluate, register and serve chat models on your own machine, with Azure ML's words.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
    rich_markup_mode=None,
)


@app.callback()
def root(
    workspace: Annotated[
        Path | None,
        typer.Option(help="Workspace folder. Default: TUNESMITH_HOME, else ~/.tunesmith.", show_default=False),
    ] = None,
    url: Annotated[str | None, typer.Option(help="Address of a server elsewhere.", show_default=False)] = None,
    token: Annotated[str | None, typer.Option(help="Its token. Default: TUNESMITH_TOKEN.", show_default=False)] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Set the global options. They may also stand after the command."""
    if version:
        from tunesmith._version import __version__

        typer.echo(f"tunesmith {__version__}")
        raise typer.Exit
    options.workspace, options.url, options.token = workspace, url, token
    options.json, options.debug = json, debug


server.add_to(app)
quickstart.add_to(app)
finetune.add_to(app)
chat.add_to(app)
compare.add_to(app)
batch.add_to(app)
app.add_typer(models.app, name="models", help="Base models and tuned models: list, import, register, lineage.")
app.add_typer(data.app, name="data", help="Conversations: check, convert, split, preview, register.")
app.add_typer(compute.app, name="compute", help="The machine, sizes and named computes.")
app.add_typer(components.app, name="components", help="Components: list, show, register.")
app.add_typer(jobs.app, name="jobs", help="Jobs: submit, watch, explain, cancel, outputs.")
app.add_typer(endpoints.app, name="endpoints", help="Online endpoints: create, keys, traffic, invoke, delete.")
app.add_typer(deployments.app, name="deployments", help="Deployments of models behind an endpoint.")
app.add_typer(azure.app, name="azure", help="Azure ML's own SDK, pointed at this workspace: run, env, status.")
