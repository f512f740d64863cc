"""What our own OpenAPI page allows, and what it does not: an answer of ours to both, never an unexpected error.

The cases are schemathesis': made of the page that the running server gives out, some that fit it and some that do not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import APIOperation, Case, GenerationMode
from schemathesis.core.result import Ok

from tests.support.server import RunningServer, running_server

LEFT_OUT = {
    "POST /api/v1/shutdown",  # ends the server
    "POST /api/v1/models/import",  # starts a job for every source
}
THERE = {
    "endpoint": "chat",
    "deployment": "blue",
    "registry": "azureml",
    "key": "secondary",
    "label": "latest",
    "version": "1",
}
"""Path parameters that mean something in the workspace; most cases have them."""
PROTOCOLS = "/endpoints/"
NAMES = {"models": "SmolLM2-135M-Instruct", "components": "chat_completion_pipeline", "computes": "local"}


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server of its own, for much is made in it."""
    with running_server(tmp_path_factory.mktemp("openapi") / "home") as running:
        with running.http as http:
            http.put("/api/v1/endpoints/chat", json={"name": "chat"}).raise_for_status()
        yield running


def operations(server: RunningServer) -> list[APIOperation[Any, Any, Any, Any]]:
    """Every operation of the page that can be asked: an endpoint's protocols first, what deletes last."""
    with server.http as http:
        page = http.get("/openapi.json").json()
    found = []
    for result in schemathesis.openapi.from_dict(page).get_all_operations():
        assert isinstance(result, Ok), result.err()
        found.append(result.ok())
    return sorted(
        (one for one in found if one.label not in LEFT_OUT),
        key=lambda one: (one.method.upper() == "DELETE", not one.path.startswith(PROTOCOLS)),
    )


def cases(operation: APIOperation[Any, Any, Any, Any]) -> st.SearchStrategy[Case[Any]]:
    """Requests that fit and requests that do not, about anything and about what is there."""
    kind = next((kind for kind in NAMES if f"/{kind}/" in operation.path), "")
    there = THERE | ({"name": NAMES[kind]} if kind else {})
    known = {name: value for name, value in there.items() if f"{{{name}}}" in operation.path}
    strategies = [operation.as_strategy(GenerationMode.POSITIVE, path_parameters=known or None)]
    if known and not operation.path.startswith(PROTOCOLS):  # there a key opens one endpoint; wrong ones are slowed down
        strategies.append(operation.as_strategy(GenerationMode.POSITIVE))
    if operation.body or operation.query:
        strategies.append(operation.as_strategy(GenerationMode.NEGATIVE, path_parameters=known or None))
    return st.one_of(strategies)


class Asker:
    """Sends cases to a server."""

    def __init__(self, server: RunningServer, examples: int) -> None:
        self._server = server
        self._settings = settings(
            max_examples=examples,
            derandomize=True,
            database=None,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        )
        self.asked = 0

    def everything(self) -> int:
        """Ask every operation; how many requests that were."""
        with self._server.http as http, requests.Session() as session:
            session.trust_env = False
            key = http.get("/api/v1/endpoints/chat/keys").json()["primary_key"]
            for operation in operations(self._server):
                token = key if operation.path.startswith(PROTOCOLS) else self._server.token
                self._ask(operation, session, {"Authorization": f"Bearer {token}"})
        assert self._server.process.poll() is None
        return self.asked

    def _ask(
        self, operation: APIOperation[Any, Any, Any, Any], session: requests.Session, headers: dict[str, str]
    ) -> None:
        @self._settings
        @given(case=cases(operation))
        def ask(case: Case[Any]) -> None:
            self.asked += 1
            answer = case.call(base_url=self._server.url, session=session, headers=headers, timeout=60)
            assert answer.status_code < 500, (case.as_curl_command(), answer.text)

        ask()


@pytest.mark.heavy
def test_nothing_that_the_page_allows_or_forbids_is_unexpected(own: RunningServer) -> None:
    assert Asker(own, 3).everything() > 200


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_nothing_is_unexpected_in_thousands_of_requests(own: RunningServer) -> None:
    assert Asker(own, 150).everything() > 8000
