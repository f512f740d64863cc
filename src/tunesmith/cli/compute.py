"""``tunesmith compute``."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from tunesmith.cli.context import connect, options
from tunesmith.cli.output import emit, say, size, table

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def list_() -> None:
    """List computes."""
    found = connect().computes.list()
    if options.json:
        emit(found)
        return
    rows = [
        (
            c.name,
            c.type,
            c.size,
            c.provisioning_state,
            f"{c.min_instances}-{c.max_instances}",
            c.tier,
            c.difference or "",
        )
        for c in found
    ]
    table(None, ("name", "type", "size", "state", "instances", "tier", "here"), rows, empty="No computes.")


@app.command()
def show(name: Annotated[str, typer.Argument(help="Name.")]) -> None:
    """Show one compute."""
    compute = connect().computes.get(name)
    if options.json:
        emit(compute)
        return
    rows = [(key.replace("_", " "), value) for key, value in compute.model_dump(mode="json").items()]
    table(None, ("", ""), rows, empty="")


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="3 to 24 letters, digits and hyphens, starting with a letter.")],
    size_: Annotated[str, typer.Option("--size", help="See 'tunesmith compute sizes'.")] = "local",
    min_instances: Annotated[int, typer.Option(help="Fewest instances.")] = 0,
    max_instances: Annotated[int, typer.Option(help="Most instances.")] = 1,
    tier: Annotated[
        Literal["dedicated", "low_priority"], typer.Option(help="Azure ML's tier; recorded.")
    ] = "dedicated",
    idle_time_before_scale_down: Annotated[int, typer.Option(help="Seconds.")] = 120,
) -> None:
    """Create or update a compute."""
    compute = connect().computes.create_or_update(
        name,
        size=size_,
        min_instances=min_instances,
        max_instances=max_instances,
        tier=tier,
        idle_time_before_scale_down=idle_time_before_scale_down,
    )
    if options.json:
        emit(compute)
        return
    say(f"{compute.name}: {compute.provisioning_state}.")
    if compute.difference:
        say(compute.difference)


@app.command()
def delete(name: Annotated[str, typer.Argument(help="Name.")]) -> None:
    """Delete a compute."""
    connect().computes.delete(name)
    say(f"Deleted {name}.")


@app.command()
def sizes() -> None:
    """List the sizes a compute can ask for."""
    found = connect().computes.sizes()
    if options.json:
        emit(found)
        return
    rows = [
        (
            s.name,
            s.vcpus,
            f"{s.memory_gb:g}",
            s.gpus or "",
            s.gpu_name or "",
            f"{s.gpu_memory_gb:g}" if s.gpu_memory_gb else "",
        )
        for s in found
    ]
    table(None, ("size", "vCPUs", "memory GB", "GPUs", "GPU", "GB each"), rows, empty="No sizes.")


@app.command()
def machine() -> None:
    """Show what this machine has."""
    found = connect().computes.machine()
    if options.json:
        emit(found)
        return
    rows: list[tuple[str, object]] = [
        ("processor", found.processor),
        ("cores", found.cores),
        ("memory", size(found.memory_bytes)),
        ("instructions", ", ".join(found.instructions)),
        ("disk free", size(found.disk_free_bytes)),
    ]
    rows += [(f"GPU {i}", f"{gpu.name}, {size(gpu.memory_bytes)}") for i, gpu in enumerate(found.gpus)]
    table(None, ("", ""), rows, empty="")


@app.command()
def check(
    model: Annotated[str, typer.Argument(help="Model reference.")],
    compute: Annotated[str, typer.Argument(help="Compute name.")],
    purpose: Annotated[Literal["finetune", "inference"], typer.Option("--for", help="Which list.")] = "finetune",
) -> None:
    """Check a model's allow-list against a compute's size."""
    answer = connect().computes.check(model, compute, purpose=purpose)
    if options.json:
        emit(answer)
    else:
        say(answer.message)
    if not answer.allowed:
        raise typer.Exit(1)
