from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.pipelines.conftest import FixedResolver, command
from tunesmith.errors import Fault, ValidationFailed
from tunesmith.pipelines.expand import build_graph
from tunesmith.pipelines.graph import Graph, LiteralInput, ModelSource, OutputInput, PathInput
from tunesmith.pipelines.resolver import ResolvedCompute, ResolvedPath
from tunesmith.records.jobs import JobSettings, SubmitJob

TRAIN = command(
    "train",
    "train ${{inputs.lr}} ${{inputs.epochs}} ${{inputs.kind}} $[[--data ${{inputs.data}}]] ${{outputs.model}}",
    inputs={
        "lr": {"type": "number", "default": 0.1},
        "epochs": {"type": "integer", "min": 1, "default": 1},
        "kind": {"type": "string", "enum": ["true", "false"], "default": "false"},
        "data": {"type": "uri_file", "optional": True},
    },
    outputs={"model": {"type": "mlflow_model"}},
)
SCORE = command(
    "score",
    "score ${{inputs.model}} > ${{outputs.scores}}",
    inputs={"model": {"type": "mlflow_model"}},
    outputs={"scores": {"type": "uri_file"}},
)
PIPELINE: dict[str, Any] = {
    "type": "pipeline",
    "name": "train_and_score",
    "inputs": {
        "lr": {"type": "number", "optional": True},
        "epochs": {"type": "integer", "min": 1, "max": 5, "default": 2},
        "data": {"type": "uri_file"},
        "compute_train": {"type": "string", "default": "serverless"},
    },
    "outputs": {"scores": {"type": "uri_file"}},
    "jobs": {
        "score": {
            "component": "azureml:score:1",
            "inputs": {"model": "${{parent.jobs.train.outputs.model}}"},
            "outputs": {"scores": "${{parent.outputs.scores}}"},
        },
        "train": {
            "component": "azureml:train:1",
            "compute": "${{parent.inputs.compute_train}}",
            "inputs": {
                "lr": "${{parent.inputs.lr}}",
                "epochs": "${{parent.inputs.epochs}}",
                "data": "${{parent.inputs.data}}",
            },
        },
    },
}


@pytest.fixture
def shelf(resolver: FixedResolver) -> FixedResolver:
    for spec in (TRAIN, SCORE, PIPELINE):
        resolver.components[f"azureml:{spec['name']}:1"] = (spec, None)
    return resolver


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text("{}\n")
    return path


def faults(request: SubmitJob, resolver: FixedResolver) -> dict[str | None, str]:
    with pytest.raises(ValidationFailed) as caught:
        build_graph(request, resolver)
    return {fault.target: fault.message for fault in caught.value.details}


def test_nested_pipeline_becomes_flat_steps_in_order(shelf: FixedResolver, data: Path) -> None:
    graph = build_graph(
        SubmitJob(
            base_path=str(data.parent),
            inputs={"rate": "5e-06", "rows": {"type": "uri_file", "path": "data.jsonl"}},
            outputs={"result": {"type": "uri_file"}},
            jobs={
                "whole": {
                    "component": "azureml:train_and_score:1",
                    "inputs": {"lr": "${{parent.inputs.rate}}", "data": "${{parent.inputs.rows}}"},
                    "outputs": {"scores": "${{parent.outputs.result}}"},
                }
            },
        ),
        shelf,
    )
    assert [step.name for step in graph.steps] == ["whole/train", "whole/score"]
    train, score = graph.steps
    assert train.inputs == {
        "lr": LiteralInput(type="number", value="5e-06"),
        "epochs": LiteralInput(type="integer", value="2"),
        "kind": LiteralInput(type="string", value="false"),
        "data": PathInput(type="uri_file", path=str(data), reference=str(data)),
    }
    assert train.compute == "serverless"
    assert score.compute == "local"
    assert score.inputs == {"model": OutputInput(type="mlflow_model", step="whole/train", output="model")}
    assert score.needs == ["whole/train"]
    assert graph.outputs["result"].step == "whole/score"
    assert Graph.model_validate_json(graph.model_dump_json()) == graph


