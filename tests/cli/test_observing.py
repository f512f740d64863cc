"""``tunesmith endpoints logs`` over a real endpoint."""

from __future__ import annotations

import json

from tests.cli.conftest import Served


def test_logs_are_headed_by_their_deployment_and_json_on_demand(served: Served) -> None:
    whole = served.ws.deployments.logs("chat", "blue", lines=10_000).splitlines()
    assert whole
    first = whole[0]  # what comes later may grow meanwhile
    text = served.run("endpoints", "logs", "chat", "--lines", "10000")
    assert (text.returncode, text.stdout.splitlines()[0]) == (0, f"blue: {first}")
    one = served.run("endpoints", "logs", "chat", "--deployment", "blue", "--lines", "10000", "--json")
    assert json.loads(one.stdout)[0] == {"deployment": "blue", "line": first}
    none = served.run("endpoints", "logs", "chat", "--deployment", "green", "--json")
    assert none.returncode == 2
    assert "green" in json.loads(none.stderr)["error"]["message"]
