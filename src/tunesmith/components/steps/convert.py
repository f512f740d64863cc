"""Step ``ft_nlp_model_converter``: the trained weights become an MLflow model folder that holds a model package."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.components.steps.runtime import Step, fresh, run
from tunesmith.components.steps.settings import finetune_parameters

if TYPE_CHECKING:
    from tunesmith.chat.messages import Conversation
    from tunesmith.models.mlflow_scorer import MlflowScorer

PROBES = 8
"""Conversations on which merged and unmerged model are compared."""


@dataclass(frozen=True)
class Arguments:
    """The base, what was trained, and where the MLflow model goes."""

    model_path: Path
    finetuned_model_path: Path
    mlflow_model_folder: Path
    dataset_path: Path | None = None
    finetune_config_path: Path | None = None
    merge_lora_weights: str = "true"


def main(arguments: Arguments, step: Step) -> None:
    """Merge where there is an adapter to merge, then write and check the MLflow model."""
    from tunesmith.models.mlflow_scorer import MlflowScorer

    # Started first: it imports while this process imports and merges.
    with MlflowScorer(fork=step.preloaded) as scorer:
        _convert(arguments, step, scorer)


def _convert(arguments: Arguments, step: Step, scorer: MlflowScorer) -> None:
    from tunesmith.models import ModelPackage
    from tunesmith.models.merging import merge_adapter
    from tunesmith.models.mlflow_format import write_mlflow_model

    parameters = finetune_parameters(asdict(arguments), arguments.finetune_config_path, step.reporter)
    base = ModelPackage.open(arguments.model_path)
    adapter: Path | None = arguments.finetuned_model_path / "adapter"
    assert adapter is not None
    if not adapter.exists():
        adapter, package = None, ModelPackage.open(arguments.finetuned_model_path / "package")
    elif parameters.merge_lora_weights:
        merged = step.checkpoints / "merged"
        if merged.exists():
            package = ModelPackage.open(merged)
        else:
            report = merge_adapter(base, adapter, merged, probes=probes(arguments.dataset_path), reporter=step.reporter)
            far = f"mean KL to the unmerged model {report.stored.mean_kl:.2g} nats"
            step.reporter.log(f"merged {report.merged_modules} modules as {report.dtype}; {far}")
            package = ModelPackage.open(merged)
    else:
        package = base
        step.reporter.notice(
            "NotMerged",
            "merge_lora_weights false: the base's weights stay as they are, the adapter lies beside them",
            level="info",
        )
    output = fresh(arguments.mlflow_model_folder)
    write_mlflow_model(package, output, metadata={"job": str(step.inputs().get("job", ""))}, adapter=adapter)
    scorer.check(output)
    step.reporter.log(f"MLflow model: {output.name}, package {package.sha256[:12]}")


def probes(dataset: Path | None) -> list[Conversation] | None:
    """The first conversations that the model was not trained on, or else of those it was; ``None`` without data."""
    from tunesmith.chat.prepared import Prepared

    for split in ("test", "validation", "train"):
        if dataset is not None and (dataset / split).is_dir():
            return list(islice(Prepared.open(dataset / split).conversations(), PROBES))
    return None


if __name__ == "__main__":
    run(Arguments, main)
