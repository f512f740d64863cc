"""``tunesmith components``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.context import connect, options
from tunesmith.cli.output import emit, say, table
from tunesmith.cli.parsing import reference

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def list_(
    registry: Annotated[str | None, typer.Option(help="workspace or azureml.", show_default=False)] = None,
) -> None:
    """List components."""
    found = connect().components.list(registry=registry)
    if options.json:
        emit(found)
        return
    rows = [(c.registry, c.name, c.version, c.type, c.display_name) for c in found]
    table(None, ("registry", "name", "version", "type", "title"), rows, empty="No components.")


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="NAME, NAME:VERSION or NAME@LABEL.")],
    registry: Annotated[str | None, typer.Option(help="workspace or azureml.", show_default=False)] = None,
) -> None:
    """Show a component: its inputs with types, defaults and bounds, and its outputs."""
    base, version, label = reference(name)
    component = connect().components.get(base, version, label=label, registry=registry)
    if options.json:
        emit(component)
        return
    say(f"{component.name}:{component.version} ({component.type}, {component.registry})")
    if component.description:
        say(component.description)
    rows = []
    for key, spec in (component.spec.get("inputs") or {}).items():
        bounds = "|".join(map(str, spec.get("enum", ()))) or " ".join(
            f"{word} {spec[word]}" for word in ("min", "max") if word in spec
        )
        needed = "" if str(spec.get("optional", "false")).lower() == "true" or "default" in spec else "required"
        rows.append((key, spec.get("type"), spec.get("default", ""), bounds or needed, spec.get("description", "")))
    table("inputs", ("name", "type", "default", "values", "description"), rows, empty="No inputs.")
    outputs = [
        (key, spec.get("type"), spec.get("description", ""))
        for key, spec in (component.spec.get("outputs") or {}).items()
    ]
    table("outputs", ("name", "type", "description"), outputs, empty="No outputs.")


@app.command()
def register(
    file: Annotated[Path, typer.Argument(help="Component YAML in Azure ML's schema.")],
    version: Annotated[
        str | None, typer.Option(help="Default: the YAML's, else the next number.", show_default=False)
    ] = None,
) -> None:
    """Register a component from its YAML, with a snapshot of its code folder."""
    component = connect().components.register(file, version=version)
    if options.json:
        emit(component)
    else:
        say(f"Registered {component.name}:{component.version}.")
