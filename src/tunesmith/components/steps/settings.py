"""Values of the training inputs for a step: the arguments, filled up from ``finetune_config_path``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tunesmith.errors import Fault, ValidationFailed
from tunesmith.finetune.inputs import INPUTS
from tunesmith.finetune.parameters import FinetuneParameters, did_you_mean
from tunesmith.reporting import Reporter


def read_mapping(path: Path) -> dict[str, Any]:
    """A YAML or JSON file that holds a mapping.

    Raises:
        ValidationFailed: it does not.
    """
    try:
        body = yaml.safe_load(path.read_text("utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ValidationFailed("not a YAML or JSON file", target=place) from None
    if not isinstance(body, dict):
        raise ValidationFailed("must hold a mapping of names to values", target=str(path))
    return {str(key): value for key, value in body.items()}


def training_values(given: Mapping[str, Any], config: Path | None, reporter: Reporter) -> dict[str, Any]:
    """The training inputs in ``given``; where one stands at its default, the file's value takes its place.

    Raises:
        ValidationFailed: the file names an input that there is not.
    """
    values = {name: value for name, value in given.items() if name in INPUTS and value is not None}
    if config is None:
        return values
    body = read_mapping(config)
    unknown = [name for name in body if name not in INPUTS]
    if unknown:
        faults = [
            Fault(f"there is no training input {name!r}", f"{config}#{name}", way_out=did_you_mean(name, INPUTS))
            for name in unknown
        ]
        raise ValidationFailed("the fine-tuning configuration has unknown names", details=faults)
    for name, value in body.items():
        if _same(name, values.get(name), INPUTS[name].default):
            values[name] = value
        elif not _same(name, values[name], value):
            reporter.notice(
                "ConfigOverridden",
                f"{name} = {values[name]} as given with the job; {value} in {config.name} is not used",
                level="info",
            )
    return values


def finetune_parameters(given: Mapping[str, Any], config: Path | None, reporter: Reporter) -> FinetuneParameters:
    """``FinetuneParameters`` from a step's arguments and the configuration file."""
    return FinetuneParameters.from_strings(training_values(given, config, reporter))


def _same(name: str, value: Any, other: Any) -> bool:
    """Whether two spellings of a value mean the same."""
    if value is None or other is None:
        return (value is None and other is None) or value is None
    kind = INPUTS[name].kind
    if kind in ("integer", "number"):
        try:
            return float(value) == float(other)
        except (TypeError, ValueError):
            return False
    return str(value).lower() == str(other).lower()