def test_optional_input_without_value_takes_the_inner_default(shelf: FixedResolver, data: Path) -> None:
    graph = build_graph(SubmitJob(component="azureml:train_and_score:1", inputs={"data": str(data), "lr": None}), shelf)
    assert graph.step("train_and_score/train").inputs["lr"] == LiteralInput(type="number", value="0.1")


def test_a_job_of_one_component_has_its_outputs_and_aliases(shelf: FixedResolver, data: Path) -> None:
    graph = build_graph(
        SubmitJob(
            component="azureml:train_and_score:1",
            inputs={"data": str(data)},
            outputs={"final": "${{outputs.scores}}"},
        ),
        shelf,
    )
    assert set(graph.outputs) == {"scores", "final"}
    assert graph.outputs["final"] == graph.outputs["scores"]
    told = faults(
        SubmitJob(
            component="azureml:train_and_score:1", inputs={"data": str(data)}, outputs={"final": "${{outputs.scroes}}"}
        ),
        shelf,
    )
    assert told == {"outputs.final": "the component has no output 'scroes'"}


def test_every_fault_in_one_answer(shelf: FixedResolver, tmp_path: Path) -> None:
    request = SubmitJob(
        component="azureml:train_and_score:1",
        inputs={
            "lr": float("nan"),
            "epochs": 9,
            "data": {"type": "uri_file", "path": str(tmp_path / "none.jsonl")},
            "learning_rate": 1,
            "compute_trian": "x",
        },
    )
    with pytest.raises(ValidationFailed) as caught:
        build_graph(request, shelf)
    told = {fault.target: (fault.message, fault.way_out) for fault in caught.value.details}
    assert told["inputs.lr"][0] == "must be a finite number, got nan"
    assert told["inputs.epochs"][0] == "must be at most 5, got 9"
    assert told["inputs.data"][0] == f"there is no such file or folder: {tmp_path / 'none.jsonl'}"
    assert told["inputs.compute_trian"] == (
        "the component train_and_score has no input 'compute_trian'",
        "did you mean 'compute_train'?",
    )
    assert told["inputs.learning_rate"][0] == "the component train_and_score has no input 'learning_rate'"
    assert len(told) == 5, "a value's fault is told once, not again for each node it reaches"


def test_required_inputs_and_paths_of_the_wrong_kind(shelf: FixedResolver, tmp_path: Path, data: Path) -> None:
    assert faults(SubmitJob(component="azureml:train_and_score:1"), shelf) == {
        "inputs.data": "is required by train_and_score: a uri_file"
    }
    told = faults(SubmitJob(component="azureml:train_and_score:1", inputs={"data": str(tmp_path)}), shelf)
    assert told == {"inputs.data": f"must be a file (uri_file), and {tmp_path} is a folder"}
    told = faults(SubmitJob(component="azureml:score:1", inputs={"model": str(data)}), shelf)
    assert told == {"inputs.model": f"must be a folder (mlflow_model), and {data} is a file"}
    told = faults(SubmitJob(component="azureml:train_and_score:1", inputs={"data": "data.jsonl"}), shelf)
    assert "relative path" in told["inputs.data"]
    told = faults(
        SubmitJob(component="azureml:train_and_score:1", inputs={"data": {"path": str(data), "mod": "ro_mount"}}), shelf
    )
    assert told == {"inputs.data.mod": "unknown field 'mod'"}
    told = faults(SubmitJob(component="azureml:train_and_score:1", inputs={"data": "https://example.com/x"}), shelf)
    assert "address" in told["inputs.data"]


