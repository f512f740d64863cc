"""Evaluation: loss and perplexity, text metrics, base beside tuned, and a gate.

Importing this brings in neither torch nor the metric libraries; the functions do when called.
"""

from tunesmith.evaluate.gate import GateCheck, GateResult, check_rule, judge
from tunesmith.evaluate.loss import LossResult, evaluate_loss
from tunesmith.evaluate.model import evaluate_model
from tunesmith.evaluate.probes import GREEDY_PROBES_FILE, GreedyProbe, record_probes
from tunesmith.evaluate.result import Delta, EvaluationResult, ModelEvaluation, Sample, compare, gate
from tunesmith.evaluate.settings import EvaluationSettings
from tunesmith.evaluate.text import Answer, TextResult, evaluate_text, evaluate_text_async

__all__ = [
    "GREEDY_PROBES_FILE",
    "Answer",
    "Delta",
    "EvaluationResult",
    "EvaluationSettings",
    "GateCheck",
    "GateResult",
    "GreedyProbe",
    "LossResult",
    "ModelEvaluation",
    "Sample",
    "TextResult",
    "check_rule",
    "compare",
    "evaluate_loss",
    "evaluate_model",
    "evaluate_text",
    "evaluate_text_async",
    "gate",
    "judge",
    "record_probes",
]
