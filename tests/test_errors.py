"""The tree of errors and its wire form."""

import pickle

import pytest

from tunesmith import errors
from tunesmith.errors import Fault, TunesmithError, error_from_dict


def every_error() -> list[type[TunesmithError]]:
    found = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, TunesmithError)]
    return sorted(found, key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", every_error())
def test_round_trip(kind: type[TunesmithError]) -> None:
    error = kind(
        "cause",
        target="f.jsonl:3",
        way_out="do this",
        details=[Fault("bad role", "f.jsonl:3#messages[0].role", "Role", "use user")],
        extra={"n": 1},
    )
    again = error_from_dict(error.to_dict())
    assert type(again) is kind
    assert again.to_dict() == error.to_dict()
    assert pickle.loads(pickle.dumps(error)).to_dict() == error.to_dict()


def test_codes_are_unique() -> None:
    codes = [kind.code for kind in every_error()]
    assert len(codes) == len(set(codes))


def test_a_users_mistake_exits_with_2_and_a_failure_with_1() -> None:
    for kind in every_error():
        assert kind.exit_code == (2 if issubclass(kind, errors.UserError) else 1)
        assert 400 <= kind.status < 600


def test_text_has_place_cause_faults_and_way_out() -> None:
    error = errors.ValidationFailed(
        "2 faults", target="job.yaml", way_out="see the docs", details=[Fault("is required", "inputs.x"), Fault("odd")]
    )
    assert str(error) == "job.yaml: 2 faults\n  - inputs.x: is required\n  - odd\n  Way out: see the docs"


@pytest.mark.parametrize(("status", "kind"), [(418, errors.UserError), (599, errors.Failure), (None, errors.Failure)])
def test_unknown_code_keeps_mistake_and_failure_apart(status: int | None, kind: type[TunesmithError]) -> None:
    assert type(error_from_dict({"error": {"code": "FromTheFuture", "message": "m"}}, status=status)) is kind


def test_a_body_that_is_no_mapping() -> None:
    assert str(error_from_dict({"error": "plain text"})) == "plain text"
