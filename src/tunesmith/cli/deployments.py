"""``tunesmith deployments``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tunesmith.cli.context import connect, options
from tunesmith.cli.output import console, emit, say, table
from tunesmith.cli.parsing import pairs

if TYPE_CHECKING:
    from tunesmith.records.endpoints import Deployment

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Endpoint = Annotated[str, typer.Option("--endpoint", help="Name of the endpoint.")]
Name = Annotated[str, typer.Argument(help="Name of the deployment.", show_default=False)]


@app.command()
def create(
    name: Name,
    endpoint: Endpoint,
    model: Annotated[str, typer.Option(help="Model reference, such as NAME:VERSION.")],
    instance_count: Annotated[int, typer.Option(help="How many instances.")] = 1,
    instance_type: Annotated[str, typer.Option(help="Size asked for.")] = "local",
    engine: Annotated[str, typer.Option(help="auto or transformers.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, 32, bf16 or 16.")] = "auto",
    request_timeout_ms: Annotated[int, typer.Option(help="Longest answer time, in ms.")] = 180_000,
    max_concurrent_requests_per_instance: Annotated[int, typer.Option(help="Requests at once in an instance.")] = 8,
    max_queue_wait_ms: Annotated[int, typer.Option(help="Longest wait for a place, in ms.")] = 60_000,
    env: Annotated[
        list[str], typer.Option(help="NAME=VALUE for the instance; may be repeated.", show_default=False)
    ] = [],  # noqa: B006
    all_traffic: Annotated[bool, typer.Option("--all-traffic", help="Send it all traffic once it is ready.")] = False,
    wait: Annotated[bool, typer.Option(help="Wait until it is ready or has failed.")] = True,
) -> None:
    """Create or update a deployment."""
    ws = connect()
    deployment: Deployment = ws.deployments.create_or_update(
        name,
        endpoint=endpoint,
        model=model,
        instance_count=instance_count,
        instance_type=instance_type,
        engine=engine,
        precision=precision,
        request_settings={
            "request_timeout_ms": request_timeout_ms,
            "max_concurrent_requests_per_instance": max_concurrent_requests_per_instance,
            "max_queue_wait_ms": max_queue_wait_ms,
        },
        environment_variables=pairs(env, "--env"),
        wait=False,
    )
    if wait:
        from tunesmith.display.endpoints import wait_for_deployment

        deployment = wait_for_deployment(ws, endpoint, name, quiet=options.json)
    if all_traffic:
        ws.endpoints.update(endpoint, traffic={name: 100})
    if options.json:
        emit(deployment)
    else:
        from tunesmith.display.endpoints import deployment_lines

        for line in deployment_lines(deployment):
            say(line)
    if deployment.provisioning_state == "Failed":
        raise typer.Exit(1)


@app.command("list")
def list_(endpoint: Endpoint) -> None:
    """List the deployments of an endpoint."""
    found = connect().deployments.list(endpoint)
    if options.json:
        emit(found)
        return
    rows = [
        (d.name, d.model, d.provisioning_state, f"{d.ready_instances}/{d.instance_count}", d.engine, d.precision)
        for d in found
    ]
    table(None, ("name", "model", "state", "ready", "engine", "precision"), rows, empty="No deployments.")


@app.command()
def show(name: Name, endpoint: Endpoint) -> None:
    """Show a deployment: phases with times, instances, and the cause of a failure."""
    deployment = connect().deployments.get(endpoint, name)
    if options.json:
        emit(deployment)
        return
    from tunesmith.display.endpoints import deployment_panel

    console().print(deployment_panel(deployment))


@app.command()
def scale(
    name: Name, endpoint: Endpoint, instance_count: Annotated[int, typer.Option(help="How many instances.")]
) -> None:
    """Change the number of instances."""
    deployment = connect().deployments.update(endpoint, name, instance_count=instance_count)
    if options.json:
        emit(deployment)
    else:
        say(f"{deployment.name}: {deployment.instance_count} wanted, {deployment.ready_instances} ready.")


@app.command()
def logs(
    name: Name, endpoint: Endpoint, lines: Annotated[int, typer.Option(help="How many lines from the end.")] = 100
) -> None:
    """Print the log of a deployment's instances."""
    print(connect().deployments.logs(endpoint, name, lines=lines), end="")


@app.command()
def delete(name: Name, endpoint: Endpoint) -> None:
    """Delete a deployment; its processes and ports are freed."""
    connect().deployments.delete(endpoint, name)
    say(f"Deleted {name}.")
