"""Adapters beside a model: found, checked against their base, named, chosen by the body's ``model``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.models.adapters import random_adapter
from tests.support import vllm_server
from tests.support.house import House, Rooms, until
from tunesmith.endpoints.adapter_swap import only_adapters_differ
from tunesmith.endpoints.adapters import base_of, find_adapter
from tunesmith.endpoints.documents import InstanceConfig
from tunesmith.endpoints.routing import Choice, Route
from tunesmith.errors import InvalidModel, NotFound, ValidationFailed
from tunesmith.models import ModelPackage
from tunesmith.records.endpoints import CreateDeployment, CreateEndpoint, Deployment, UpdateDeployment, UpdateEndpoint


def adapter_folder(folder: Path, base: str | None = None) -> Path:
    """The form of a training output: ``adapter/`` with a lock beside it that names the base by hash."""
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    if base is not None:
        (folder / "run.lock").write_text(json.dumps({"model": {"name": "tiny", "sha256": base}}))
    return folder


@pytest.fixture
def rooms(tmp_path: Path, models: dict[str, Path]) -> Iterator[Rooms]:
    right = ModelPackage.open(models["tiny-phi3"]).sha256
    other = ModelPackage.open(models["tiny-llama"]).sha256
    folders = {
        **models,
        "polite": adapter_folder(tmp_path / "polite", right),
        "brief": adapter_folder(tmp_path / "brief", right),
        "strange": adapter_folder(tmp_path / "strange", other),
        "foreign": adapter_folder(tmp_path / "foreign"),
    }
    made = Rooms(tmp_path / "home", folders, "http://here")
    made.service.create_or_update(CreateEndpoint(name="chat"))
    yield made
    made.database.close()


def deploy(rooms: Rooms, name: str = "blue", **changes: Any) -> Deployment:
    values = {"name": name, "endpoint": "chat", "model": "tiny-phi3", **changes}
    return rooms.service.create_or_update_deployment(CreateDeployment.model_validate(values))


def test_the_base_of_an_adapter_is_told_by_what_lies_beside_it(tmp_path: Path, models: dict[str, Path]) -> None:
    trained = adapter_folder(tmp_path / "trained", "abc")
    assert find_adapter("a", trained) == find_adapter("a", trained / "adapter") == trained / "adapter"
    assert base_of(trained / "adapter") == "abc"
    (trained / "run.lock").write_text("no JSON")
    assert base_of(trained / "adapter") is None
    converted = adapter_folder(tmp_path / "converted")
    (converted / "model").symlink_to(models["tiny-phi3"])
    assert base_of(converted / "adapter") == ModelPackage.open(models["tiny-phi3"]).sha256
    with pytest.raises(InvalidModel, match=r"adapter 'a' is no LoRA adapter.*has a adapter_config\.json"):
        find_adapter("a", models["tiny-phi3"])


def test_adapters_are_kept_by_name_and_roll_when_they_change(rooms: Rooms) -> None:
    made = deploy(rooms, adapters={"polite": "polite:1", "foreign": "foreign:1"})
    assert made.adapters == {"polite": "azureml:polite:1", "foreign": "azureml:foreign:1"}
    assert made.notices == [
        "adapter foreign: nothing tells which base it was trained on; its shapes are compared when it loads"
    ]
    (wanted,) = rooms.service.wanted()
    folders = rooms.service.outcomes.adapter_folders(wanted)
    assert {name: path.parent.name for name, path in folders.items()} == {"polite": "polite", "foreign": "foreign"}
    rooms.service.update_deployment("chat", "blue", UpdateDeployment(description="the same adapters"))
    assert rooms.service.wanted()[0].generation == 1
    rooms.service.update_deployment("chat", "blue", UpdateDeployment(adapters={"brief": "brief:1"}))
    assert rooms.service.wanted()[0].generation == 2
    rooms.database.close()
    later = Rooms(rooms.paths.home, rooms.resolver.models, "http://here")
    assert later.service.get_deployment("chat", "blue").adapters == {"brief": "azureml:brief:1"}
    later.database.close()


def test_an_adapter_of_another_base_and_a_name_that_is_taken_are_refused(rooms: Rooms) -> None:
    with pytest.raises(InvalidModel, match="adapter 'strange' was trained on another base") as caught:
        deploy(rooms, adapters={"strange": "strange:1"})
    assert caught.value.target == "adapters.strange"
    with pytest.raises(NotFound, match="no model 'nowhere'"):
        deploy(rooms, adapters={"nowhere": "nowhere:1"})
    for name, code in (("chat", "NameTaken"), ("blue", "NameTaken"), ("tiny-phi3", "NameTaken"), ("-x", "InvalidName")):
        with pytest.raises(ValidationFailed) as faulty:
            deploy(rooms, adapters={name: "polite:1"})
        assert [(fault.target, fault.code) for fault in faulty.value.details] == [(f"adapters.{name}", code)]
    assert rooms.service.list_deployments("chat") == []


def test_the_model_field_chooses_the_adapter(rooms: Rooms) -> None:
    deploy(rooms, adapters={"polite": "polite:1"})
    deploy(rooms, "green", adapters={"polite": "polite:1", "brief": "brief:1"})
    rooms.service.update("chat", UpdateEndpoint(traffic={"blue": 50, "green": 50}))
    route = rooms.service.route("chat")
    assert isinstance(route, Route)
    assert route.model_names == ["tiny-phi3", "polite", "brief", *route.deployments]

    def chosen(choice: Choice) -> tuple[str, str | None, str, str]:
        return choice.deployment.name, choice.adapter, choice.model, choice.model_name

    assert chosen(route.choose(0.0, None, "polite")) == ("blue", "polite", "azureml:polite:1", "polite")
    assert chosen(route.choose(0.9, None, "polite")) == ("green", "polite", "azureml:polite:1", "polite")
    assert chosen(route.choose(0.0, None, "brief")) == ("green", "brief", "azureml:brief:1", "brief")
    assert chosen(route.choose(0.0, None, "tiny-phi3")) == ("blue", None, "azureml:tiny-phi3:1", "tiny-phi3")
    assert chosen(route.choose(0.0)) == ("blue", None, "azureml:tiny-phi3:1", "tiny-phi3")
    assert chosen(route.choose(0.0, "green", "brief")) == ("green", "brief", "azureml:brief:1", "brief")
    with pytest.raises(NotFound, match=r"serves no model 'rude' \(it serves: blue, brief, green, polite, tiny-phi3\)"):
        route.choose(0.0, None, "rude")
    with pytest.raises(NotFound, match="deployment 'blue' of endpoint 'chat' serves no model 'brief'"):
        route.choose(0.0, "blue", "brief")


@pytest.fixture
def house_without_exports(models: dict[str, Path], tmp_path: Path) -> Iterator[House]:
    with House(tmp_path / "house", dict(models), exports=tmp_path / "exports") as house:
        yield house


@pytest.mark.heavy
def test_a_deployment_answers_with_the_adapter_that_is_named_over_an_export_that_is_kept(
    house_without_exports: House, models: dict[str, Path], tmp_path: Path
) -> None:
    house = house_without_exports
    package = ModelPackage.open(models["tiny-phi3"])
    for seed, name in enumerate(("polite", "brief"), start=1):
        house.rooms.resolver.models[name] = random_adapter(package, tmp_path / name, seed=seed)
    adapters = {name: f"azureml:{name}:1" for name in ("polite", "brief")}
    record = house.deploy("spoken", "blue", "azureml:tiny-phi3:1", engine="openvino", adapters=adapters)
    house.service.update("spoken", UpdateEndpoint(traffic={"blue": 100}))
    opened = record.instances[0].engine
    assert opened is not None
    assert (opened["engine"], opened["precision"]) == ("openvino", "32")
    assert opened["details"]["export"]["reused"] is False
    assert opened["details"]["quality"]["positions"] > 0

    with house.client("spoken") as client:

        def said(model: str | None) -> tuple[str, str, str]:
            body: dict[str, Any] = {
                "messages": [{"role": "user", "content": "Hello"}],
                "max_tokens": 12,
                "temperature": 0,
            }
            answer = client.post("/v1/chat/completions", json={**body, **({} if model is None else {"model": model})})
            assert answer.status_code == 200, answer.text
            return (
                answer.json()["choices"][0]["message"]["content"],
                answer.json()["model"],
                answer.headers["x-tunesmith-model"],
            )

        answers = {model: said(model) for model in (None, "spoken", "tiny-phi3", "polite", "brief")}
        names = [one["id"] for one in client.get("/v1/models").json()["data"]]
        unknown = client.post("/v1/chat/completions", json={"messages": [], "model": "rude"})
        rude = client.post(
            "/v1/chat/completions", json={"messages": [{"role": "user", "content": "Hello"}], "model": "rude"}
        )
    again = house.deploy("spoken", "green", "azureml:tiny-phi3:1", engine="openvino").instances[0].engine
    assert again is not None
    assert again["details"]["export"] == {**opened["details"]["export"], "reused": True}, "it was kept"
    assert names == ["tiny-phi3", "polite", "brief", "blue"]
    assert answers[None] == answers["spoken"] == answers["tiny-phi3"]
    assert [answers[name][1:] for name in ("tiny-phi3", "polite", "brief")] == [
        ("tiny-phi3", "azureml:tiny-phi3:1"),
        ("polite", "azureml:polite:1"),
        ("brief", "azureml:brief:1"),
    ]
    assert len({answers[name][0] for name in ("tiny-phi3", "polite", "brief")}) == 3
    assert (unknown.status_code, rude.status_code) == (400, 404)
    assert rude.json()["error"]["param"] == "model"


@pytest.mark.parametrize(
    ("change", "alone"),
    [
        ({}, True),
        ({"adapters": {"brief": "brief:1"}, "instance_count": 3, "description": "other"}, True),
        ({"model": "azureml:other:1"}, False),
        ({"engine": "transformers"}, False),
        ({"precision": "32"}, False),
        ({"instance_type": "larger"}, False),
        ({"environment_variables": {"A": "2"}}, False),
    ],
)
def test_what_needs_a_new_process_beside_the_adapters(change: dict[str, Any], alone: bool) -> None:
    spec = CreateDeployment(name="blue", endpoint="chat", model="azureml:tiny:1", environment_variables={"A": "1"})
    config = InstanceConfig(
        endpoint="chat",
        deployment="blue",
        instance="i1-1",
        generation=1,
        model=spec.model,
        model_path=Path("/nowhere"),
        engine=spec.engine,
        precision=spec.precision,
        instance_type=spec.instance_type,
        environment=spec.environment_variables,
        secret="s",
    )
    assert only_adapters_differ(config, spec.model_copy(update=change)) is alone


def ranked(folder: Path, rank: int) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": rank}))
    (folder / "adapter_model.safetensors").touch()
    return folder


def test_a_gpu_server_takes_other_adapters_while_it_serves_and_rolls_where_it_cannot(
    house: House, tmp_path: Path
) -> None:
    command = tmp_path / "vllm"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} {vllm_server.__file__} "$@"\n')
    command.chmod(0o755)
    for name, rank in (("french", 4), ("german", 8), ("wide", 16)):
        house.rooms.resolver.models[name] = ranked(tmp_path / name, rank)
    held = tmp_path / "held"
    environment = {
        "TUNESMITH_VLLM": str(command),
        "STAND_IN_LOG": str(tmp_path / "log"),
        "STAND_IN_HOLD": str(held),
    }
    spec: dict[str, Any] = {"engine": "vllm", "environment_variables": environment}
    first = house.deploy("hot", "blue", "azureml:tiny-phi3:1", adapters={"french": "azureml:french:1"}, **spec)
    house.service.update("hot", UpdateEndpoint(traffic={"blue": 100}))

    def change(**changes: Any) -> Deployment:
        house.service.update_deployment("hot", "blue", UpdateDeployment.model_validate(changes))
        return house.ready("hot", "blue")

    def asks(model: str) -> int:
        body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2, "model": model}
        return client.post("/v1/chat/completions", json=body).status_code

    def routes() -> list[tuple[str, str]]:
        lines = map(json.loads, (tmp_path / "log").read_text().splitlines())
        return [
            (line["path"].removeprefix("/v1/"), line["body"]["lora_name"])
            for line in lines
            if line["kind"] == "request" and "lora_name" in line["body"]
        ]

    with house.client("hot") as client:
        assert (asks("french"), asks("german")) == (200, 404)
        second = change(adapters={"german": "azureml:german:1"})
        assert [one.pid for one in second.instances] == [one.pid for one in first.instances]
        assert second.instances[0].engine is not None
        assert second.instances[0].engine["details"]["adapters"] == ["german"]
        until(lambda: len(routes()) == 2, "the old adapter to be unloaded")
        assert routes() == [("load_lora_adapter", "german@1"), ("unload_lora_adapter", "french")]
        assert (asks("french"), asks("german")) == (404, 200)

        # While one takes its adapters the deployment does what else is wanted of it, and says when all of it is done.
        held.touch()
        both = {"german": "azureml:german:1", "french": "azureml:french:1"}
        house.service.update_deployment(
            "hot", "blue", UpdateDeployment.model_validate({"adapters": both, "instance_count": 2})
        )

        def ready() -> list[int | None]:
            return [one.pid for one in house.service.get_deployment("hot", "blue").instances if one.state == "Ready"]

        until(lambda: len(ready()) == 2, "a second instance, while the first takes its adapters")
        assert house.service.get_deployment("hot", "blue").provisioning_state == "Updating"
        held.unlink()
        house.ready("hot", "blue")
        assert first.instances[0].pid in ready() and len(ready()) == 2
        change(instance_count=1)
        until(lambda: len(ready()) == 1, "the second instance to go")

        # A rank that the server was not started for needs a new one.
        third = change(adapters={"german": "azureml:german:1", "wide": "azureml:wide:1"})
        assert {one.pid for one in third.instances if one.state == "Ready"}.isdisjoint(
            one.pid for one in first.instances
        )
        assert (asks("german"), asks("wide")) == (200, 200)
        assert len(routes()) == 3
    house.service.delete("hot")
