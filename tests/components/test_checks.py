from __future__ import annotations

from tunesmith.components.checks import finetune_parameters


def test_bounds_that_the_schema_does_not_hold() -> None:
    faults = {
        fault.target: fault.message for fault in finetune_parameters({"learning_rate": "-1", "lora_dropout": "1.5"})
    }
    assert set(faults) == {"learning_rate", "lora_dropout"}


def test_right_values_and_inputs_of_other_steps_pass() -> None:
    assert (
        finetune_parameters({"learning_rate": "1e-4", "instance_type_finetune": "x", "trust_remote_code": "false"})
        == []
    )


def test_code_from_outside_is_refused() -> None:
    (fault,) = finetune_parameters({"trust_remote_code": "true"})
    assert (fault.target, fault.message) == ("trust_remote_code", "code that comes with a model is never run")
