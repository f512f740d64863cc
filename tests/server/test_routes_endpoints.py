"""Endpoints and computes over HTTP, as far as no model is needed; the life cycle's test has the rest."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.support.house import until
from tests.support.server import RunningServer


@pytest.fixture
def endpoint(http: httpx.Client) -> Iterator[str]:
    http.put("/api/v1/endpoints/talk", json={"name": "talk", "tags": {"a": "b"}}).raise_for_status()
    yield "/api/v1/endpoints/talk"
    http.delete("/api/v1/endpoints/talk")
    until(lambda: http.get("/api/v1/endpoints/talk").status_code == 404, "the endpoint to go")


def test_an_endpoint_has_addresses_and_two_keys(server: RunningServer, http: httpx.Client, endpoint: str) -> None:
    found = http.get(endpoint).json()
    assert found["scoring_uri"] == f"{server.url}/endpoints/talk/score"
    assert found["openai_uri"] == f"{server.url}/endpoints/talk/v1"
    assert [one["name"] for one in http.get("/api/v1/endpoints").json()] == ["talk"]
    keys = http.get(f"{endpoint}/keys").json()
    new = http.post(f"{endpoint}/keys/primary/regenerate").json()
    assert new["primary_key"] != keys["primary_key"] and new["secondary_key"] == keys["secondary_key"]
    assert http.post(f"{endpoint}/keys/third/regenerate").status_code == 400
    changed = http.patch(endpoint, json={"description": "new"}).json()
    assert (changed["description"], changed["tags"]) == ("new", {"a": "b"})


def test_a_key_opens_its_endpoint_and_nothing_else(server: RunningServer, http: httpx.Client, endpoint: str) -> None:
    key = http.get(f"{endpoint}/keys").json()["primary_key"]
    with httpx.Client(base_url=server.url, trust_env=False, headers={"authorization": f"Bearer {key}"}) as caller:
        assert caller.get("/api/v1/endpoints/talk").status_code == 401
        assert caller.get("/endpoints/talk/v1/models").status_code == 200
        assert caller.get("/endpoints/other/v1/models").status_code == 401
    with httpx.Client(base_url=server.url, trust_env=False) as stranger:
        for path in ("/endpoints/talk/score", "/endpoints/talk/v1/chat/completions"):
            assert stranger.post(path, json={}).status_code == 401
    assert http.post("/endpoints/talk/score", json={}).status_code == 401, "the workspace's token is no key"


def test_what_an_endpoint_refuses_is_in_its_request_log_without_the_key(
    server: RunningServer, http: httpx.Client, endpoint: str
) -> None:
    key = http.get(f"{endpoint}/keys").json()["primary_key"]
    with httpx.Client(base_url=server.url, trust_env=False) as caller:
        for identity, given, path in (("first", "wrong-key", "score"), ("second", key, "v1/chat/completions")):
            headers = {"authorization": f"Bearer {given}", "x-request-id": identity}
            caller.post(f"/endpoints/talk/{path}", json={"messages": []}, headers=headers)
    lines = http.get(f"{endpoint}/requests", params={"lines": 2}).json()
    assert [
        (one["request_id"], one["protocol"], one["status"], one["error"], one["deployment"], one["attempts"])
        for one in lines
    ] == [
        ("first", "score", 401, "Unauthorized", None, 0),
        ("second", "v1/chat/completions", 400, "ValidationFailed", None, 0),
    ]
    log = (server.home / "logs" / "requests.jsonl").read_text()
    assert "wrong-key" not in log and key not in log
    assert key not in (server.home / "logs" / "server.log").read_text()
    assert http.get(f"{endpoint}/requests", params={"lines": 1}).json() == lines[1:]
    assert http.get("/api/v1/endpoints/other/requests").status_code == 404


def test_the_workspaces_metrics_need_its_token(server: RunningServer, http: httpx.Client, endpoint: str) -> None:
    assert http.get(f"{endpoint}/metrics").json() == []
    answer = http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "# TYPE tunesmith_server_info gauge\n" in answer.text
    assert 'tunesmith_jobs_unfinished{status="Running"} 0' in answer.text
    with httpx.Client(base_url=server.url, trust_env=False) as stranger:
        assert stranger.get("/metrics").status_code == 401


def test_conversations_are_exported_with_a_report_even_where_none_were_kept(http: httpx.Client, endpoint: str) -> None:
    answer = http.get(f"{endpoint}/conversations")
    assert answer.json() == {"export": {"written": 0, "left_out": {}, "removed_before": 0}}
    zoneless = http.get(f"{endpoint}/conversations", params={"since": "2026-01-01T00:00:00"})
    assert (zoneless.status_code, zoneless.json()["error"]["target"]) == (400, "since")
    assert http.delete(f"{endpoint}/conversations").json() == {"freed_bytes": 0}
    assert http.get("/api/v1/endpoints/..%2F..%2Fjobs/conversations").status_code in {400, 404}


def test_an_endpoint_of_tokens_is_opened_by_them(server: RunningServer, http: httpx.Client, endpoint: str) -> None:
    assert http.post(f"{endpoint}/token").status_code == 409
    assert http.patch(endpoint, json={"auth_mode": "aml_token"}).json()["auth_mode"] == "aml_token"
    token = http.post(f"{endpoint}/token").json()["access_token"]
    with httpx.Client(base_url=server.url, trust_env=False, headers={"authorization": f"Bearer {token}"}) as caller:
        assert caller.get("/endpoints/talk/v1/models").status_code == 200


def test_faulty_settings_of_a_deployment_are_named(http: httpx.Client, endpoint: str) -> None:
    deployment = {"name": "blue", "endpoint": "talk", "model": "m:1", "autoscale": {"max_instances": 0}}
    answer = http.put(f"{endpoint}/deployments/blue", json=deployment).json()["error"]
    assert [fault["target"] for fault in answer["details"]] == ["autoscale.max_instances"]
    deployment = {
        **deployment,
        "autoscale": {"min_instances": 3, "max_instances": 2},
        "adapters": {"blue": "a:1", "!": "b:1"},
    }
    answer = http.put(f"{endpoint}/deployments/blue", json=deployment).json()["error"]
    assert [fault["target"] for fault in answer["details"]] == [
        "autoscale.min_instances",
        "adapters.blue",
        "adapters.!",
    ]
    collector = {"data_collector": {"sampling_rate": 2, "redact": ["names"], "redact_patterns": ["("]}}
    answer = http.put(
        f"{endpoint}/deployments/blue", json={"name": "blue", "endpoint": "talk", "model": "m:1", **collector}
    )
    assert {fault["target"] for fault in answer.json()["error"]["details"]} == {
        "data_collector.sampling_rate",
        "data_collector.redact[0]",
        "data_collector.redact_patterns",
    }


def test_the_body_names_what_the_path_names(http: httpx.Client, endpoint: str) -> None:
    answer = http.put(endpoint, json={"name": "walk"})
    assert answer.status_code == 400 and answer.json()["error"]["target"] == "name"
    deployment = {"name": "blue", "endpoint": "walk", "model": "m:1"}
    assert http.put(f"{endpoint}/deployments/blue", json=deployment).status_code == 400


def test_a_deployment_of_a_model_that_is_not_there_is_refused(http: httpx.Client, endpoint: str) -> None:
    deployment = {"name": "blue", "endpoint": "talk", "model": "no-such-model:1"}
    answer = http.put(f"{endpoint}/deployments/blue", json=deployment)
    assert answer.status_code == 404 and "no-such-model" in answer.json()["error"]["message"]
    assert http.get(f"{endpoint}/deployments").json() == []
    assert http.get(f"{endpoint}/deployments/blue").status_code == 404
    assert http.get(f"{endpoint}/deployments/blue/logs").status_code == 404


def test_computes_sizes_and_the_machine(http: httpx.Client) -> None:
    body = {"name": "gpu-box", "size": "Standard_NC24s_v3"}
    made = http.put("/api/v1/computes/gpu-box", json=body).json()
    assert made["gpus"] == 4 and "this machine" in made["difference"]
    assert {one["name"] for one in http.get("/api/v1/computes").json()} == {"local", "gpu-box"}
    assert http.get("/api/v1/compute/machine").json()["cores"] >= 1
    assert "local" in {size["name"] for size in http.get("/api/v1/compute/sizes").json()}
    question = {"model": "Phi-3-mini-4k-instruct", "compute": "gpu-box", "purpose": "finetune"}
    answer = http.post("/api/v1/compute/check", json=question).json()
    assert answer["size"] == "Standard_NC24s_v3" and answer["allow_list"]
    assert http.delete("/api/v1/computes/gpu-box").json() == {"freed_bytes": None}
    assert http.get("/api/v1/computes/gpu-box").status_code == 404
    assert http.put("/api/v1/computes/local-2", json={"name": "local-2", "size": "Standard_Nothing"}).status_code in {
        400,
        404,
    }


def test_the_doctor_looks_at_the_servers_machine(http: httpx.Client) -> None:
    report = http.get("/api/v1/doctor").json()
    assert report["machine"]["cores"] >= 1
    assert {"torch", "mlflow"} <= {item["name"] for item in report["items"]}
    assert [item for item in report["items"] if item["state"] == "problem"] == []