def test_unknown_names_in_expressions(shelf: FixedResolver) -> None:
    request = SubmitJob(
        inputs={"rate": 1, "unused": 2},
        outputs={"model": {}},
        jobs={
            "train": {
                "component": "azureml:train:1",
                "inputs": {"lr": "${{parent.inputs.raet}}", "epochs": "${{secrets.x}}"},
                "outputs": {"model": "${{parent.outputs.modle}}", "x": "${{parent.outputs.model}}"},
            },
            "score": {"component": "azureml:score:1", "inputs": {"model": "${{parent.jobs.train.outputs.modle}}"}},
            "again": {"component": "azureml:scoer:1"},
        },
    )
    with pytest.raises(ValidationFailed) as caught:
        build_graph(request, shelf)
    told = {fault.target: (fault.message, fault.way_out) for fault in caught.value.details}
    assert told["jobs.train.inputs.lr"] == ("the pipeline has no input 'raet'", "did you mean 'rate'?")
    assert told["jobs.train.inputs.epochs"][0] == "${{secrets.x}} is not an expression that is known here"
    assert told["jobs.train.outputs.model"] == (
        "the pipeline has no output 'modle'",
        "did you mean 'model'?",
    )
    assert told["jobs.train.outputs.x"][0] == "the component train has no output 'x'"
    assert told["jobs.score.inputs.model"] == ("the node 'train' has no output 'modle'", "did you mean 'model'?")
    assert told["jobs.again.component"][0] == "there is no component azureml:scoer:1"


def test_cycles_are_named(shelf: FixedResolver) -> None:
    node = {"component": "azureml:score:1"}
    request = SubmitJob(
        jobs={
            "a": {**node, "inputs": {"model": "${{parent.jobs.b.outputs.scores}}"}},
            "b": {**node, "inputs": {"model": "${{parent.jobs.a.outputs.scores}}"}},
        }
    )
    assert faults(request, shelf)["jobs.a"] == "nodes wait for each other: a -> b -> a"


def test_a_pipeline_that_contains_itself(shelf: FixedResolver) -> None:
    spec = {"type": "pipeline", "name": "loop", "jobs": {"again": {"component": "azureml:loop:1"}}}
    shelf.components["azureml:loop:1"] = (spec, None)
    told = faults(SubmitJob(component="azureml:loop:1"), shelf)
    assert told == {"jobs.again.component": "contains itself: azureml:loop:1 -> azureml:loop:1"}


def test_type_of_an_output_must_fit(shelf: FixedResolver) -> None:
    request = SubmitJob(
        jobs={
            "train": {"component": "azureml:train:1"},
            "again": {"component": "azureml:train:1", "inputs": {"data": "${{parent.jobs.train.outputs.model}}"}},
            "third": {"component": "azureml:train:1", "inputs": {"lr": "${{parent.jobs.train.outputs.model}}"}},
        }
    )
    assert faults(request, shelf) == {
        "jobs.again.inputs.data": "must be a uri_file, and a mlflow_model is given",
        "jobs.third.inputs.lr": "must be a number, and a file or folder is given",
    }


def test_groups_of_inputs(resolver: FixedResolver) -> None:
    spec = command(
        "pick",
        "echo $[[${{inputs.a}}]] $[[${{inputs.b}}]] $[[${{inputs.c}}]]",
        inputs={name: {"type": "string", "optional": True} for name in "abc"},
        properties={"exactly_one_of": "a, b", "at_most_one_of": "b, c"},
    )
    assert faults(SubmitJob(component=spec), resolver) == {"inputs": "exactly one of a, b must be given, and none is"}
    assert faults(SubmitJob(component=spec, inputs={"a": "1", "b": "2"}), resolver) == {
        "inputs": "exactly one of a, b must be given, and a and b are"
    }
    assert faults(SubmitJob(component=spec, inputs={"b": "1", "c": "2"}), resolver) == {
        "inputs": "at most one of b, c must be given, and b and c are"
    }
    build_graph(SubmitJob(component=spec, inputs={"a": "1", "c": "2"}), resolver)


