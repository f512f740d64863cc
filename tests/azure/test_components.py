from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.azure.wire import W, Wire, azure_wire
from tunesmith.azure.code_store import CodeStore, snapshot_id
from tunesmith.records.assets import RegisterComponent


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    with azure_wire(tmp_path_factory.mktemp("components") / "home") as wire:
        yield wire


def body(command: str = "python run.py ${{inputs.text}}", *, code: str | None = None, **properties: Any) -> Any:
    """What the SDK sends for a command component."""
    spec = {
        "name": "step",
        "version": "1",
        "display_name": "A step",
        "type": "command",
        "inputs": {"text": {"type": "string", "default": "x"}, "n": {"type": "integer", "optional": True}},
        "outputs": {"out": {"type": "uri_folder"}},
        "command": command,
        "environment": f"azureml:{W}/environments/env/versions/1",
        "is_deterministic": True,
        "_source": "YAML.COMPONENT",
    }
    if code is not None:
        spec["code"] = f"azureml:{code}"
    return {
        "properties": {"componentSpec": spec, "isAnonymous": False, "tags": {"a": "b"}, "properties": {}, **properties}
    }


def snapshot(wire: Wire) -> str:
    """A code asset as an upload leaves it; its ARM id."""
    identity = snapshot_id("code", "1")
    folder = wire.services.paths.artifacts / "codes" / identity
    folder.mkdir(parents=True)
    (folder / "run.py").write_text("print('hello')")
    CodeStore(wire.services).register("code", "1", identity, "", properties={}, is_anonymous=True)
    return f"{W}/codes/code/versions/1"


def test_the_life_of_a_component(wire: Wire) -> None:
    code = snapshot(wire)
    made = wire.arm("PUT", "components/step/versions/1", body(code=code, description="d"), status=201)
    assert made["id"] == f"{W}/components/step/versions/1"
    spec = made["properties"]["componentSpec"]
    assert spec["code"] == f"azureml:{code}"
    assert spec["environment"] == f"azureml:{W}/environments/env/versions/1"
    assert spec["inputs"]["text"] == {"type": "string", "default": "x"}
    assert made["properties"]["description"] == "d"
    assert made["properties"]["tags"] == {"a": "b"}
    folder = wire.services.components.code(wire.services.components.get("step", "1"))
    assert folder is not None
    assert (folder / "run.py").read_text() == "print('hello')"
    assert wire.arm("GET", "components/step")["properties"]["nextVersion"] == "2"
    # The same again, as a client sends it back with another description.
    made["properties"]["description"] = "other"
    assert wire.arm("PUT", "components/step/versions/1", made)["properties"]["description"] == "other"
    conflict = wire.arm("PUT", "components/step/versions/1", body("echo other", code=code), status=409)["error"]
    assert conflict["code"] == "AlreadyExists"


def test_archive_and_restore(wire: Wire) -> None:
    for version in ("1", "2"):
        wire.arm("PUT", f"components/old/versions/{version}", body("echo"), status=201)
    sent = wire.arm("GET", "components/old/versions/2")
    sent["properties"]["isArchived"] = True
    wire.arm("PUT", "components/old/versions/2", sent)
    shown = [item["name"] for item in wire.arm("GET", "components/old/versions")["value"]]
    hidden = [item["name"] for item in wire.arm("GET", "components/old/versions?listViewType=ArchivedOnly")["value"]]
    assert (shown, hidden) == (["1"], ["2"])
    wire.arm("PUT", "components/old", {"properties": {"isArchived": True}})
    assert wire.arm("GET", "components/old/versions") == {"value": [], "nextLink": None}
    assert "old" not in [item["name"] for item in wire.arm("GET", "components")["value"]]
    wire.arm("PUT", "components/old", {"properties": {"isArchived": False}})
    assert len(wire.arm("GET", "components/old/versions")["value"]) == 2
    wire.arm("DELETE", "components/old/versions/1")
    wire.arm("GET", "components/old/versions/1", status=404)


def test_a_component_without_a_name_is_not_shown_among_the_names(wire: Wire) -> None:
    version = "0b1c2d3e-0000-1111-2222-333344445555"
    made = wire.arm(
        "PUT", f"components/azureml_anonymous/versions/{version}", body("echo", isAnonymous=True), status=201
    )
    assert made["properties"]["isAnonymous"] is True
    assert made["properties"]["properties"] == {}
    assert "azureml_anonymous" not in [item["name"] for item in wire.arm("GET", "components")["value"]]


def test_a_pipeline_component_goes_to_and_fro(wire: Wire) -> None:
    wire.services.components.register(
        RegisterComponent(
            spec={
                "type": "command",
                "name": "inner",
                "inputs": {"text": {"type": "string"}},
                "outputs": {"out": {"type": "uri_folder"}},
                "command": "echo ${{inputs.text}}",
            }
        )
    )
    inner = f"{W}/components/inner/versions/1"
    sent = {
        "properties": {
            "componentSpec": {
                "name": "outer",
                "version": "1",
                "type": "pipeline",
                "inputs": {"text": {"type": "string", "default": "a"}},
                "outputs": {"o": {"type": "uri_folder"}},
                "jobs": {
                    "a": {
                        "type": "command",
                        "componentId": inner,
                        "inputs": {"text": {"job_input_type": "literal", "value": "${{parent.inputs.text}}"}},
                        "outputs": {"out": {"type": "literal", "value": "${{parent.outputs.o}}"}},
                        "_source": "REMOTE.WORKSPACE.COMPONENT",
                    }
                },
            }
        }
    }
    node = wire.arm("PUT", "components/outer/versions/1", sent, status=201)["properties"]["componentSpec"]["jobs"]["a"]
    assert node == {
        "type": "command",
        "name": "a",
        "componentId": inner,
        "inputs": {"text": {"job_input_type": "literal", "value": "${{parent.inputs.text}}"}},
        "outputs": {"out": {"type": "literal", "value": "${{parent.outputs.o}}"}},
    }
    kept = wire.services.components.get("outer", "1").spec["jobs"]["a"]
    assert kept["component"] == "azureml:inner:1"


@pytest.mark.parametrize(
    ("change", "status", "target"),
    [
        ({"type": "spark"}, 400, "properties.componentSpec.type"),
        ({"command": "echo ${{inputs.nothing}}"}, 400, "command"),
        ({"colour": "red"}, 400, "colour"),
        ({"code": f"azureml:{W}/codes/none/versions/1"}, 404, "code"),
    ],
)  # fmt: skip
def test_faults(wire: Wire, change: dict[str, str], status: int, target: str) -> None:
    sent = body("echo")
    sent["properties"]["componentSpec"] |= change
    error = wire.arm("PUT", "components/faulty/versions/1", sent, status=status)["error"]
    assert target in {error.get("target"), *(detail["target"] for detail in error["details"])}
    assert wire.services.components.versions("faulty") == []
