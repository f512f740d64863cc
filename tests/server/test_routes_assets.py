"""Registries and assets over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.server import RunningServer
from tests.support.tiny import tiny_conversations

COMPONENT: dict[str, Any] = {
    "name": "greet",
    "version": "7",
    "type": "command",
    "inputs": {"who": {"type": "string", "default": "you"}},
    "command": "echo hello ${{inputs.who}}",
}


def test_the_shelves(http: httpx.Client) -> None:
    shelves = {shelf["name"]: shelf["writable"] for shelf in http.get("/api/v1/registries").json()}
    assert shelves == {"workspace": True, "azureml": False}


def test_the_system_registry_has_models_and_the_pipeline(http: httpx.Client) -> None:
    models = http.get("/api/v1/registries/azureml/models").json()
    names = {model["name"] for model in models}
    assert {"SmolLM2-135M-Instruct", "Phi-3-mini-4k-instruct"} <= names
    found = http.get("/api/v1/registries/azureml/components/chat_completion_pipeline/labels/latest").json()
    assert found["type"] == "pipeline" and "train_file_path" in found["spec"]["inputs"]
    words = http.get("/api/v1/registries/azureml/models", params={"search": "smollm2"}).json()
    assert {model["name"] for model in words} == {"SmolLM2-135M-Instruct"}
    one = f"/api/v1/registries/azureml/models/{models[0]['name']}/versions/{models[0]['version']}"
    assert http.patch(one, json={"description": "mine"}).status_code == 403


def test_data_from_registration_to_deletion(http: httpx.Client, tmp_path: Path) -> None:
    file = tiny_conversations(tmp_path / "rows.jsonl", 3)
    made = http.post("/api/v1/data", json={"name": "rows", "path": str(file), "tags": {"lang": "en"}})
    assert made.status_code == 201, made.text
    base = "/api/v1/registries/workspace/data/rows"
    one = made.json()
    assert one["id"] == "azureml:rows:1" and one["sha256"] and Path(one["path"]).read_bytes() == file.read_bytes()
    assert http.post("/api/v1/data", json={"name": "rows", "path": str(file), "version": "1"}).status_code == 409
    assert http.get(f"{base}/versions/1").json() == http.get(f"{base}/labels/latest").json() == one
    by_tag = http.get("/api/v1/registries/workspace/data", params={"tag": "lang=en"}).json()
    assert [data["name"] for data in by_tag] == ["rows"]
    changed = http.patch(f"{base}/versions/1", json={"description": "three rows", "archived": True}).json()
    assert (changed["description"], changed["archived"], changed["sha256"]) == ("three rows", True, one["sha256"])
    assert http.get("/api/v1/registries/workspace/data").json() == []
    assert len(http.get("/api/v1/registries/workspace/data", params={"archived": True}).json()) == 1
    assert len(http.get(base).json()) == 1
    asked = {"kind": "data", "reference": "azureml:rows:1"}
    assert http.post("/api/v1/resolve", json=asked).json()["id"] == one["id"]
    assert http.patch(f"{base}/versions/1", json={"sha256": "0"}).status_code == 400
    gone = http.delete(f"{base}/versions/1").json()
    assert gone["freed_bytes"] >= file.stat().st_size
    assert http.get(f"{base}/versions/1").status_code == 404
    assert http.get(base).status_code == 404


def test_components_are_checked_and_registered(http: httpx.Client) -> None:
    made = http.post("/api/v1/components", json={"spec": COMPONENT})
    assert made.status_code == 201, made.text
    assert made.json()["id"] == "azureml:greet:7"
    found = http.get("/api/v1/registries/workspace/components/greet/versions/7").json()
    assert found["spec"]["inputs"] == COMPONENT["inputs"]
    broken = http.post("/api/v1/components", json={"spec": {**COMPONENT, "version": "8", "comand": "x"}})
    assert broken.status_code == 400 and "comand" in broken.text


def test_a_model_whose_weights_are_not_here_has_no_files(http: httpx.Client) -> None:
    model = http.get("/api/v1/registries/azureml/models/Phi-4/labels/latest").json()
    answer = http.get(f"/api/v1/registries/azureml/models/Phi-4/versions/{model['version']}/files")
    assert answer.status_code == 404
    assert "tunesmith models import" in answer.json()["error"]["way_out"]


@pytest.mark.parametrize("name", ["%2e%2e", "..%2f..%2fetc", "a%00b", ".hidden"])
def test_names_that_lead_elsewhere_are_refused(server: RunningServer, http: httpx.Client, name: str) -> None:
    for path in (
        f"/api/v1/registries/workspace/data/{name}",
        f"/api/v1/registries/workspace/data/{name}/versions/1",
        f"/api/v1/registries/{name}/data",
        f"/api/v1/registries/workspace/models/x/versions/{name}/files/x",
    ):
        answer = http.get(httpx.URL(server.url + path))
        assert answer.status_code in {400, 404}, (path, answer.text)
    bad = http.post("/api/v1/data", json={"name": "../x", "path": "/etc/hostname"})
    assert bad.status_code == 400


def test_an_unknown_kind_or_registry_is_named(http: httpx.Client) -> None:
    assert http.get("/api/v1/registries/workspace/modles").status_code == 404
    answer = http.get("/api/v1/registries/nowhere/models")
    assert answer.status_code == 404 and "nowhere" in answer.json()["error"]["message"]
