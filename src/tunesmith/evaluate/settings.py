"""What an evaluation does: the pipeline's ``evaluation_config`` file and ``evaluation_config_params`` text.

Both are JSON or YAML with the fields below; where both name a field, the text wins, as a command line wins over a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from tunesmith.errors import InvalidData, NotFound, ValidationFailed

Metric = Literal["loss", "rouge", "bleu", "chrf", "exact", "f1", "stop"]
"""``loss`` brings perplexity and accuracies; ``rouge`` brings rouge1, rouge2 and rougeL; ``stop`` the share of
answers that ended by themselves."""

TEXT_METRICS: tuple[Metric, ...] = ("rouge", "bleu", "chrf", "exact", "f1", "stop")
"""Those that need answers to be generated."""


class EvaluationSettings(BaseModel):
    """How a model is evaluated. Unknown fields are refused by name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    metrics: tuple[Metric, ...] = get_args(Metric)
    num_samples: int = Field(default=16, ge=0)
    """Conversations to generate answers for, drawn with ``seed`` from the test split; 0 generates none. The loss is
    always over all rows."""
    max_new_tokens: int = Field(default=64, ge=1)
    """Tokens an answer may have."""
    temperature: float = Field(default=0.0, ge=0.0, le=2.0)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    seed: int = 0
    """Which conversations are drawn, and the sampling when the temperature is above 0."""
    num_shown: int = Field(default=8, ge=0)
    """Answers that are kept with the result for reading, base beside tuned."""
    num_probes: int = Field(default=3, ge=0)
    """Greedy answers recorded so that a deployment can show that it serves this very model."""
    batch_tokens: int = Field(default=2048, ge=1)
    """Tokens computed together for the loss."""

    @property
    def generates(self) -> bool:
        """Whether answers are generated for metrics."""
        return self.num_samples > 0 and any(metric in TEXT_METRICS for metric in self.metrics)

    @classmethod
    def load(cls, config: Path | None = None, params: str | None = None) -> EvaluationSettings:
        """Settings from a file, a text, both or neither.

        Raises ``NotFound`` for a file that is not there, ``InvalidData`` for what is neither JSON nor YAML, and
        ``ValidationFailed`` with every fault.
        """
        body: dict[str, Any] = {}
        if config is not None:
            if not config.is_file():
                raise NotFound(
                    "there is no such file", target=str(config), way_out="check the path given as evaluation_config"
                )
            try:
                text = config.read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise InvalidData(f"not UTF-8 text: {error}", target=str(config)) from None
            body.update(_mapping(text, str(config)))
        if params is not None and params.strip():
            body.update(_mapping(params, "evaluation_config_params"))
        return _validated(body)


def _mapping(text: str, target: str) -> Mapping[str, Any]:
    import yaml

    try:
        body = yaml.safe_load(text)  # JSON is YAML
    except yaml.YAMLError as error:
        raise InvalidData(f"neither JSON nor YAML: {error}", target=target) from None
    if body is None:
        return {}
    if not isinstance(body, dict):
        raise InvalidData(
            f"must be a mapping of settings, not {type(body).__name__}",
            target=target,
            way_out="for example: num_samples: 16",
        )
    return body


def _validated(body: Mapping[str, Any]) -> EvaluationSettings:
    import difflib

    from pydantic import ValidationError

    from tunesmith.errors import Fault

    try:
        return EvaluationSettings.model_validate(body)
    except ValidationError as error:
        faults = []
        for item in error.errors():
            place = ".".join(str(part) for part in item["loc"])
            if item["type"] == "extra_forbidden":
                close = difflib.get_close_matches(place, EvaluationSettings.model_fields, n=1)
                known = ", ".join(EvaluationSettings.model_fields)
                way_out = f"did you mean {close[0]}?" if close else f"known: {known}"
                faults.append(Fault("not a setting of an evaluation", f"evaluation_config.{place}", way_out=way_out))
            else:
                faults.append(Fault(item["msg"], f"evaluation_config.{place}"))
        raise ValidationFailed("the evaluation's settings are faulty", details=faults) from None
