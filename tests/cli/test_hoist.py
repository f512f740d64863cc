"""Global options may stand anywhere before ``--``."""

import pytest

from tunesmith.cli.hoisting import hoist


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["jobs", "list", "--json"], ["--json", "jobs", "list"]),
        (["jobs", "list", "--workspace", "w"], ["--workspace", "w", "jobs", "list"]),
        (["jobs", "list", "--workspace=w", "--debug"], ["--workspace", "w", "--debug", "jobs", "list"]),
        (["endpoints", "invoke", "e", "--", "--json"], ["endpoints", "invoke", "e", "--", "--json"]),
        (["status", "--url"], ["status", "--url"]),
        ([], []),
    ],
)
def test_hoist(given: list[str], expected: list[str]) -> None:
    assert hoist(given) == expected
