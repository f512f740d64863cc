"""Whatever JSON comes to whatever route: an answer of ours, never an unexpected error."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.server import RunningServer

NAMES = st.sampled_from(
    ["x", "chat", "..", "a b", "ü", "%00", "a" * 300, "1", "-", "latest", "workspace", "azureml", "*"]
)
KINDS = st.sampled_from(["models", "data", "components", "environments", "nothing"])
LITERALS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(
        ["azureml:x:1", "azureml://jobs/x/outputs/y", "${{parent.inputs.x}}", "../../etc", "/etc", "x@latest"]
    )
)
WORDS = """name version path type spec kind reference inputs outputs jobs command component code settings compute tags
    properties traffic mirror_traffic model endpoint instance_count request_settings size purpose source base_path"""
FIELDS = st.sampled_from(WORDS.split())
JSON = st.recursive(LITERALS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS, inner, max_size=5))
BODIES = st.dictionaries(FIELDS, JSON, max_size=6) | JSON
METHODS = st.sampled_from(["GET", "PUT", "POST", "PATCH", "DELETE"])

PATHS = st.one_of(
    st.sampled_from(["jobs", "models", "models/import", "data", "components", "resolve", "compute/check", "uploads"]),
    st.builds("endpoints/{}".format, NAMES),
    st.builds("endpoints/{}/deployments/{}".format, NAMES, NAMES),
    st.builds("endpoints/{}/keys/{}/regenerate".format, NAMES, NAMES),
    st.builds("computes/{}".format, NAMES),
    st.builds("registries/{}/{}/{}".format, NAMES, KINDS, NAMES),
    st.builds("registries/{}/{}/{}/versions/{}".format, NAMES, KINDS, NAMES, NAMES),
    st.builds("jobs/{}/outputs/{}/files/{}".format, NAMES, NAMES, NAMES),
    st.builds(
        "jobs/{}/{}".format, NAMES, st.sampled_from(["", "events", "logs", "logs/x", "metrics", "explain", "cancel"])
    ),
)


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, timeout=60) as opened:
        yield opened


@settings(max_examples=150, derandomize=True, suppress_health_check=list(HealthCheck))
@given(method=METHODS, path=PATHS, body=BODIES)
def test_nothing_is_unexpected(server: RunningServer, client: httpx.Client, method: str, path: str, body: Any) -> None:
    url = httpx.URL(f"{server.url}/api/v1/{path}")
    headers = {"authorization": f"Bearer {server.token}", "content-type": "application/json"}
    answer = client.request(method, url, content=json.dumps(body), headers=headers)
    assert answer.status_code < 500, (method, path, body, answer.text)
    if answer.status_code >= 400:
        assert answer.json()["error"]["message"]
