from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml

from tunesmith.errors import NotFound
from tunesmith.models.catalogue import CatalogueEntry, entries, entry
from tunesmith.models.sources import parse_source

NAMES = {
    "SmolLM2-135M-Instruct",
    "Phi-3-mini-4k-instruct",
    "Phi-3-mini-128k-instruct",
    "Phi-3.5-mini-instruct",
    "Phi-4-mini-instruct",
    "Phi-4",
    "Qwen2.5-0.5B-Instruct",
    "Qwen2.5-1.5B-Instruct",
    "Qwen2.5-7B-Instruct",
    "Llama-3.2-1B-Instruct",
    "Llama-3.2-3B-Instruct",
    "Mistral-7B-Instruct-v0.3",
    "Gemma-3-1b-it",
}
each = pytest.mark.parametrize("model", entries(), ids=lambda model: model.name)


def test_all_are_there_the_smallest_first() -> None:
    assert {model.name for model in entries()} == NAMES
    counts = [model.parameter_count for model in entries()]
    assert counts == sorted(counts)


@each
def test_facts_are_plausible_and_sources_are_readable(model: CatalogueEntry) -> None:
    assert model.license
    assert len(model.description) > 40
    assert model.context_length >= 4096
    assert model.architecture.endswith("ForCausalLM")
    for source in (model.source, *model.other_sources):
        parse_source(source)
    if model.source.startswith("pypi://"):
        assert re.fullmatch(r"[0-9a-f]{64}", model.expected_sha256 or "")


@each
def test_tags_are_texts_that_hold_python_literals(model: CatalogueEntry) -> None:
    assert all(isinstance(value, str) for value in model.tags.values())
    for name in ("finetune_compute_allow_list", "inference_compute_allow_list"):
        sizes = model.tag(name)
        assert sizes[0] == "local"
        assert len(sizes) == len(set(sizes))
    assert model.tag("publisher") == model.tags["publisher"]
    assert model.tag("nothing") is None


@each
def test_allow_lists_name_sizes_that_there_are(model: CatalogueEntry) -> None:
    from tunesmith.compute.sizes import AZURE_SIZES

    known = {size.name for size in AZURE_SIZES}
    for name in ("finetune_compute_allow_list", "inference_compute_allow_list"):
        assert set(model.tag(name)) - {"local"} <= known


def pipeline_inputs() -> dict[str, dict[str, Any]]:
    text = (resources.files("tunesmith.components") / "specs" / "chat_completion_pipeline.yaml").read_text(
        encoding="utf-8"
    )
    inputs: dict[str, dict[str, Any]] = yaml.safe_load(text)["inputs"]
    return inputs


@each
def test_model_specific_defaults_are_inputs_of_the_pipeline(model: CatalogueEntry) -> None:
    inputs = pipeline_inputs()
    for name, value in model.tag("model_specific_defaults").items():
        assert name in inputs, f"the pipeline has no input {name}"
        spec = inputs[name]
        kind = {"integer": int, "number": float, "string": str}[spec["type"]]
        assert type(value) is kind, (name, value)
        assert value in spec.get("enum", [value])
        assert value >= spec.get("min", value)


def test_unknown_name_gets_near_ones() -> None:
    assert entry("Phi-4").parameter_count == 14_659_507_200
    with pytest.raises(NotFound, match="no model 'Phi-3-mini'") as caught:
        entry("Phi-3-mini")
    assert "Phi-3-mini-4k-instruct" in str(caught.value.way_out)
    with pytest.raises(NotFound) as caught:
        entry("zzzzzz")
    assert "SmolLM2-135M-Instruct" in str(caught.value.way_out)


@each
def test_documentation_has_the_model_in_its_table(model: CatalogueEntry) -> None:
    page = Path(__file__).parents[2] / "docs" / "models.md"
    row = f"| {model.name} | {model.parameter_count:,} | {model.context_length:,} | {model.license} |"
    assert row in page.read_text(encoding="utf-8")
