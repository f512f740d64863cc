"""What the system registry shows: models, components, environments."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

import pytest

from tests.azure.wire import Wire, azure_wire
from tunesmith.azure.registry_models import pipeline_inputs, served_tags
from tunesmith.components import catalogue as components
from tunesmith.models import catalogue as models

R = (
    "https://cert-eastus.experiments.azureml.net/mferp/managementfrontend/subscriptions/s/resourceGroups/g"
    "/providers/Microsoft.MachineLearningServices/registries/azureml"
)
LATEST = "$orderBy=createdtime desc&$top=1"


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    with azure_wire(tmp_path_factory.mktemp("registry") / "home") as wire:
        yield wire


def get(wire: Wire, rest: str, status: int = 200) -> Any:
    return wire.call("GET", f"{R}/{rest}", status=status)


def test_a_model_by_its_newest_version(wire: Wire) -> None:
    listed = get(wire, f"models/SmolLM2-135M-Instruct/versions?{LATEST}")
    assert len(listed["value"]) == 1
    found = listed["value"][0]
    assert found["id"] == "azureml://registries/azureml/models/SmolLM2-135M-Instruct/versions/1"
    assert found["name"] == "1"
    assert found == get(wire, "models/SmolLM2-135M-Instruct/versions/1")
    assert found == get(wire, "models/SmolLM2-135M-Instruct/labels/latest")
    tags = found["properties"]["tags"]
    assert "Standard_NC6s_v3" in ast.literal_eval(tags["finetune_compute_allow_list"])


def test_every_models_defaults_are_inputs_of_the_component_that_is_served(wire: Wire) -> None:
    newest = get(wire, f"components/chat_completion_pipeline/versions?{LATEST}")["value"][0]
    inputs = set(newest["properties"]["componentSpec"]["inputs"])
    seen = 0
    for entry in models.entries():
        tags = get(wire, f"models/{entry.name}/versions/{entry.version}")["properties"]["tags"]
        defaults = ast.literal_eval(tags["model_specific_defaults"])
        assert set(defaults) <= inputs
        seen += len(defaults)
    assert seen > 0


def test_defaults_that_are_no_inputs_are_left_out() -> None:
    text = "{'learning_rate': 5e-06, 'learning_rate_min': 1e-06, 'apply_lora': 'true'}"
    kept = ast.literal_eval(served_tags({"model_specific_defaults": text, "task": "t"})["model_specific_defaults"])
    assert kept == {"learning_rate": 5e-06, "apply_lora": "true"}
    assert "learning_rate_min" not in pipeline_inputs()
    assert served_tags({"model_specific_defaults": "no literal", "task": "t"}) == {"task": "t"}


def test_the_names_of_the_models(wire: Wire) -> None:
    listed = get(wire, "models?listViewType=ListViewType.ACTIVE_ONLY")["value"]
    assert {item["name"] for item in listed} == {entry.name for entry in models.entries()}
    assert get(wire, "models/Phi-4")["properties"]["latestVersion"] == "1"


def test_a_long_list_comes_in_pages(wire: Wire) -> None:
    names: list[str] = []
    url = f"{R}/models?$top=5"
    pages = 0
    while url:
        answer = wire.call("GET", url)
        names += [item["name"] for item in answer["value"]]
        url, pages = answer["nextLink"], pages + 1
        assert len(answer["value"]) <= 5
    assert pages == -(-len(models.entries()) // 5)
    assert sorted(names) == sorted(entry.name for entry in models.entries())


@pytest.mark.parametrize("entry", components.entries(), ids=lambda entry: entry.name)
def test_components_in_azures_shape(wire: Wire, entry: Any) -> None:
    found = get(wire, f"components/{entry.name}/versions/azureml_default")
    assert found["id"] == entry.id
    spec = found["properties"]["componentSpec"]
    assert (spec["name"], spec["version"], spec["type"]) == (entry.name, entry.version, entry.type)
    assert set(spec["inputs"]) == set(entry.spec["inputs"])
    assert set(spec.get("outputs", {})) == set(entry.spec.get("outputs", {}))
    if entry.type == "command":
        assert spec["environment"] == "azureml://registries/azureml/environments/installed/labels/latest"
        return
    assert list(spec["jobs"]) == list(entry.spec["jobs"])
    for name, node in spec["jobs"].items():
        assert node["componentId"].startswith("azureml://registries/azureml/components/")
        assert node["name"] == name
        assert all(value["job_input_type"] == "literal" for value in node["inputs"].values())


def test_the_environment_that_is_installed(wire: Wire) -> None:
    found = get(wire, f"environments/installed/versions?{LATEST}")["value"][0]
    assert found["properties"]["condaFile"].startswith("name: installed\ndependencies:\n- pip:\n  - ")


def test_what_is_not_there(wire: Wire) -> None:
    assert get(wire, "models/Phi-3-mini-5k", 404)["error"]["code"] == "ResourceNotFound"
    missing = get(wire, "components/chat_completion_pipeline/versions/9.9", 404)["error"]["message"]
    assert "has no version '9.9'" in missing
    other = wire.call("GET", f"{R}-other/models", status=404)["error"]["message"]
    assert "there is no registry 'azureml-other'" in other
    assert get(wire, f"models/none/versions?{LATEST}") == {"value": [], "nextLink": None}


def test_the_registry_is_only_read(wire: Wire) -> None:
    answer = wire.call("PUT", f"{R}/models/m/versions/1", {}, status=400)["error"]
    assert answer["code"] == "NotImplementedByTunesmith"


@pytest.mark.parametrize(
    ("query", "status", "target"),
    [
        ("$top=x", 400, "$top"),
        ("listViewType=Some", 400, "listViewType"),
        ("$orderBy=name", 400, "$orderBy"),
        ("$filter=a", 400, "$filter"),
    ],
)
def test_options_of_a_list_are_never_ignored(wire: Wire, query: str, status: int, target: str) -> None:
    error = get(wire, f"models?{query}", status)["error"]
    assert target in {error.get("target"), *(detail["target"] for detail in error["details"])}
