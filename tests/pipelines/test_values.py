from __future__ import annotations

import pytest

from tunesmith.pipelines.schema import InputSpec
from tunesmith.pipelines.values import canonical, did_you_mean


@pytest.mark.parametrize(
    ("type", "value", "text"),
    [
        ("string", "hello", "hello"),
        ("string", True, "true"),
        ("string", "True", "True"),
        ("string", 32, "32"),
        ("string", 0.5, "0.5"),
        ("integer", 3, "3"),
        ("integer", "3", "3"),
        ("integer", 3.0, "3"),
        ("integer", "-1", "-1"),
        ("integer", "1e3", "1000"),
        ("integer", 2**63, str(2**63)),
        ("number", "5e-06", "5e-06"),
        ("number", 5e-6, "5e-06"),
        ("number", "0.000005", "5e-06"),
        ("number", 1, "1"),
        ("number", "1.0", "1"),
        ("boolean", "True", "true"),
        ("boolean", False, "false"),
    ],
)
def test_one_text_for_every_spelling(type: str, value: object, text: str) -> None:
    assert canonical(InputSpec("x", type), value) == text


@pytest.mark.parametrize(
    ("type", "value", "message"),
    [
        ("integer", "2.5", "must be a whole number, got '2.5'"),
        ("integer", "abc", "must be a whole number, got 'abc'"),
        ("integer", True, "must be a whole number, got True"),
        ("integer", float("nan"), "must be a whole number, got nan"),
        ("integer", None, "must be a whole number, got None"),
        ("number", "x", "must be a number, got 'x'"),
        ("number", float("nan"), "must be a finite number, got nan"),
        ("number", "inf", "must be a finite number, got 'inf'"),
        ("number", True, "must be a number, got True"),
        ("boolean", "yes", "must be true or false, got 'yes'"),
        ("string", ["a"], "must be text, got ['a']"),
    ],
)
def test_wrong_types_are_said(type: str, value: object, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        canonical(InputSpec("x", type), value)
    assert str(caught.value) == message


def test_enum_names_what_is_allowed_and_the_closest() -> None:
    spec = InputSpec("scheduler", "string", enum=("linear", "cosine"))
    assert canonical(spec, "cosine") == "cosine"
    assert canonical(InputSpec("lora", "string", enum=("true", "false")), "True") == "true"
    with pytest.raises(ValueError, match="must be one of linear, cosine, got 'cosin'; did you mean 'cosine'"):
        canonical(spec, "cosin")


def test_bounds_are_inclusive() -> None:
    spec = InputSpec("epochs", "integer", min=1, max=3)
    assert canonical(spec, 1) == "1"
    assert canonical(spec, 3) == "3"
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        canonical(spec, 0)
    with pytest.raises(ValueError, match="must be at most 3, got 4"):
        canonical(spec, 4)


def test_did_you_mean_passes_over_case() -> None:
    assert did_you_mean("Learning_Rate", ["learning_rate"]) == "did you mean 'learning_rate'?"
    assert did_you_mean("zzz", ["learning_rate"]) is None
