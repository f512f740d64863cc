"""``tunesmith deployments``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tunesmith.cli.context import connect, options
from tunesmith.cli.deployment_options import (
    CoolDown,
    MaxInstances,
    MinInstances,
    Redact,
    RedactPattern,
    SamplingRate,
    TargetQueueLength,
    collecting,
    scaling,
)
from tunesmith.cli.output import console, emit, say, table
from tunesmith.cli.parsing import pairs
from tunesmith.errors import UserError

if TYPE_CHECKING:
    from tunesmith.client import Workspace
    from tunesmith.records.endpoints import Deployment

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Endpoint = Annotated[str, typer.Option("--endpoint", help="Name of the endpoint.")]
Name = Annotated[str, typer.Argument(help="Name of the deployment.", show_default=False)]


@app.command()
def create(
    name: Name,
    endpoint: Endpoint,
    model: Annotated[str, typer.Option(help="Model reference, such as NAME:VERSION.")],
    instance_count: Annotated[
        int | None, typer.Option(help="How many instances; 1, or what the load asks for.", show_default=False)
    ] = None,
    instance_type: Annotated[str, typer.Option(help="Size asked for.")] = "local",
    engine: Annotated[str, typer.Option(help="auto, openvino, transformers or vllm.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, 32, bf16, 16, or 8 for int8 weights.")] = "auto",
    request_timeout_ms: Annotated[int, typer.Option(help="Longest answer time, in ms.")] = 180_000,
    max_concurrent_requests_per_instance: Annotated[int, typer.Option(help="Requests at once in an instance.")] = 8,
    max_queue_wait_ms: Annotated[int, typer.Option(help="Longest wait for a place, in ms.")] = 60_000,
    env: Annotated[
        list[str], typer.Option(help="NAME=VALUE for the instance; may be repeated.", show_default=False)
    ] = [],  # noqa: B006
    min_instances: MinInstances = None,
    max_instances: MaxInstances = None,
    target_queue_length: TargetQueueLength = None,
    cool_down_s: CoolDown = None,
    sampling_rate: SamplingRate = None,
    redact: Redact = None,
    redact_pattern: RedactPattern = [],  # noqa: B006
    adapter: Annotated[
        list[str],
        typer.Option(help="NAME=REFERENCE of a LoRA adapter to serve beside it; may be repeated.", show_default=False),
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
        autoscale=scaling(min_instances, max_instances, target_queue_length, cool_down_s),
        data_collector=collecting(sampling_rate, redact, redact_pattern),
        adapters=pairs(adapter, "--adapter") or None,
        wait=False,
    )
    _finish(ws, deployment, wait=wait, all_traffic=all_traffic)


def _finish(ws: Workspace, deployment: Deployment, *, wait: bool, all_traffic: bool = False) -> None:
    """Wait until it is up, where that is wanted, and show it; a failure is exit status 1."""
    endpoint, name = deployment.endpoint, deployment.name
    if wait:
        from tunesmith.display.endpoints import wait_for_deployment

        deployment = wait_for_deployment(ws, endpoint, name, quiet=options.json)
    if all_traffic and deployment.provisioning_state != "Failed":
        ws.endpoints.update(endpoint, traffic={name: 100})
    if options.json:
        emit(deployment)
    else:
        from tunesmith.display.endpoints import deployment_lines

        for line in deployment_lines(deployment):
            say(line)
    if deployment.provisioning_state == "Failed":
        raise typer.Exit(1)


@app.command()
def update(
    name: Name,
    endpoint: Endpoint,
    model: Annotated[str | None, typer.Option(help="Another model version.", show_default=False)] = None,
    instance_count: Annotated[int | None, typer.Option(help="How many instances.", show_default=False)] = None,
    engine: Annotated[str | None, typer.Option(help="Another engine.", show_default=False)] = None,
    precision: Annotated[str | None, typer.Option(help="Another precision.", show_default=False)] = None,
    request_timeout_ms: Annotated[
        int | None, typer.Option(help="Longest answer time, in ms.", show_default=False)
    ] = None,
    max_concurrent_requests_per_instance: Annotated[
        int | None, typer.Option(help="Requests at once in an instance.", show_default=False)
    ] = None,
    max_queue_wait_ms: Annotated[
        int | None, typer.Option(help="Longest wait for a place, in ms.", show_default=False)
    ] = None,
    env: Annotated[
        list[str],
        typer.Option(help="NAME=VALUE, in place of the variables there are; may be repeated.", show_default=False),
    ] = [],  # noqa: B006
    min_instances: MinInstances = None,
    max_instances: MaxInstances = None,
    target_queue_length: TargetQueueLength = None,
    cool_down_s: CoolDown = None,
    no_autoscale: Annotated[
        bool, typer.Option("--no-autoscale", help="Keep the number of instances as it is from now on.")
    ] = False,
    sampling_rate: SamplingRate = None,
    redact: Redact = None,
    redact_pattern: RedactPattern = [],  # noqa: B006
    adapter: Annotated[
        list[str],
        typer.Option(help="NAME=REFERENCE, in place of the adapters there are; may be repeated.", show_default=False),
    ] = [],  # noqa: B006
    description: Annotated[str | None, typer.Option(help="New description.", show_default=False)] = None,
    wait: Annotated[bool, typer.Option(help="Wait until it is ready or has failed.")] = True,
) -> None:
    """Change parts of a deployment. Another model, engine, precision, environment or adapter rolls: new instances are
    ready before old ones go."""
    ws = connect()
    known = ws.deployments.get(endpoint, name)
    limits = {
        "request_timeout_ms": request_timeout_ms,
        "max_concurrent_requests_per_instance": max_concurrent_requests_per_instance,
        "max_queue_wait_ms": max_queue_wait_ms,
    }
    given = {field: value for field, value in limits.items() if value is not None}
    autoscale: dict[str, int] | Literal["off"] | None = scaling(
        min_instances, max_instances, target_queue_length, cool_down_s, known.autoscale
    )
    if no_autoscale:
        if autoscale is not None:
            raise UserError("--no-autoscale goes with none of the limits", target="--no-autoscale")
        autoscale = "off"
    deployment: Deployment = ws.deployments.update(
        endpoint,
        name,
        model=model,
        instance_count=instance_count,
        engine=engine,
        precision=precision,
        request_settings={**known.request_settings.model_dump(), **given} if given else None,
        environment_variables=pairs(env, "--env") if env else None,
        autoscale=autoscale,
        data_collector=collecting(sampling_rate, redact, redact_pattern, known.data_collector),
        adapters=pairs(adapter, "--adapter") if adapter else None,
        description=description,
    )
    _finish(ws, deployment, wait=wait)


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
