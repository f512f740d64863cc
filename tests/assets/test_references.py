from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tunesmith.assets.references import (
    AssetReference,
    DatastoreReference,
    JobOutputReference,
    PathReference,
    Reference,
    UrlReference,
    parse_asset,
    parse_reference,
)
from tunesmith.errors import ValidationFailed

ARM = "/subscriptions/s-1/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w"
ARM_REGISTRY = "/subscriptions/s-1/resourceGroups/g/providers/Microsoft.MachineLearningServices/registries/azureml"

FORMS: list[tuple[str, Reference]] = [
    ("azureml:N:V", AssetReference("N", "V")),
    ("azureml:N@L", AssetReference("N", label="L")),
    ("azureml:N", AssetReference("N")),
    ("N:V", AssetReference("N", "V")),
    ("N@latest", AssetReference("N", label="latest")),
    ("N", AssetReference("N")),
    ("  Phi-3.5-mini:2026.1+cpu ", AssetReference("Phi-3.5-mini", "2026.1+cpu")),
    ("azureml://registries/R1/models/N/versions/V", AssetReference("N", "V", registry="R1", kind="models")),
    ("azureml://registries/R1/models/N/labels/latest", AssetReference("N", None, "latest", "R1", "models")),
    ("azureml://registries/R1/components/N", AssetReference("N", registry="R1", kind="components")),
    ("azureml://registries/R1/data/N/versions/1", AssetReference("N", "1", registry="R1", kind="data")),
    ("azureml://registries/R1/environments/N/versions/1", AssetReference("N", "1", None, "R1", "environments")),
    ("azureml://registries/workspace/models/N/versions/1", AssetReference("N", "1", None, "workspace", "models")),
    ("azureml:azureml://registries/R1/models/N/versions/V", AssetReference("N", "V", None, "R1", "models")),
    ("azureml://models/N/versions/V", AssetReference("N", "V", kind="models")),
    ("azureml://locations/eastus/workspaces/guid/models/N/versions/V", AssetReference("N", "V", kind="models")),
    ("azureml://locations/eastus/workspaces/guid/data/N/versions/V", AssetReference("N", "V", kind="data")),
    (f"{ARM}/models/N/versions/V", AssetReference("N", "V", kind="models")),
    (f"azureml:{ARM}/models/N/versions/V", AssetReference("N", "V", kind="models")),
    (f"{ARM.upper()}/MODELS/N/VERSIONS/V", AssetReference("N", "V", kind="models")),
    (f"{ARM_REGISTRY}/components/N/versions/V", AssetReference("N", "V", None, "azureml", "components")),
    ("azureml://jobs/J/outputs/O", JobOutputReference("J", "O")),
    ("azureml://jobs/J/outputs/O/", JobOutputReference("J", "O")),
    ("azureml://jobs/J/outputs/O/paths/a/b", JobOutputReference("J", "O", "a/b")),
    ("azureml://jobs/J/outputs/O/paths/", JobOutputReference("J", "O")),
    ("azureml://jobs/J/outputs/artifacts/paths/model", JobOutputReference("J", "artifacts", "model")),
    ("azureml://datastores/D/paths/a/b%20c", DatastoreReference("D", "a/b c")),
    (
        "azureml://subscriptions/s/resourcegroups/g/workspaces/w/datastores/D/paths/a",
        DatastoreReference("D", "a"),
    ),
    (f"{ARM}/datastores/D/paths/x", DatastoreReference("D", "x")),
    ("https://a.example/b?c=1", UrlReference("https://a.example/b?c=1")),
    ("wasbs://c@a.example/b", UrlReference("wasbs://c@a.example/b")),
    ("file:///tmp/a%20b", PathReference(Path("/tmp/a b"))),
    ("file:/tmp/a", PathReference(Path("/tmp/a"))),
    ("/abs/path", PathReference(Path("/abs/path"))),
    ("./a.jsonl", PathReference(Path("a.jsonl"))),
    ("../a", PathReference(Path("../a"))),
    ("sub/a", PathReference(Path("sub/a"))),
    ("~/a", PathReference(Path.home() / "a")),
]


@pytest.mark.parametrize(("text", "expected"), FORMS)
def test_every_form_is_read(text: str, expected: Reference) -> None:
    assert parse_reference(text) == expected


