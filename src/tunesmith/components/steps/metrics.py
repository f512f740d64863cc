"""Step ``compute_metrics``: tuned beside base, as the artifact that is read and that a gate judges."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tunesmith.components.steps import predict
from tunesmith.components.steps.runtime import Step, run
from tunesmith.storage.atomic import write_json


@dataclass(frozen=True)
class Arguments:
    """The predictions of both models, the settings, and where the comparison goes."""

    predictions: Path
    evaluation_result: Path
    base_predictions: Path | None = None
    evaluation_config: Path | None = None
    evaluation_config_params: str | None = None


def main(arguments: Arguments, step: Step) -> None:
    """Compare, write, and print the table."""
    skipped = arguments.predictions / predict.SKIPPED
    if skipped.exists():
        reason = json.loads(skipped.read_text("utf-8"))["reason"]
        step.reporter.log(f"there is nothing to compare: {reason}")
        write_json(arguments.evaluation_result / predict.SKIPPED, {"reason": reason})
        return

    from rich.console import Console

    from tunesmith.evaluate import EvaluationSettings, GreedyProbe, ModelEvaluation, compare
    from tunesmith.evaluate.table import render

    def read(folder: Path) -> ModelEvaluation:
        return ModelEvaluation.model_validate_json((folder / predict.EVALUATION).read_bytes())

    probes = json.loads((arguments.predictions / predict.PROBES).read_text("utf-8"))
    data = json.loads((arguments.predictions / predict.DATA).read_text("utf-8"))
    result = compare(
        read(arguments.base_predictions) if arguments.base_predictions else None,
        read(arguments.predictions),
        settings=EvaluationSettings.load(arguments.evaluation_config, arguments.evaluation_config_params),
        data=data["data"],
        data_key=data["data_key"],
        greedy_probes=tuple(GreedyProbe.model_validate(probe) for probe in probes),
    )
    result.save(arguments.evaluation_result)
    step.reporter.metric(0, {f"evaluation/{name}": value for name, value in result.metrics.items()})
    Console(width=110).print(render(result))


if __name__ == "__main__":
    run(Arguments, main)
