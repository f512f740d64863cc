from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tunesmith.errors import AlreadyExists, NotFound, ValidationFailed
from tunesmith.records.assets import RegisterComponent
from tunesmith.workspace import Services


def a_spec(**fields: Any) -> dict[str, Any]:
    return {
        "name": "greet",
        "type": "command",
        "display_name": "Greet",
        "description": "Says hello.",
        "tags": {"team": "blue"},
        "inputs": {"who": {"type": "string"}},
        "environment": "azureml:env@latest",
        "command": "python greet.py ${{inputs.who}}",
        **fields,
    }


@pytest.fixture
def code(tmp_path: Path) -> Path:
    folder = tmp_path / "project" / "src"
    (folder / "__pycache__").mkdir(parents=True)
    (folder / "greet.py").write_text("print('hello')")
    (folder / "__pycache__" / "greet.pyc").write_bytes(b"x")
    return folder


def test_a_component_keeps_a_snapshot_of_its_code(workspace: Services, code: Path) -> None:
    made = workspace.components.register(RegisterComponent(spec=a_spec(code="./src"), base_path=str(code.parent)))
    assert (made.id, made.type, made.display_name, made.description, made.tags) == (
        "azureml:greet:1",
        "command",
        "Greet",
        "Says hello.",
        {"team": "blue"},
    )
    assert made.spec["version"] == "1"
    (code / "greet.py").write_text("changed")
    kept = workspace.components.code(made)
    assert kept is not None
    assert {path.name: path.read_text() for path in kept.iterdir()} == {"greet.py": "print('hello')"}
    freed = workspace.components.delete("greet", "1")
    assert freed == len("print('hello')")
    assert not kept.exists()


def test_a_component_without_code(workspace: Services) -> None:
    made = workspace.components.register(RegisterComponent(spec=a_spec()))
    assert workspace.components.code(made) is None
    assert workspace.components.get("greet", "1") == made


def test_the_version_is_the_requests_else_the_yamls_else_the_next(workspace: Services) -> None:
    def version(request: str | None, **fields: Any) -> str:
        return workspace.components.register(RegisterComponent(spec=a_spec(**fields), version=request)).version

    assert [version("5", version="1"), version(None, version=3), version(None), version(None)] == ["5", "3", "6", "7"]
    with pytest.raises(AlreadyExists):
        version(None, version="3")


def test_the_hash_is_of_what_it_does(workspace: Services) -> None:
    def sha256(**fields: Any) -> str:
        return workspace.components.register(RegisterComponent(spec=a_spec(**fields))).sha256

    one = sha256()
    assert sha256(description="Says hello, kindly.", tags={}) == one
    assert sha256(command="python other.py ${{inputs.who}}") != one


def test_faults_are_named_and_leave_nothing(workspace: Services, tmp_path: Path) -> None:
    with pytest.raises(ValidationFailed, match="needs a name"):
        workspace.components.register(RegisterComponent(spec={"type": "command"}))
    with pytest.raises(ValidationFailed):
        workspace.components.register(RegisterComponent(spec=a_spec(command="echo ${{inputs.nobody}}")))
    with pytest.raises(NotFound, match="no such file or folder"):
        workspace.components.register(RegisterComponent(spec=a_spec(code="./src"), base_path=str(tmp_path / "no")))
    with pytest.raises(ValidationFailed, match="relative"):
        workspace.components.register(RegisterComponent(spec=a_spec(code="./src")))
    with pytest.raises(ValidationFailed, match="must be the path"):
        workspace.components.register(RegisterComponent(spec=a_spec(code=3)))
    assert workspace.components.list("workspace") == []
