"""One package through the whole evaluation: loaded once, loss over all rows, answers, probes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.evaluate.loss import LossResult, evaluate_loss
from tunesmith.evaluate.probes import GreedyProbe, record_probes
from tunesmith.evaluate.result import ModelEvaluation
from tunesmith.evaluate.settings import EvaluationSettings
from tunesmith.evaluate.text import TextResult, evaluate_text
from tunesmith.reporting import NullReporter, Reporter

if TYPE_CHECKING:
    from tunesmith.chat.prepared import Prepared
    from tunesmith.models.package import ModelPackage


def evaluate_model(
    package: ModelPackage | Path,
    prepared: Prepared,
    settings: EvaluationSettings | None = None,
    *,
    name: str | None = None,
    precision: str = "32",
    probes: bool = False,
    reporter: Reporter | None = None,
    label: str = "",
) -> tuple[ModelEvaluation, tuple[GreedyProbe, ...]]:
    """Evaluate a package on a prepared test split; with ``probes``, record greedy answers as well.

    ``label`` (such as ``base``) is put before the phases' names in progress reports. The numbers are those of
    ``precision``, float32 unless said otherwise. The model is loaded once for all parts.
    """
    from tunesmith.generate.opening import serve_model
    from tunesmith.generate.precision import torch_dtype
    from tunesmith.models.loading import load_model
    from tunesmith.models.package import ModelPackage

    settings, reporter = settings or EvaluationSettings(), reporter or NullReporter()
    if isinstance(package, Path):
        package = ModelPackage.open(package)
    prefix = f"{label} " if label else ""
    model = load_model(package, dtype=torch_dtype(precision))
    loss: LossResult | None = None
    if "loss" in settings.metrics:
        loss = evaluate_loss(
            model,
            prepared,
            end_of_turn_ids=(package.tokenizer().end_of_turn_id,),
            batch_tokens=settings.batch_tokens,
            reporter=reporter,
            phase=f"{prefix}loss",
        )
    text: TextResult | None = None
    recorded: tuple[GreedyProbe, ...] = ()
    engine_name = ""
    if settings.generates or (probes and settings.num_probes):
        engine = serve_model(model, package, precision=precision, reason="as the loss was computed")
        engine_name = engine.description.engine
        try:
            if settings.generates:
                text = evaluate_text(
                    engine, prepared.conversations(), settings, reporter=reporter, phase=f"{prefix}answers"
                )
            if probes and settings.num_probes:
                recorded = record_probes(engine, prepared.conversations(), settings.num_probes, seed=settings.seed)
        finally:
            engine.close()
    evaluation = ModelEvaluation(
        name=name or package.manifest.name,
        sha256=package.sha256,
        engine=engine_name,
        precision=precision,
        loss=loss,
        text=text,
    )
    return evaluation, recorded
