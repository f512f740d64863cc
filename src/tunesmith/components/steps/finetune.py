"""Step ``chat_completion_finetune``: train, resume after a cut, stop at a checkpoint when asked."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import asdict, dataclass, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tunesmith.components.steps import processes
from tunesmith.components.steps.lineage import write_lineage
from tunesmith.components.steps.runtime import STOPPED, Step, fresh, run
from tunesmith.components.steps.settings import finetune_parameters
from tunesmith.errors import InvalidData
from tunesmith.finetune.inputs import INPUTS
from tunesmith.finetune.result import TrainResult
from tunesmith.reporting import NullReporter, Reporter

if TYPE_CHECKING:
    from tunesmith.finetune.batches import Rows


@dataclass(frozen=True)
class _Places:
    """The base model, the prepared splits, and where the result goes."""

    model_path: Path
    dataset_path: Path
    pytorch_model_folder: Path
    finetune_config_path: Path | None = None


Arguments = make_dataclass(
    "Arguments",
    [(name, str | None, dataclasses.field(default=None)) for name in INPUTS],
    bases=(_Places,),
    frozen=True,
    namespace={"__doc__": "The places, and every training input as text."},
)
Arguments.__module__ = __name__


def main(arguments: Any, step: Step) -> None:
    """Train on the prepared train split, with the validation split where there is one."""
    stop = step.stop_cooperatively()
    reporter: Reporter = step.reporter if processes.is_main() else NullReporter()
    parameters = finetune_parameters(asdict(arguments), arguments.finetune_config_path, reporter)
    count = processes.count(parameters.number_of_gpu_to_use_finetuning)
    if count > 1:
        step.reporter.log(f"{count} processes are started by torchrun, one for each GPU")
        processes.launch(count, __spec__.name, sys.argv[1:], stop_file=step.checkpoints / ".stop", stop=stop)
        if TrainResult.read(arguments.pytorch_model_folder).outcome == "stopped":
            sys.exit(STOPPED)
        return
    if processes.is_worker():
        stop = processes.begin_worker(stop)
    if any(step.checkpoints.glob("checkpoint-*")):
        if not parameters.resume_from_checkpoint:
            reporter.log("an earlier attempt of this step left checkpoints; going on from the last one")
        parameters = dataclasses.replace(parameters, resume_from_checkpoint=True)

    from tunesmith.chat.prepared import Prepared
    from tunesmith.finetune import train
    from tunesmith.models import ModelPackage

    package = ModelPackage.open(arguments.model_path)
    splits = {name: Prepared.open(arguments.dataset_path / name) for name in _splits(arguments.dataset_path)}
    if "train" not in splits:
        raise InvalidData("the prepared data has no train split", target=str(arguments.dataset_path))
    if "validation" not in splits and parameters.evaluation_strategy != "disable":
        reporter.notice(
            "NoValidation",
            f"evaluation_strategy {parameters.evaluation_strategy} has no effect: no validation conversations",
            level="info",
        )
    for name, rows in splits.items():
        reporter.log(
            f"{name}: {rows.rows:,} rows, {rows.report.tokens:,} tokens, {rows.report.trained_tokens:,} carry loss"
        )
    output = fresh(arguments.pytorch_model_folder)
    result = train(
        package,
        cast("Rows", splits["train"]),
        cast("Rows | None", splits.get("validation")),
        parameters,
        output,
        checkpoints=step.checkpoints,
        reporter=reporter,
        stop=stop,
    )
    if result.outcome == "stopped":
        reporter.log(f"stopped at step {result.steps} of {result.total_steps}, with a checkpoint")
        # A worker ends well, so that torchrun lets the others finish; the process that started it tells.
        sys.exit(0 if processes.is_worker() else STOPPED)
    if not processes.is_main():
        return
    write_lineage(step, package=package, splits=splits, parameters=parameters.to_dict())
    reporter.log(f"{result.outcome}: {result.steps} optimiser steps, loss {result.train_loss:.4f}")


def _splits(folder: Path) -> list[str]:
    return [name for name in ("train", "validation") if (folder / name).is_dir()]


if __name__ == "__main__":
    run(Arguments, main)
