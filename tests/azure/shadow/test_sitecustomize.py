"""A stand-in for the SDK's client shows what the shadow folder does; the walk-through tries it with the real one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tunesmith.azure.environment import SHADOW

CLIENT = """
class ValidationException(Exception): ...
class MLClient:
    @classmethod
    def from_config(cls, credential, *, path=None, file_name=None, **options):
        "Its own words."
        if path is None or "nowhere" in str(path):
            raise ValidationException("We could not find config.json in: . or in its parent directories.")
        return (cls.__name__, credential, str(path), options)
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    package = tmp_path / "site" / "azure" / "ai" / "ml"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("from ._ml_client import MLClient\n")
    (package / "_ml_client.py").write_text(CLIENT)
    (tmp_path / "site" / "sitecustomize.py").write_text("import builtins\nbuiltins.users_own = True\n")
    return tmp_path / "site"


def run(site: Path, code: str, **variables: str) -> str:
    path = os.pathsep.join([str(SHADOW), str(site)])
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": path, **variables}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


def ask(call: str) -> str:
    return f"from azure.ai.ml import MLClient\nprint({call})"


def test_without_a_config_the_workspaces_own_is_taken(site: Path) -> None:
    answer = run(site, ask("MLClient.from_config('c', cloud='x')"), TUNESMITH_AZURE_CONFIG="/ws/config.json")
    assert answer == "('MLClient', 'c', '/ws/config.json', {'cloud': 'x'})"


@pytest.mark.parametrize(
    ("call", "variables", "answer"),
    [
        (
            "MLClient.from_config('c', path='/mine')",
            {"TUNESMITH_AZURE_CONFIG": "/ws"},
            "('MLClient', 'c', '/mine', {})",
        ),
        ("MLClient.from_config('c', path='nowhere')", {"TUNESMITH_AZURE_CONFIG": "/ws"}, "could not find config.json"),
        ("MLClient.from_config('c')", {}, "could not find config.json"),
        ("MLClient.from_config.__doc__", {}, "Its own words."),
    ],
)
def test_all_else_is_as_it_was(site: Path, call: str, variables: dict[str, str], answer: str) -> None:
    assert answer in run(site, ask(call), **variables)


def test_a_sitecustomize_of_the_users_own_still_runs(site: Path) -> None:
    assert run(site, "print(users_own)") == "True"
