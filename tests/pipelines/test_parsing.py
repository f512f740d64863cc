from __future__ import annotations

from typing import Any

import pytest

from tests.pipelines.conftest import command
from tunesmith.errors import ValidationFailed
from tunesmith.pipelines.parsing import parse_component
from tunesmith.pipelines.schema import CommandComponent, PipelineComponent


def faults(spec: Any) -> dict[str | None, str]:
    with pytest.raises(ValidationFailed) as caught:
        parse_component(spec)
    return {fault.target: fault.message for fault in caught.value.details}


def test_command_component() -> None:
    component = parse_component(
        command(
            "train",
            "python train.py --lr ${{inputs.lr}} $[[--data ${{inputs.data}}]] --out ${{outputs.model}}",
            inputs={
                "lr": {"type": "Number", "default": "1e-3", "min": 0},
                "data": {"type": "uri_file", "optional": "true", "mode": "ro_mount"},
                "flag": {"type": "boolean", "default": True},
            },
            outputs={"model": {"type": "mlflow_model"}},
            is_deterministic="false",
            tags={"team": "chat", "stage": 2},
            environment="azureml:env:1",
        )
    )
    assert isinstance(component, CommandComponent)
    assert component.inputs["lr"].type == "number"
    assert component.inputs["lr"].default == "0.001"
    assert component.inputs["lr"].min == 0
    assert component.inputs["data"].optional
    assert component.inputs["flag"].default == "true"
    assert component.outputs["model"].type == "mlflow_model"
    assert component.tags == {"team": "chat", "stage": "2"}
    assert not component.is_deterministic


def test_every_fault_at_once() -> None:
    found = faults(
        {
            "type": "command",
            "name": "bad name!",
            "comand": "echo",
            "command": "echo ${{inputs.nope}} ${{inputs.maybe}} ${{outputs.out}} ${{parent.inputs.x}}",
            "inputs": {
                "a": {"type": "strng"},
                "b": {"type": "integer", "default": "x"},
                "c": {"type": "integer", "min": "low"},
                "d": {"type": "string", "enum": "one"},
                "e": {"type": "uri_file", "default": "x"},
                "f": "string",
                "1g": {"type": "string"},
                "h": {"type": "string", "mode": "mounted", "defualt": "x"},
                "maybe": {"type": "string", "optional": True},
            },
            "outputs": {"o": {"type": "integer"}},
            "is_deterministic": "perhaps",
        }
    )
    assert found["name"] == "is not a name: 'bad name!'"
    assert found["comand"] == "unknown field 'comand'"
    assert found["inputs.a.type"] == "is not known: 'strng'"
    assert found["inputs.b.default"] == "must be a whole number, got 'x'"
    assert found["inputs.c.min"] == "must be a number, got 'low'"
    assert found["inputs.d.enum"] == "must be a list of values"
    assert found["inputs.e.default"] == "a path has no default"
    assert found["inputs.f"] == "must be a mapping with a type, got 'string'"
    assert found["inputs.1g"] == "is not a name"
    assert found["inputs.h.mode"] == "is not known: 'mounted'"
    assert found["inputs.h.defualt"] == "unknown field 'defualt'"
    assert found["outputs.o.type"] == "is not a path type: 'integer'"
    assert found["is_deterministic"] == "must be true or false, got 'perhaps'"
    assert "command" in found


def test_faults_of_a_command_line() -> None:
    with pytest.raises(ValidationFailed) as caught:
        parse_component(
            command(
                "c",
                "echo ${{inputs.txt}} ${{inputs.maybe}} ${{outputs.out}} ${{parent.inputs.x}}",
                inputs={"text": {"type": "string"}, "maybe": {"type": "string", "optional": True}},
            )
        )
    told = [(fault.message, fault.way_out) for fault in caught.value.details]
    assert ("there is no input 'txt'", "did you mean 'text'?") in told
    assert ("there is no output 'out'", None) in told
    assert ("${{parent.inputs.x}} has no meaning in a command line", "use ${{inputs.x}} or ${{outputs.x}}") in told
    assert (
        "the optional input 'maybe' may have no value",
        "enclose its part: $[[--maybe ${{inputs.maybe}}]]",
    ) in told


def test_pipeline_component() -> None:
    component = parse_component(
        {
            "type": "pipeline",
            "name": "p",
            "inputs": {"x": {"type": "integer"}},
            "outputs": {"o": {"type": "uri_folder"}},
            "jobs": {
                "one": {
                    "type": "command",
                    "component": "azureml:c:1",
                    "inputs": {"x": "${{parent.inputs.x}}"},
                    "outputs": {"o": "${{parent.outputs.o}}"},
                    "compute": "${{parent.inputs.x}}",
                },
                "two": {
                    "command": "echo ${{inputs.n}} ${{inputs.d}}",
                    "inputs": {"n": 3, "d": {"type": "uri_file", "path": "x"}},
                },
            },
        }
    )
    assert isinstance(component, PipelineComponent)
    assert component.nodes["one"].component == "azureml:c:1"
    inline = component.nodes["two"].component
    assert not isinstance(inline, str)
    assert inline["inputs"] == {"n": {"type": "integer"}, "d": {"type": "uri_file"}}


def test_faults_of_nodes() -> None:
    found = faults(
        {
            "type": "pipeline",
            "name": "p",
            "jobs": {
                "a": {"component": "azureml:c:1", "command": "echo"},
                "b": {"inputs": {}},
                "c": {"component": "azureml:c:1", "imputs": {}},
                "d": [],
            },
        }
    )
    assert found == {
        "jobs.a": "has a component and a command of its own",
        "jobs.b.component": "is required: a reference, a file or a component's mapping",
        "jobs.c.imputs": "unknown field 'imputs'",
        "jobs.d": "must be a mapping, got []",
    }
    assert faults({"type": "pipeline", "name": "p"}) == {"jobs": "a pipeline needs at least one node"}
    assert faults({"type": "sweep", "name": "p"}) == {"type": "must be command or pipeline, got 'sweep'"}
    assert faults(["x"]) == {None: "must be a mapping, got ['x']"}
