"""Rules that system components name in their ``check`` property: what a type, an enum or a bound cannot say."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tunesmith.errors import Fault, ValidationFailed
from tunesmith.finetune.inputs import INPUTS
from tunesmith.finetune.parameters import FinetuneParameters

Check = Callable[[Mapping[str, str]], list[Fault]]
"""Takes the values of a component's literal inputs; the faults, each with an input's name as its target."""


def finetune_parameters(values: Mapping[str, str]) -> list[Fault]:
    """The training inputs: bounds that Azure ML's component does not declare, and values that do not go together."""
    faults: list[Fault] = []
    if values.get("trust_remote_code") == "true":
        faults.append(
            Fault(
                "code that comes with a model is never run",
                "trust_remote_code",
                way_out='leave it at "false": the architectures that are known here need no code from outside',
            )
        )
    try:
        FinetuneParameters.from_strings({name: value for name, value in values.items() if name in INPUTS})
    except ValidationFailed as error:
        faults += error.details
    return faults


CHECKS: Mapping[str, Check] = {"finetune_parameters": finetune_parameters}
"""By name."""
