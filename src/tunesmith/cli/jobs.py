"""``tunesmith jobs``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunesmith.cli.context import connect, options
from tunesmith.cli.output import console, duration, emit, say, size, table, when
from tunesmith.cli.parsing import pairs

if TYPE_CHECKING:
    from tunesmith.client import Workspace
    from tunesmith.records.jobs import Job

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Name = Annotated[str, typer.Argument(help="Name of the job.", show_default=False)]


def follow(ws: Workspace, name: str) -> Job:
    """Watch a job to its end with live bars; print its outcome; exit 1 unless it completed."""
    from tunesmith.display.job_view import watch
    from tunesmith.display.jobs import outcome

    job: Job
    if options.json:
        job = ws.jobs.stream(name)
        emit(job)
    else:
        job = watch(ws, name)
        console().print(outcome(job))
    if job.status != "Completed":
        raise typer.Exit(1)
    return job


@app.command()
def submit(
    file: Annotated[Path, typer.Argument(help="Job YAML in Azure ML's schema.")],
    set_: Annotated[list[str], typer.Option("--set", help="inputs.NAME=VALUE or another field; may be repeated.")] = [],  # noqa: B006
    name: Annotated[str | None, typer.Option(help="Name of the job. Default: made up.", show_default=False)] = None,
    stream_: Annotated[bool, typer.Option("--stream", help="Watch it to its end.")] = False,
    validate_only: Annotated[bool, typer.Option(help="Check everything and start nothing.")] = False,
) -> None:
    """Submit a job from YAML."""
    from tunesmith.cli.parsing import read_yaml

    spec = read_yaml(file)
    for key, value in pairs(set_, "--set").items():
        target = spec
        *parents, last = key.split(".")
        for parent in parents:
            target = target.setdefault(parent, {})
        target[last] = value
    if name:
        spec["name"] = name
    spec.setdefault("base_path", str(file.expanduser().absolute().parent))
    ws = connect()
    if validate_only:
        ws.jobs.validate(spec)
        say("Nothing wrong found.")
        return
    job = ws.jobs.submit(spec)
    if stream_:
        follow(ws, job.name)
    elif options.json:
        emit(job)
    else:
        say(f"Submitted {job.name}. Watch it with: tunesmith jobs stream {job.name}")


@app.command("list")
def list_(
    status: Annotated[str | None, typer.Option(help="Only jobs in this state.", show_default=False)] = None,
    experiment: Annotated[str | None, typer.Option(help="Only of this experiment.", show_default=False)] = None,
    limit: Annotated[int, typer.Option(help="At most so many, newest first.")] = 50,
) -> None:
    """List jobs, newest first."""
    found = connect().jobs.list(status=status, experiment_name=experiment, limit=limit)
    if options.json:
        emit(found)
        return
    rows = [
        (
            j.name,
            j.display_name,
            j.experiment_name,
            str(j.status),
            when(j.created_at),
            duration(j.started_at, j.ended_at),
        )
        for j in found
    ]
    table(None, ("name", "title", "experiment", "status", "created", "took"), rows, empty="No jobs.")


@app.command()
def show(name: Name) -> None:
    """Show a job: a tree of its steps with states and times, its notices and its outputs."""
    job = connect().jobs.get(name)
    if options.json:
        emit(job)
        return
    from tunesmith.display.jobs import job_tree

    console().print(job_tree(job))


@app.command()
def stream(name: Name) -> None:
    """Watch a job live to its end. Exit code: 0 when it completed, 1 otherwise."""
    follow(connect(), name)


@app.command()
def reproduce(name: Name) -> None:
    """Run a completed job again and compare the losses step by step. Exit code: 0 when all are equal, 1 otherwise.

    The same inputs, code and values are used and no step is reused; an input that is gone or was changed is refused.
    """
    ws = connect()
    job = ws.jobs.reproduce(name)
    if not options.json:
        say(f"Running {name} again as {job.name}.")
        follow(ws, job.name)
    elif ws.jobs.stream(job.name).status != "Completed":
        emit(ws.jobs.get(job.name))
        raise typer.Exit(1)
    found = ws.jobs.compare(name, job.name)
    if options.json:
        emit(found)
    else:
        from tunesmith.display.jobs import comparison_lines

        for line in comparison_lines(found):
            say(line)
    if not found.equal:
        raise typer.Exit(1)


@app.command()
def cancel(name: Name) -> None:
    """Ask a job to stop. A training step stops at a checkpoint."""
    job = connect().jobs.cancel(name)
    say(f"{job.name}: {job.status}.")


@app.command()
def logs(
    name: Name,
    step: Annotated[str | None, typer.Option(help="Only this step.", show_default=False)] = None,
    tail: Annotated[int | None, typer.Option(help="Only the last lines.", show_default=False)] = None,
) -> None:
    """Print a job's logs."""
    text = connect().jobs.logs(name, step=step)
    if tail is not None:
        text = "\n".join(text.splitlines()[-tail:]) + "\n"
    sys.stdout.write(text)


@app.command()
def metrics(
    name: Name,
    key: Annotated[str | None, typer.Option(help="Every value of this metric.", show_default=False)] = None,
) -> None:
    """Show a job's metrics: the last value of each, or every value of one."""
    points = [point for point in connect().jobs.metrics(name) if key is None or point.key == key]
    if options.json:
        emit(points)
        return
    if key:
        table(None, ("step", key), [(p.step, f"{p.value:.6g}") for p in points], empty=f"No values of {key}.")
        return
    last = {point.key: point for point in points}
    rows = [(k, p.step, f"{p.value:.6g}", p.job_step or "") for k, p in sorted(last.items())]
    table(None, ("metric", "step", "last value", "of"), rows, empty="No metrics.")


@app.command()
def outputs(name: Name) -> None:
    """List a job's outputs with their references and paths."""
    found = connect().jobs.outputs(name)
    if options.json:
        emit(found)
        return
    rows = [(key, output.type, output.uri, output.path or "") for key, output in found.items()]
    table(None, ("output", "type", "reference", "path"), rows, empty="No outputs yet.")


@app.command()
def download(
    name: Name,
    to: Annotated[Path, typer.Option(help="Folder to write into.")],
    output: Annotated[str | None, typer.Option(help="Only this output.", show_default=False)] = None,
) -> None:
    """Copy a job's outputs to a folder."""
    where = connect().jobs.download(name, to, output=output)
    say(f"Written to {where}.")


@app.command()
def explain(name: Name) -> None:
    """For each step: what it was reused from, or which part changed."""
    found = connect().jobs.explain(name)
    if options.json:
        emit(found)
        return
    from tunesmith.display.jobs import explanation_lines

    for line in explanation_lines(found):
        say(line)


@app.command()
def delete(name: Name) -> None:
    """Delete a finished job with its files."""
    freed = connect().jobs.delete(name)
    say(f"Deleted {name}; {size(freed)} freed.")
