"""The evaluation of a tuned model beside its base: an artifact that a person reads and a gate judges.

A folder ``evaluation_result/`` has

    evaluation.json      everything (``EvaluationResult``)
    metrics.json         flat numbers: ``perplexity``, ``base_perplexity``, …
    samples.jsonl        sample answers, base beside tuned, one a line
    greedy_probes.json   greedy answers that a deployment must give again (see ``probes.py``)
    summary.md           the table, for reading where there is no program
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tunesmith.errors import InvalidData, NotFound
from tunesmith.evaluate.gate import GateResult, judge
from tunesmith.evaluate.loss import LossResult
from tunesmith.evaluate.probes import GREEDY_PROBES_FILE, GreedyProbe
from tunesmith.evaluate.settings import EvaluationSettings
from tunesmith.evaluate.text import TextResult

RESULT_FILE = "evaluation.json"
METRICS_FILE = "metrics.json"
SAMPLES_FILE = "samples.jsonl"
SUMMARY_FILE = "summary.md"

LOWER_IS_BETTER = frozenset({"loss", "perplexity"})
NEITHER_IS_BETTER = frozenset({"answer_tokens"})


class ModelEvaluation(BaseModel):
    """What was measured of one model."""

    model_config = ConfigDict(frozen=True)

    name: str
    sha256: str = ""
    """Of the package; empty for a model in memory."""
    engine: str = ""
    precision: str = ""
    loss: LossResult | None = None
    text: TextResult | None = None

    @property
    def metrics(self) -> dict[str, float]:
        """Flat names to numbers."""
        found: dict[str, float] = {}
        if self.loss is not None:
            found |= {"loss": self.loss.loss, "perplexity": self.loss.perplexity, "accuracy": self.loss.accuracy}
            if self.loss.end_of_turn_accuracy is not None:
                found["end_of_turn_accuracy"] = self.loss.end_of_turn_accuracy
        if self.text is not None:
            found |= self.text.metrics
        return found


class Delta(BaseModel):
    """One metric of both models."""

    model_config = ConfigDict(frozen=True)

    base: float
    tuned: float
    change: float
    """``tuned - base``."""
    relative: float | None
    """``change / |base|``; ``None`` where base is 0."""
    better: bool | None
    """Whether the tuned model is better; ``None`` where they are equal or neither direction is."""


class Sample(BaseModel):
    """One conversation with the answers of both models."""

    model_config = ConfigDict(frozen=True)

    source: str
    messages: tuple[dict[str, Any], ...]
    reference: str
    base: str | None
    tuned: str
    tuned_f1: float
    base_f1: float | None


class EvaluationResult(BaseModel):
    """The tuned model's evaluation, and the base model's beside it where there is one."""

    model_config = ConfigDict(frozen=True)

    tuned: ModelEvaluation
    base: ModelEvaluation | None = None
    settings: EvaluationSettings = Field(default_factory=EvaluationSettings)
    data: str = ""
    """What it was measured on: a path or reference."""
    data_key: str = ""
    """Hash of the prepared rows."""
    samples: tuple[Sample, ...] = ()
    greedy_probes: tuple[GreedyProbe, ...] = ()
    gate: GateResult | None = None
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    format_version: int = 1

    @property
    def deltas(self) -> dict[str, Delta]:
        """Every metric that both models have."""
        if self.base is None:
            return {}
        before = self.base.metrics
        return {name: _delta(name, before[name], now) for name, now in self.tuned.metrics.items() if name in before}

    @property
    def metrics(self) -> dict[str, float]:
        """Flat numbers for a tracking store: the tuned model's by their names, the base model's as ``base_…``."""
        base = {} if self.base is None else {f"base_{name}": value for name, value in self.base.metrics.items()}
        return self.tuned.metrics | base

    def with_gate(self, rule: str) -> EvaluationResult:
        """The same with the verdict of ``rule``. Raises ``ValidationFailed`` for a rule that cannot be judged."""
        return self.model_copy(update={"gate": gate(rule, self)})

    def save(self, folder: Path) -> Path:
        """Write the artifact's files into ``folder`` (made if need be) and return it."""
        from tunesmith.evaluate.table import markdown

        folder.mkdir(parents=True, exist_ok=True)
        samples = "".join(sample.model_dump_json() + "\n" for sample in self.samples)
        probes = [probe.model_dump(mode="json") for probe in self.greedy_probes]
        (folder / SAMPLES_FILE).write_text(samples, encoding="utf-8")
        (folder / GREEDY_PROBES_FILE).write_text(json.dumps(probes, ensure_ascii=False, indent=1), encoding="utf-8")
        (folder / METRICS_FILE).write_text(json.dumps(self.metrics, indent=1), encoding="utf-8")
        (folder / SUMMARY_FILE).write_text(markdown(self), encoding="utf-8")
        (folder / RESULT_FILE).write_text(self.model_dump_json(indent=1), encoding="utf-8")
        return folder

    @classmethod
    def load(cls, folder: Path) -> EvaluationResult:
        """Read the artifact back. Raises ``NotFound`` or ``InvalidData``."""
        path = folder / RESULT_FILE
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise NotFound(
                f"no evaluation here: there is no {RESULT_FILE}",
                target=str(folder),
                way_out="the output evaluation_result of a job that was given a test file has one",
            ) from None
        except ValidationError as error:
            raise InvalidData(
                f"the evaluation cannot be read: {error.errors()[0]['msg']}", target=str(path), way_out="evaluate again"
            ) from None


def compare(
    base: ModelEvaluation | None,
    tuned: ModelEvaluation,
    *,
    settings: EvaluationSettings | None = None,
    data: str = "",
    data_key: str = "",
    greedy_probes: tuple[GreedyProbe, ...] = (),
) -> EvaluationResult:
    """Put two evaluations on the same data side by side."""
    settings = settings or EvaluationSettings()
    return EvaluationResult(
        tuned=tuned,
        base=base,
        settings=settings,
        data=data,
        data_key=data_key,
        samples=_samples(base, tuned, settings.num_shown),
        greedy_probes=greedy_probes,
    )


def gate(rule: str, result: EvaluationResult) -> GateResult:
    """Judge ``result`` by ``rule``; see ``gate.py`` for the language."""
    return judge(rule, result.tuned.metrics, None if result.base is None else result.base.metrics)


def _delta(name: str, base: float, tuned: float) -> Delta:
    change = tuned - base
    better = None
    if change and name not in NEITHER_IS_BETTER:
        better = (change < 0) == (name in LOWER_IS_BETTER)
    return Delta(base=base, tuned=tuned, change=change, relative=change / abs(base) if base else None, better=better)


def _samples(base: ModelEvaluation | None, tuned: ModelEvaluation, count: int) -> tuple[Sample, ...]:
    if tuned.text is None:
        return ()
    before: Mapping[tuple[str, str], Any] = {}
    if base is not None and base.text is not None:
        before = {(answer.source, answer.reference): answer for answer in base.text.answers}
    found = []
    for answer in tuned.text.answers[:count]:
        other = before.get((answer.source, answer.reference))
        found.append(
            Sample(
                source=answer.source,
                messages=answer.messages,
                reference=answer.reference,
                base=None if other is None else other.answer,
                tuned=answer.answer,
                tuned_f1=answer.f1,
                base_f1=None if other is None else other.f1,
            )
        )
    return tuple(found)
