from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.azure.wire import W, Wire, azure_wire


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    with azure_wire(tmp_path_factory.mktemp("environments") / "home") as wire:
        yield wire


def body(**properties: Any) -> dict[str, Any]:
    return {"properties": {"isAnonymous": False, "isArchived": False, **properties}}


def test_an_environment_is_recorded_and_shown(wire: Wire) -> None:
    conda = "name: mine\ndependencies:\n- python=3.11\n"
    sent = body(image="mcr.example/base:1", condaFile=conda, tags={"n": 1}, properties={"p": True}, description="d")
    made = wire.arm("PUT", "environments/mine/versions/1", sent, status=201)
    assert made["id"] == f"{W}/environments/mine/versions/1"
    properties = made["properties"]
    assert (properties["image"], properties["condaFile"]) == ("mcr.example/base:1", conda)
    assert (properties["tags"], properties["properties"]) == ({"n": "1"}, {"p": "true"})
    assert wire.arm("GET", "environments/mine/versions/1") == made
    # What a client got it may send back, changed where a version may change.
    made["properties"] |= {"isArchived": True, "description": "other"}
    changed = wire.arm("PUT", "environments/mine/versions/1", made)["properties"]
    assert (changed["isArchived"], changed["description"]) == (True, "other")
    assert wire.arm("GET", "environments/mine/versions")["value"] == []


def test_a_version_never_changes(wire: Wire) -> None:
    wire.arm("PUT", "environments/fixed/versions/1", body(image="a"), status=201)
    error = wire.arm("PUT", "environments/fixed/versions/1", body(image="b"), status=409)["error"]
    assert error["code"] == "AlreadyExists"
    assert wire.arm("GET", "environments/fixed")["properties"]["nextVersion"] == "2"


def test_an_environment_that_has_to_be_built_is_refused(wire: Wire) -> None:
    for field, value in (("build", {"contextUri": "x"}), ("autoRebuild", "OnBaseImageUpdate"), ("stage", "Production")):
        error = wire.arm("PUT", "environments/built/versions/1", body(**{field: value}), status=400)["error"]
        assert (error["code"], error["target"]) == ("NotImplementedByTunesmith", f"properties.{field}")
