"""The language of rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.errors import Conflict, TunesmithError, ValidationFailed
from tunesmith.evaluate.gate import check_rule, judge

TUNED = {"loss": 2.0, "perplexity": 7.5, "rougeL": 0.31, "f1": 0.5}
BASE = {"loss": 2.5, "perplexity": 12.0, "rougeL": 0.30, "f1": 0.0}


@pytest.mark.parametrize(
    ("rule", "passed"),
    [
        ("perplexity <= base", True),
        ("perplexity<=base*0.8", True),
        ("perplexity <= base * 0.5", False),
        ("rougeL >= base * 1.02", True),
        ("rougeL >= base * 1.04", False),
        ("perplexity < 20", True),
        ("perplexity < 7.5", False),
        ("perplexity <= 7.5", True),
        ("20 > perplexity", True),
        ("base > perplexity", True),
        ("perplexity < 5 or f1 >= base", True),
        ("perplexity < 5 and f1 >= base", False),
        ("perplexity <= base and rougeL >= base and loss < 2.1", True),
        ("not perplexity > base", True),
        ("not (perplexity > base or f1 > 0.4)", False),
        ("(perplexity < 5 or f1 > 0.4) and loss == 2", True),
        ("perplexity < 5 or f1 > 0.4 and loss == 3", False),
        ("(perplexity - base.perplexity) / base.perplexity < -0.3", True),
        ("base.loss - loss >= .5", True),
        ("(base - loss) >= 0.5", True),
        ("((perplexity)) < (1 + 2) * 3", True),
        ("1 - 2 - 3 == -4 and 8 / 2 / 2 == 2 and 2 + 3 * 4 == 14", True),
        ("loss != 2e0", False),
        ("-loss < -1.5", True),
    ],
)
def test_rules(rule: str, passed: bool) -> None:
    check_rule(rule)
    assert judge(rule, TUNED, BASE).passed is passed


def test_the_result_has_every_number() -> None:
    result = judge("perplexity <= base * 0.5 and f1 > 0.4", TUNED, BASE)
    assert [(check.text, check.left, check.relation, check.right, check.holds) for check in result.checks] == [
        ("perplexity <= base * 0.5", 7.5, "<=", 6.0, False),
        ("f1 > 0.4", 0.5, ">", 0.4, True),
    ]
    with pytest.raises(Conflict, match=r"perplexity <= base \* 0.5: 7.5 <= 6 does not hold; f1 > 0.4: 0.5 > 0.4 holds"):
        result.require()
    judge("f1 > 0.4", TUNED).require()


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("", "empty"),
        ("  ", "empty"),
        ("perplexity", "character 11: a comparison .* is missing"),
        ("perplexity <", "missing at the end"),
        ("perplexity <= <= 3", "character 15: '<=' stands where a number"),
        ("perplexity < 3 f1 > 2", "character 16: 'f1' is not expected"),
        ("(perplexity < 3", "never closed"),
        ("(perplexity < 3 f1", "'f1' is not expected"),
        ("(1 + 2 < 3", "never closed"),
        ("perplexity < 3)", r"'\)' is not expected"),
        ("and perplexity < 3", "'and' stands where"),
        ("perplexity = 3", "character 12: '=' is not part of the language"),
        ("perplexity ≤ base", "'≤' is not part"),
        ("__import__('os') < 3", "character 12: .* is not part"),
        ("__import__(os) < 3", "character 11: a comparison .* is missing"),
        ("loss.real < 3", "'loss.real' is no metric"),
        ("perplexity < 1 < 2", "'<' is not expected"),
        ("x" * 501, "longer than 500"),
        ("(" * 60 + "loss" + ")" * 60 + " < 3", "nests deeper"),
        ("not " * 60 + "loss < 3", "nests deeper"),
    ],
)
def test_what_is_no_rule_says_where(rule: str, message: str) -> None:
    with pytest.raises(ValidationFailed, match=message) as caught:
        check_rule(rule)
    assert caught.value.target == "gate"


@pytest.mark.parametrize(
    ("rule", "message", "way_out"),
    [
        ("perplexty < 3", "the evaluation has no perplexty", "did you mean perplexity"),
        ("zebra < 3", "the evaluation has no zebra", "f1, loss, perplexity, rougeL"),
        ("base.zebra < 3", "the base model's evaluation has no zebra", "f1, loss"),
        ("base < 3", "which metric of the base model", "base.perplexity"),
        ("loss + f1 < base", "which metric of the base model", "base.perplexity"),
        ("loss / (f1 - f1) < 3", "division by zero", ""),
    ],
)
def test_what_cannot_be_judged(rule: str, message: str, way_out: str) -> None:
    check_rule(rule)
    with pytest.raises(ValidationFailed, match=message) as caught:
        judge(rule, TUNED, BASE)
    assert way_out in (caught.value.way_out or "")


def test_base_without_a_base_model() -> None:
    with pytest.raises(ValidationFailed, match="no evaluation of a base model"):
        judge("perplexity <= base", TUNED)


@given(st.text(alphabet="perlx base.<>=!()+-*/0123and or not'\"_ é", max_size=60))
def test_any_text_is_read_or_refused(rule: str) -> None:
    try:
        judge(rule, TUNED, BASE)
    except TunesmithError as error:
        assert error.exit_code == 2
