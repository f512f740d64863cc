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

            render_plan(plan, _defaults(ws), forecast=_forecast(ws, call, parameters))
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


def _forecast(ws: Workspace, call: dict[str, Any], parameters: dict[str, Any]) -> list[str]:
    """What the training would cost, where model and conversations are on this machine."""
    from tunesmith.chat import check
    from tunesmith.cli.data import package_of
    from tunesmith.components.steps.settings import training_values
    from tunesmith.components.steps.splits import mltable_files
    from tunesmith.display.estimate import forecast_lines, run_estimate
    from tunesmith.errors import TunesmithError
    from tunesmith.finetune import FinetuneParameters
    from tunesmith.reporting import NullReporter

    config = parameters.get("finetune_config_path")
    try:
        values = training_values(parameters, Path(str(config)) if config else None, NullReporter())
        given = FinetuneParameters.from_strings({key: str(value) for key, value in values.items()})
        package = package_of(str(call["model"]))
        train = str(call["train"])
        folder = Path(ws.data.resolve(train).path if train.startswith("azureml:") else train).expanduser()
        found = check(
            list(mltable_files(folder)) if (folder / "MLTable").is_file() else folder,
            tokenizer=package.tokenizer(),
            max_seq_length=given.max_seq_length if given.max_seq_length > 0 else package.manifest.context_length,
            on_too_long=given.on_too_long,
            loss_on=given.loss_on,
        )
        lines = [f"Rows     {found.summary()}"]
        if found.errors and given.on_faulty == "fail":
            lines.append(
                "         faulty rows fail the run (`tunesmith data check` names them); on_faulty=drop omits them"
            )
        machine = ws.computes.machine()
        estimated = run_estimate(package, found.kept_lengths, values)
        lines += forecast_lines(estimated, memory_bytes=machine.memory_bytes, disk_free_bytes=machine.disk_free_bytes)
        return lines
    except TunesmithError as error:
        return [f"No estimate: {error.message}" + (f" ({error.way_out})" if error.way_out else "")]


def _from(base: Path, text: str) -> str:
    """A relative path of a recipe starts at the recipe's folder."""
    path = Path(text).expanduser()
    if text.startswith(("azureml:", "azureml://")) or path.is_absolute():
        return text
    return str(base / path) if (base / path).exists() else text
