"""``tunesmith finetune``: the system pipeline from a recipe or from options."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunesmith.cli.context import connect, options
from tunesmith.cli.output import emit, say
from tunesmith.cli.parsing import pairs, read_yaml

if TYPE_CHECKING:
    from tunesmith.client import Workspace

RECIPE_KEYS = (
    "model",
    "train",
    "validation",
    "test",
    "name",
    "experiment_name",
    "display_name",
    "compute",
    "tags",
    "settings",
)


def add_to(app: typer.Typer) -> None:
    """Put the command at the root of ``app``."""
    app.command()(finetune)


def finetune(
    recipe: Annotated[
        Path | None,
        typer.Argument(
            help="YAML with model, train, … and parameters of chat_completion_pipeline.", show_default=False
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Base model reference.", show_default=False)] = None,
    train: Annotated[str | None, typer.Option(help="Training file or data asset.", show_default=False)] = None,
    validation: Annotated[str | None, typer.Option(help="Validation file or data asset.", show_default=False)] = None,
    test: Annotated[
        str | None, typer.Option(help="Test file or data asset; evaluated base beside tuned.", show_default=False)
    ] = None,
    set_: Annotated[
        list[str],
        typer.Option("--set", help="PARAMETER=VALUE, as in 'tunesmith components show chat_completion_pipeline'."),
    ] = [],  # noqa: B006
    name: Annotated[str | None, typer.Option(help="Name of the job. Default: made up.", show_default=False)] = None,
    compute: Annotated[str | None, typer.Option(help="Named compute. Default: local.", show_default=False)] = None,
    experiment_name: Annotated[str | None, typer.Option(help="MLflow experiment.", show_default=False)] = None,
    force_rerun: Annotated[bool, typer.Option("--force-rerun", help="Reuse no step.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, print what would run, start nothing.")
    ] = False,
    stream: Annotated[bool, typer.Option(help="Watch it to its end.")] = True,
) -> None:
    """Fine-tune a chat model with the system pipeline: import, preprocess, train, convert, evaluate."""
    arguments: dict[str, Any] = read_yaml(recipe) if recipe else {}
    base = recipe.expanduser().absolute().parent if recipe else Path.cwd()
    parameters = {key: value for key, value in arguments.items() if key not in RECIPE_KEYS}
    call: dict[str, Any] = {key: value for key, value in arguments.items() if key in RECIPE_KEYS}
    for key in ("train", "validation", "test"):
        if isinstance(call.get(key), str):
            call[key] = _from(base, call[key])
    given = {"model": model, "train": train, "validation": validation, "test": test, "name": name, "compute": compute}
    call.update({key: value for key, value in given.items() if value is not None})
    if experiment_name:
        call["experiment_name"] = experiment_name
    # Evaluating the base model is of no use to a run whose training failed.
    call["settings"] = {"continue_on_step_failure": False, **call.get("settings", {})}
    if force_rerun:
        call["settings"]["force_rerun"] = True
    parameters.update(pairs(set_, "--set"))
    ws = connect()
    if dry_run:
        plan = ws.plan_finetune(**call, **parameters)
        if options.json:
            emit(plan)
        else:
            from tunesmith.display.plan import render_plan

            render_plan(plan, _defaults(ws), estimate=_estimate(ws, call, parameters))
        return
    job = ws.finetune(**call, **parameters)
    if stream:
        from tunesmith.cli.jobs import follow

        follow(ws, job.name)
    elif options.json:
        emit(job)
    else:
        say(f"Submitted {job.name}. Watch it with: tunesmith jobs stream {job.name}")


def _defaults(ws: Workspace) -> dict[str, Any]:
    """The defaults of the system pipeline's inputs, in its order."""
    spec = ws.components.get("chat_completion_pipeline", registry="azureml").spec
    return {key: item["default"] for key, item in spec["inputs"].items() if item.get("default") is not None}


def _estimate(ws: Workspace, call: dict[str, Any], parameters: dict[str, Any]) -> str:
    """What the training would cost, where model and file are on this machine."""
    from tunesmith.chat import check
    from tunesmith.cli.data import package_of
    from tunesmith.display.estimate import estimate_line
    from tunesmith.errors import TunesmithError
    from tunesmith.finetune import INPUTS

    try:
        package = package_of(str(call["model"]))
        train = str(call["train"])
        if train.startswith("azureml:"):
            train = ws.data.resolve(train).path
        longest = int(parameters.get("max_seq_length", -1))
        lengths = check(
            train,
            tokenizer=package.tokenizer(),
            max_seq_length=longest if longest > 0 else package.manifest.context_length,
        ).kept_lengths
        known = {key: value for key, value in parameters.items() if key in INPUTS}
        return estimate_line(package, lengths, known)
    except TunesmithError as error:
        return f"no estimate: {error.message}" + (f" ({error.way_out})" if error.way_out else "")


def _from(base: Path, text: str) -> str:
    """A relative path of a recipe starts at the recipe's folder."""
    path = Path(text).expanduser()
    if text.startswith(("azureml:", "azureml://")) or path.is_absolute():
        return text
    return str(base / path) if (base / path).exists() else text
