from __future__ import annotations

import ast
import dataclasses
import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tunesmith.components.catalogue import SPECS, entries
from tunesmith.components.steps.runtime import parse_arguments
from tunesmith.finetune.inputs import INPUTS, PIPELINE_INPUTS
from tunesmith.pipelines import expressions
from tunesmith.pipelines.cache import MODULES
from tunesmith.pipelines.fingerprints import hash_modules
from tunesmith.pipelines.parsing import parse_component
from tunesmith.pipelines.schema import CommandComponent, PipelineComponent

AZURE: dict[str, Any] = json.loads(Path(__file__).with_name("chat_completion_pipeline.json").read_text())
COMPONENTS = {entry.name: parse_component(entry.spec) for entry in entries()}
COMMANDS = [component for component in COMPONENTS.values() if isinstance(component, CommandComponent)]


def pipeline() -> PipelineComponent:
    found = COMPONENTS["chat_completion_pipeline"]
    assert isinstance(found, PipelineComponent)
    return found


def number(value: Any) -> Any:
    try:
        return float(value)
    except (TypeError, ValueError):
        return value


@pytest.mark.parametrize("name", AZURE["inputs"])
def test_every_input_of_azures_component_is_there_with_its_type_default_enum_and_bounds(name: str) -> None:
    azure, ours = AZURE["inputs"][name], pipeline().inputs[name]
    assert ours.type == azure["type"]
    assert number(ours.default) == number(azure.get("default"))
    assert ours.optional == azure.get("optional", False)
    assert (ours.min, ours.max, ours.mode) == (azure.get("min"), azure.get("max"), azure.get("mode"))
    enum = list(ours.enum)
    if name == "precision":
        assert enum == [*azure["enum"], "bf16", "auto"]
    else:
        assert enum == azure.get("enum", [])


def test_ours_stand_after_azures_and_are_optional() -> None:
    names = list(pipeline().inputs)
    count = len(AZURE["inputs"])
    assert names[:count] == list(AZURE["inputs"])
    assert names[count:] == [entry.name for entry in INPUTS.values() if not entry.azure]
    assert all(pipeline().inputs[name].optional for name in names[count:])


def test_version_outputs_and_steps() -> None:
    found = pipeline()
    assert found.version == AZURE["version"]
    assert {name: spec.type for name, spec in found.outputs.items()} == {
        **AZURE["outputs"],
        "evaluation_result": "uri_folder",
    }
    assert list(found.nodes) == [*AZURE["steps"], "base_model_prediction", "model_prediction", "compute_metrics"]


@pytest.mark.parametrize("component", COMPONENTS.values(), ids=list(COMPONENTS))
def test_training_inputs_agree_with_the_table_they_are_read_by(component: CommandComponent | PipelineComponent) -> None:
    for name, spec in component.inputs.items():
        entry = INPUTS.get(name)
        if entry is None:
            continue
        default = str(entry.default).lower() if isinstance(entry.default, bool) else entry.default
        assert number(spec.default) == number(default), name
        if entry.kind == "boolean":
            assert spec.enum == ("true", "false")
        elif entry.kind in ("integer", "number"):
            assert spec.type == entry.kind
        if entry.kind == "string":
            assert spec.enum == entry.enum, name
        assert spec.description.replace("\n", " ") == entry.help, name


@pytest.mark.parametrize("component", COMPONENTS.values(), ids=list(COMPONENTS))
def test_an_input_is_the_same_in_the_pipeline_and_in_its_steps(component: CommandComponent | PipelineComponent) -> None:
    for name, spec in component.inputs.items():
        whole = pipeline().inputs.get(name)
        if whole is not None and component.name != "model_import":
            assert dataclasses.replace(spec, mode=None, optional=False) == dataclasses.replace(
                whole, mode=None, optional=False
            ), name


def test_every_input_of_the_pipeline_reaches_a_step_or_a_compute() -> None:
    used: set[str] = set()
    for node in pipeline().nodes.values():
        for text in [*node.inputs.values(), node.compute, *node.resources.values()]:
            used |= {e.names[0] for e in expressions.find(str(text)) if e.form == "parent_input"}
    assert used == set(pipeline().inputs)


def test_every_input_says_what_it_does() -> None:
    assert [name for name, spec in pipeline().inputs.items() if not spec.description] == []
    assert set(pipeline().inputs) == set(INPUTS) | set(PIPELINE_INPUTS)


@pytest.mark.parametrize("component", COMMANDS, ids=lambda component: component.name)
def test_command_lines_fit_the_steps_they_start(component: CommandComponent) -> None:
    values = {name: _example(spec.type, spec.default, spec.enum) for name, spec in component.inputs.items()}
    outputs = {name: f"/tmp/{name}" for name in component.outputs}
    words = expressions.render_command(component.command, inputs=values, outputs=outputs, name="job").split()
    assert words[:2] == ["python", "-m"]
    module = importlib.import_module(words[2])
    arguments = parse_arguments(module.Arguments, words[3:])
    assert {field.name for field in dataclasses.fields(arguments)} == set(component.inputs) | set(component.outputs)


def _example(type: str, default: str | None, enum: tuple[Any, ...]) -> str:
    if default is not None:
        return default
    return enum[0] if enum else {"integer": "1", "number": "1.5"}.get(type, "/tmp/x")


@pytest.mark.parametrize("component", COMMANDS, ids=lambda component: component.name)
def test_the_code_of_a_step_is_part_of_its_key(component: CommandComponent) -> None:
    if component.is_deterministic:
        assert len(hash_modules(component.properties[MODULES])) == 64
        assert component.command.split()[2] in component.properties[MODULES].split()


@pytest.mark.parametrize("component", COMMANDS, ids=lambda component: component.name)
def test_what_a_step_takes_from_other_steps_is_part_of_its_key(component: CommandComponent) -> None:
    if not component.is_deterministic:
        return
    module = component.command.split()[2]
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None
    steps = "tunesmith.components.steps"
    taken = set()
    for node in ast.walk(ast.parse(Path(spec.origin).read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(steps):
            taken |= {f"{steps}.{alias.name}" for alias in node.names} if node.module == steps else {str(node.module)}
    assert taken - set(component.properties[MODULES].split()) == set()


def test_ids_and_files() -> None:
    assert {path.stem for path in SPECS.glob("*.yaml")} == set(COMPONENTS)
    for entry in entries():
        assert entry.id == f"azureml://registries/azureml/components/{entry.name}/versions/{entry.version}"
        assert entry.labels == ["latest"]


@pytest.mark.parametrize("module", ["catalogue", "checks", "steps.validate", "steps.preprocess", "steps.finetune"])
def test_what_the_server_and_quick_steps_load_is_light(module: str) -> None:
    code = (
        f"import sys, tunesmith.components.{module}; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_what_may_differ_between_a_run_and_its_resumption_is_what_training_allows() -> None:
    from tunesmith.finetune.run import _FREE

    properties = COMPONENTS["chat_completion_finetune"].properties
    assert {properties["resume"], *properties["resume_ignores"].split()} == _FREE
