"""Step ``model_prediction``: the loss of one model on the test conversations, and its answers to some of them.

    predictions/evaluation.json  what was measured (``ModelEvaluation``)
    predictions/probes.json      greedy answers of the tuned model
    predictions/data.json        on what it was measured
or  predictions/skipped.json     why there is nothing
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tunesmith.components.steps.runtime import Step, run
from tunesmith.storage.atomic import write_json, write_text

EVALUATION, PROBES, DATA, SKIPPED = "evaluation.json", "probes.json", "data.json", "skipped.json"


@dataclass(frozen=True)
class Arguments:
    """The model, the prepared splits, the settings, and what the model is called in the comparison."""

    model_path: Path
    dataset_path: Path
    predictions: Path
    label: str = "tuned"
    precision: str = "32"
    evaluation_config: Path | None = None
    evaluation_config_params: str | None = None


def main(arguments: Arguments, step: Step) -> None:
    """Evaluate on the test split; without one on validation, and without either not at all: both are said."""
    split = next((name for name in ("test", "validation") if (arguments.dataset_path / name).is_dir()), None)
    if split is None:
        reason = "no test and no validation conversations were given, and none are taken from train"
        step.reporter.notice("EvaluationSkipped", f"the evaluation is left out: {reason}", level="info")
        write_json(arguments.predictions / SKIPPED, {"reason": reason})
        return

    from tunesmith.chat.prepared import Prepared
    from tunesmith.evaluate import EvaluationSettings, evaluate_model
    from tunesmith.models import ModelPackage

    prepared = Prepared.open(arguments.dataset_path / split)
    if split == "validation":
        step.reporter.notice(
            "EvaluatedOnValidation",
            "no test conversations were given: measured on the validation conversations, by which the model was chosen",
            level="info",
        )
    settings = EvaluationSettings.load(arguments.evaluation_config, arguments.evaluation_config_params)
    precision = evaluation_precision(arguments.precision, arguments.predictions)
    step.reporter.log(f"measured in {precision} (precision {arguments.precision} was asked for)")
    evaluation, probes = evaluate_model(
        ModelPackage.open(arguments.model_path),
        prepared,
        settings,
        precision=precision,
        probes=arguments.label == "tuned",
        reporter=step.reporter,
        label=arguments.label,
    )
    write_text(arguments.predictions / EVALUATION, evaluation.model_dump_json(indent=1) + "\n")
    write_json(arguments.predictions / PROBES, [probe.model_dump(mode="json") for probe in probes])
    sources = ", ".join(source.path for source in prepared.report.sources)
    write_json(arguments.predictions / DATA, {"split": split, "data": sources, "data_key": prepared.report.key})
    for name, value in evaluation.metrics.items():
        step.reporter.log(f"{arguments.label} {name}: {value:.4g}")


def evaluation_precision(asked: str, disk: Path) -> str:
    """``32``, or ``bf16`` where training may be in half precision and the machine has products for it.

    It depends on nothing that is timed: base and tuned model, measured in steps of their own, get the same.
    """
    from tunesmith.compute.machine import detect

    machine = detect(disk)
    quick = bool(machine.gpus) or any("bf16" in instruction for instruction in machine.instructions)
    return "bf16" if asked != "32" and quick else "32"


if __name__ == "__main__":
    run(Arguments, main)