@pytest.mark.parametrize(("text", "expected"), FORMS)
def test_what_a_reference_prints_is_the_same_reference(text: str, expected: Reference) -> None:
    again = parse_reference(str(expected), bare="path")
    if isinstance(expected, AssetReference):
        assert isinstance(again, AssetReference)
        assert (again.name, again.version, again.label or "latest") == (
            expected.name,
            expected.version,
            expected.label or "latest",
        )
        assert again.registry == (None if expected.registry == "workspace" else expected.registry)
    else:
        assert again == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it is empty"),
        ("a\nb", "a line break"),
        ("azureml:", "'' is not a name"),
        ("azureml:N:", "'' is not a version"),
        ("azureml:N@", "'' is not a label"),
        ("azureml:a b:1", "'a b' is not a name"),
        ("azureml:N:1:2", "'1:2' is not a version"),
        ("azureml:../x:1", "'../x' is not a name"),
        ("azureml://registries/", "ends before it names a thing"),
        ("azureml://registries/R1", "ends before it names a thing"),
        ("azureml://registries/R1/modles/N/versions/1", "no 'modles'"),
        ("azureml://registries/R1/models", "the name is missing"),
        ("azureml://registries/R1/models/N/version/1", "/versions/VERSION or /labels/LABEL"),
        ("azureml://registries/R1/models/N/versions/1/x", "/versions/VERSION or /labels/LABEL"),
        ("azureml://registries/R1/models/N/versions/..", "'..' is not a version"),
        ("azureml://registries/R1/models/%2e%2e/versions/1", "'..' is not a name"),
        ("azureml://registries/R1/jobs/J/outputs/O", "no 'jobs'"),
        ("azureml://jobs/J", "after the job comes /outputs/"),
        ("azureml://jobs/J/outputs/", "'' is not a name of an input"),
        ("azureml://jobs/J/outputs/O/paths/../../x", "'..' may leave"),
        ("azureml://jobs/../outputs/O", "'..' is not a name of a job"),
        ("azureml://datastores/D", "after the datastore comes /paths/"),
        ("azureml://datastores/D/paths/", "the path is empty"),
        ("azureml://datastores/D/paths/a/%2e%2e/b", "'..' may leave"),
        ("azureml://experiments/E", "no kind of thing"),
        ("azureml://locations/eastus", "neither a workspace nor a registry"),
        ("file://other.example/a", "another machine"),
        ("~no-such-user-here/a", "no such user"),
    ],
)
def test_a_fault_names_the_text_why_and_the_right_forms(text: str, why: str) -> None:
    with pytest.raises(ValidationFailed) as caught:
        parse_reference(text, target="inputs.model")
    assert why in caught.value.message
    assert repr(text.strip() or text) in caught.value.message
    assert caught.value.target == "inputs.model"
    assert "azureml:NAME:VERSION" in str(caught.value.way_out)


def test_a_bare_text_is_what_the_place_makes_it() -> None:
    assert parse_reference("train.jsonl") == AssetReference("train.jsonl")
    assert parse_reference("train.jsonl", bare="path") == PathReference(Path("train.jsonl"))
    assert parse_reference("azureml:train:1", bare="path") == AssetReference("train", "1")


def test_the_kind_that_is_wanted_is_filled_in_or_refused() -> None:
    assert parse_reference("N:1", kind="data") == AssetReference("N", "1", kind="data")
    with pytest.raises(ValidationFailed, match="names one of models, and one of data is wanted"):
        parse_reference("azureml://registries/azureml/models/N/versions/1", kind="data")


def test_only_an_asset_will_do() -> None:
    assert parse_asset("N:1", kind="models").name == "N"
    for text in ("./folder", "https://a.example", "azureml://jobs/J/outputs/O"):
        with pytest.raises(ValidationFailed, match="does not name one of models"):
            parse_asset(text, kind="models")


@given(st.text(max_size=60) | st.from_regex(r"azureml:(//)?[a-zA-Z/:@.%\-]{0,40}", fullmatch=True))
@example("azureml://///")
@example("azureml://registries/%00/models/a/versions/1")
def test_any_text_is_a_reference_or_a_named_fault(text: str) -> None:
    try:
        found = parse_reference(text)
    except ValidationFailed:
        return
    if isinstance(found, JobOutputReference | DatastoreReference):
        assert ".." not in found.path.split("/")