def test_a_rule_of_the_component(resolver: FixedResolver) -> None:
    seen: list[dict[str, str]] = []

    def check(values: Any) -> list[Fault]:
        seen.append(dict(values))
        return [Fault("must be even", "n", way_out="add one")]

    resolver.checks["even"] = check
    spec = command("even", "echo ${{inputs.n}}", inputs={"n": {"type": "integer"}}, properties={"check": "even"})
    assert faults(SubmitJob(jobs={"x": {"component": spec, "inputs": {"n": "3"}}}), resolver) == {
        "jobs.x.inputs.n": "must be even"
    }
    assert seen == [{"n": "3"}]


def test_weights_that_are_not_here_are_only_for_components_that_import(resolver: FixedResolver, tmp_path: Path) -> None:
    reference = "azureml://registries/azureml/models/m/versions/1"
    source = ModelSource(registry="azureml", name="m", version="1", source="hf://o/m")
    resolver.paths[reference] = ResolvedPath(tmp_path / "packages" / "m", reference, model=source)
    spec = command("use", "echo ${{inputs.m}}", inputs={"m": {"type": "custom_model"}})
    with pytest.raises(ValidationFailed) as caught:
        build_graph(SubmitJob(component=spec, inputs={"m": reference}), resolver)
    assert [(fault.target, fault.way_out) for fault in caught.value.details] == [
        ("inputs.m", "tunesmith models import m")
    ]
    importing = {**spec, "properties": {"imports_models": "true"}}
    graph = build_graph(SubmitJob(component=importing, inputs={"m": reference}), resolver)
    bound = graph.steps[0].inputs["m"]
    assert isinstance(bound, PathInput)
    assert bound.model == source


def test_computes_are_checked_and_their_difference_said(shelf: FixedResolver) -> None:
    shelf.computes["big"] = ResolvedCompute("big", "Standard_ND40rs_v2", "this machine has no GPU")
    graph = build_graph(SubmitJob(component="azureml:train:1", compute="azureml:big"), shelf)
    assert graph.steps[0].compute == "big"
    assert [notice.message for notice in graph.notices] == ["this machine has no GPU"]
    told = faults(SubmitJob(jobs={"t": {"component": "azureml:train:1", "compute": "small"}}), shelf)
    assert told == {"jobs.t.compute": "there is no compute 'small'"}


def test_command_jobs(resolver: FixedResolver, tmp_path: Path) -> None:
    code = tmp_path / "src"
    code.mkdir()
    code.joinpath("main.py").write_text("print(1)")
    graph = build_graph(
        SubmitJob(
            type="command",
            command="python main.py ${{inputs.n}} ${{outputs.out}}",
            code="src",
            base_path=str(tmp_path),
            inputs={"n": 3},
            outputs={"out": {"type": "uri_folder"}},
            environment_variables={"A": "1"},
        ),
        resolver,
    )
    (step,) = graph.steps
    assert (step.code, step.environment_variables) == (str(code), {"A": "1"})
    assert step.inputs == {"n": LiteralInput(type="integer", value="3")}
    assert graph.outputs["out"].output == "out"
    told = faults(
        SubmitJob(type="command", command="echo ${{inputs.m}}", code="none", base_path=str(tmp_path)), resolver
    )
    assert any("there is no input 'm'" in message for message in told.values())


def test_components_from_files_may_stand_beside_the_pipeline(resolver: FixedResolver, tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "score.yml").write_text(yaml.safe_dump({**SCORE, "code": "./src"}))
    (tmp_path / "parts" / "src").mkdir()
    (tmp_path / "pipeline.yml").write_text(
        yaml.safe_dump(
            {
                "type": "pipeline",
                "name": "p",
                "inputs": {"model": {"type": "mlflow_model"}},
                "jobs": {"score": {"component": "./parts/score.yml", "inputs": {"model": "${{parent.inputs.model}}"}}},
            }
        )
    )
    graph = build_graph(
        SubmitJob(component="./pipeline.yml", base_path=str(tmp_path), inputs={"model": str(tmp_path)}), resolver
    )
    assert graph.steps[0].code == str(tmp_path / "parts" / "src")
    told = faults(SubmitJob(component="./none.yml", base_path=str(tmp_path)), resolver)
    assert told == {"component": f"{tmp_path / 'none.yml'}: there is no such file"}


