"""``tunesmith endpoints``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from tunesmith.cli import observing
from tunesmith.cli.context import connect, options
from tunesmith.cli.output import console, emit, say, size, table
from tunesmith.cli.parsing import pairs, read_json, traffic

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(observing.app)

Name = Annotated[str, typer.Argument(help="Name of the endpoint.", show_default=False)]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="3 to 32 letters, digits and hyphens, starting with a letter.")],
    auth_mode: Annotated[
        Literal["key", "aml_token"], typer.Option(help="Opened by two keys, or by short-lived tokens.")
    ] = "key",
    description: Annotated[str, typer.Option(help="What it is for.")] = "",
    tag: Annotated[list[str], typer.Option(help="key=value; may be repeated.", show_default=False)] = [],  # noqa: B006
) -> None:
    """Create an endpoint with two keys."""
    endpoint = connect().endpoints.create_or_update(
        name, auth_mode=auth_mode, description=description, tags=pairs(tag, "--tag")
    )
    if options.json:
        emit(endpoint)
    else:
        say(f"{endpoint.name}: {endpoint.provisioning_state}. {endpoint.scoring_uri}")


@app.command("list")
def list_() -> None:
    """List endpoints."""
    found = connect().endpoints.list()
    if options.json:
        emit(found)
        return
    rows = [(e.name, e.provisioning_state, _split(e.traffic), _split(e.mirror_traffic), e.scoring_uri) for e in found]
    table(None, ("name", "state", "traffic", "mirror", "scoring URI"), rows, empty="No endpoints.")


def _split(parts: dict[str, int]) -> str:
    return ", ".join(f"{name} {share} %" for name, share in parts.items())


@app.command()
def show(name: Name) -> None:
    """Show an endpoint with its deployments, and ready calls."""
    ws = connect()
    endpoint = ws.endpoints.get(name)
    deployments = ws.deployments.list(name)
    if options.json:
        emit({**endpoint.model_dump(mode="json"), "deployments": [d.model_dump(mode="json") for d in deployments]})
        return
    from tunesmith.display.endpoints import endpoint_panel

    console().print(endpoint_panel(endpoint, deployments))


@app.command()
def update(
    name: Name,
    traffic_: Annotated[
        str | None,
        typer.Option("--traffic", help="blue=90,green=10; whole per cent that sum to 0 or 100.", show_default=False),
    ] = None,
    mirror: Annotated[
        str | None, typer.Option("--mirror-traffic", help="green=10; one deployment, at most 50.", show_default=False)
    ] = None,
    auth_mode: Annotated[
        Literal["key", "aml_token"] | None, typer.Option(help="What opens it from now on.", show_default=False)
    ] = None,
    description: Annotated[str | None, typer.Option(help="New description.", show_default=False)] = None,
    tag: Annotated[
        list[str], typer.Option(help="key=value, in place of the tags there are; may be repeated.", show_default=False)
    ] = [],  # noqa: B006
) -> None:
    """Change traffic, mirrored traffic, the way in, the description or the tags."""
    endpoint = connect().endpoints.update(
        name,
        traffic=None if traffic_ is None else traffic(traffic_),
        mirror_traffic=None if mirror is None else traffic(mirror),
        auth_mode=auth_mode,
        description=description,
        tags=pairs(tag, "--tag") if tag else None,
    )
    if options.json:
        emit(endpoint)
    else:
        mirrored = _split(endpoint.mirror_traffic) or "none"
        say(f"{endpoint.name}: traffic {_split(endpoint.traffic) or 'none'}; mirror {mirrored}.")


@app.command()
def keys(name: Name) -> None:
    """Show the two keys."""
    found = connect().endpoints.keys(name)
    if options.json:
        emit(found)
        return
    print(f"primary\t{found.primary_key}\nsecondary\t{found.secondary_key}")


@app.command("regenerate-key")
def regenerate_key(
    name: Name, key: Annotated[Literal["primary", "secondary"], typer.Option(help="Which one.")] = "primary"
) -> None:
    """Make one of the two keys anew; the other goes on working."""
    found = connect().endpoints.regenerate_key(name, key)
    if options.json:
        emit(found)
    else:
        say(f"The {key} key of {name} is new.")


@app.command()
def token(name: Name) -> None:
    """Print a short-lived token of an endpoint whose auth mode is aml_token."""
    found = connect().endpoints.token(name)
    if options.json:
        emit(found)
    else:
        print(found.access_token)


@app.command()
def invoke(
    name: Name,
    message: Annotated[str | None, typer.Argument(help="What the user says.", show_default=False)] = None,
    request_file: Annotated[
        Path | None, typer.Option(help="JSON for /score, or - for standard input.", show_default=False)
    ] = None,
    deployment: Annotated[
        str | None, typer.Option(help="This deployment, whatever the traffic.", show_default=False)
    ] = None,
    system: Annotated[str | None, typer.Option(help="System message.", show_default=False)] = None,
    max_tokens: Annotated[int, typer.Option(help="Longest answer in tokens.")] = 128,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    stream: Annotated[bool, typer.Option(help="Print the answer as it comes.")] = True,
) -> None:
    """Call an endpoint: with a message, or with a request file in one of /score's shapes."""
    from tunesmith.errors import UserError

    if (message is None) == (request_file is None):
        raise UserError("give either a message or --request-file", target="MESSAGE")
    ws = connect()
    if request_file is not None:
        answer = ws.endpoints.invoke(name, read_json(request_file), deployment=deployment)
        emit(answer)
        return
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": message})
    if stream and not options.json:
        for chunk in ws.endpoints.chat(
            name, messages, deployment, stream=True, max_tokens=max_tokens, temperature=temperature
        ):
            sys.stdout.write(chunk.text)
            sys.stdout.flush()
        sys.stdout.write("\n")
        return
    whole = ws.endpoints.chat(name, messages, deployment, max_tokens=max_tokens, temperature=temperature)
    if options.json:
        emit(whole)
    else:
        print(whole.text)


@app.command()
def delete(name: Name) -> None:
    """Delete an endpoint with its deployments; their processes and ports are freed."""
    freed = connect().endpoints.delete(name)
    say(f"Deleted {name}" + (f"; {size(freed)} freed." if freed else "."))