def test_text_with_expressions_inside(shelf: FixedResolver) -> None:
    spec = command("say", "echo ${{inputs.text}}", inputs={"text": {"type": "string"}})
    graph = build_graph(
        SubmitJob(
            inputs={"who": "world"},
            jobs={"say": {"component": spec, "inputs": {"text": "hello ${{parent.inputs.who}}!"}}},
        ),
        shelf,
    )
    assert graph.steps[0].inputs["text"] == LiteralInput(type="string", value="hello world!")


def test_a_job_needs_something_to_run(resolver: FixedResolver) -> None:
    assert faults(SubmitJob(), resolver) == {"jobs": "a pipeline job needs nodes, or a component"}
    unused = build_graph(SubmitJob(inputs={"x": 1}, jobs={"a": {"command": "true"}}), resolver)
    assert [notice.code for notice in unused.notices] == ["InputUnused"]
    missing = SubmitJob(outputs={"o": {"type": "uri_file"}}, jobs={"a": {"command": "true"}})
    assert faults(missing, resolver) == {"outputs.o": "no node writes it"}


def test_fields_without_effect_are_said(resolver: FixedResolver) -> None:
    spec = command(
        "many",
        "true",
        distribution={"type": "pytorch", "process_count_per_instance": 8},
        resources={"instance_count": 4},
        environment="azureml:env:1",
    )
    request = SubmitJob(
        settings=JobSettings(default_datastore="mine"), jobs={"a": {"component": spec, "limits": {"timeout": 60}}}
    )
    resolver.environments["azureml:env:1"] = {"image": "ubuntu", "conda_file": {"dependencies": ["pyyaml=0.1"]}}
    graph = build_graph(request, resolver)
    assert [notice.message for notice in graph.notices] == [
        "settings.default_datastore mine has no effect: outputs lie in the workspace's artifact store",
        "a: distribution has no effect: a step is one process tree on this machine",
        "a: limits has no effect: a step runs as long as it needs",
        "a: instance_count 4 has no effect: a step is one process tree on this machine",
        "a: the environment azureml:env:1 is recorded and not built",
        "a: its image ubuntu is not used: steps are processes of this machine",
        f"a: of its 1 packages 1 differ here: pyyaml==0.1.* ({metadata.version('pyyaml')} is installed)",
    ]
    assert graph.steps[0].told[0].startswith(f"python is {sys.executable}")
    assert graph.steps[0].told[-1] == graph.notices[-1].message.removeprefix("a: ")


def test_a_step_of_installed_code_says_nothing_of_its_environment_in_its_log(resolver: FixedResolver) -> None:
    spec = command("own", "true", environment="azureml:env:1", properties={"code_modules": "json"})
    graph = build_graph(SubmitJob(jobs={"a": {"component": spec}}), resolver)
    assert [notice.message for notice in graph.notices] == [
        "a: its environment is recorded; it runs in the one that is installed here"
    ]
    assert graph.steps[0].told == []


def test_a_whole_command_says_what_has_no_effect(resolver: FixedResolver) -> None:
    request = SubmitJob(type="command", command="true", limits={"timeout": "PT1M"}, resources={"instance_count": 2})
    assert [notice.message for notice in build_graph(request, resolver).notices] == [
        "command: limits has no effect: a step runs as long as it needs",
        "command: instance_count 2 has no effect: a step is one process tree on this machine",
    ]
