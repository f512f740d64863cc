"""``tunesmith azure``: what belongs to the program that is run, and a program that is run for real."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.server import RunningServer, running_server
from tunesmith.cli.azure import part
from tunesmith.cli.hoisting import hoist

SCRIPT = """
import json, os, sys, urllib.request
import requests

identity = os.environ["IDENTITY_ENDPOINT"] + "?resource=https://management.azure.com"
token = requests.get(identity, headers={"X-IDENTITY-HEADER": os.environ["IDENTITY_HEADER"]}).json()["access_token"]
workspace = (
    "https://management.azure.com/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices"
    "/workspaces/w"
)
answer = requests.get(workspace, headers={"Authorization": f"Bearer {token}"})
print(json.dumps({"workspace": answer.json()["properties"]["workspaceId"], "arguments": sys.argv[1:]}))
sys.exit(7)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with running_server(tmp_path_factory.mktemp("azure") / "home") as running:
        yield running


def tunesmith(
    server: RunningServer, *arguments: str, folder: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tunesmith", "--workspace", str(server.home), "azure", *arguments]
    environment = {**os.environ, **variables}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["s.py", "--python", "x"], ([], ["s.py", "--python", "x"], False)),
        (["--python", "p", "s.py"], (["--python", "p"], ["s.py"], False)),
        (["--python=p", "--no-proxy", "s.py", "--", "a"], (["--python=p", "--no-proxy"], ["s.py", "--", "a"], False)),
        (["-m", "mod", "--output", "x"], (["-m", "mod"], ["--output", "x"], False)),
        (["--", "az", "ml"], ([], ["az", "ml"], True)),
        (["--no-proxy", "--", "az"], (["--no-proxy"], ["az"], True)),
        ([], ([], [], False)),
    ],
)
def test_part(given: list[str], expected: tuple[list[str], list[str], bool]) -> None:
    assert part(given) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["azure", "run", "s.py", "--json", "--url", "u"], ["azure", "run", "s.py", "--json", "--url", "u"]),
        (["azure", "run", "--json", "s.py"], ["--json", "azure", "run", "s.py"]),
        (["azure", "run", "--python", "p", "--workspace", "w", "s.py", "--workspace", "mine"],
         ["--workspace", "w", "azure", "run", "--python", "p", "s.py", "--workspace", "mine"]),
        (["azure", "run", "-m", "mod", "--debug"], ["azure", "run", "-m", "mod", "--debug"]),
        (["azure", "env", "--json"], ["--json", "azure", "env"]),
    ],
)  # fmt: skip
def test_what_belongs_to_the_program_is_not_ours(given: list[str], expected: list[str]) -> None:
    assert hoist(given) == expected


def test_a_script_reaches_the_workspace_and_its_exit_code_is_ours(server: RunningServer, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    done = tunesmith(server, "run", "--python", sys.executable, "script.py", "--json", "--", "x", folder=tmp_path)
    assert done.returncode == 7, done.stderr
    with server.http as http:
        identity = http.get("/api/v1/workspace").json()["id"]
    assert json.loads(done.stdout) == {"workspace": identity, "arguments": ["--json", "--", "x"]}
    assert "has no azure-ai-ml" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["script.py"]


def test_any_command_gets_the_environment(server: RunningServer, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    code = 'printf "%s|%s|%s" "$AZURE_TOKEN_CREDENTIALS" "${TUNESMITH_AZURE_CONFIG-none}" "$NO_PROXY"; exit 3'
    done = tunesmith(server, "run", "--", "sh", "-c", code, folder=tmp_path, NO_PROXY=".azure.com,corp.example")
    assert done.returncode == 3
    assert done.stdout == "ManagedIdentityCredential|none|127.0.0.1,localhost,::1,corp.example"
    assert "NO_PROXY names .azure.com" in done.stderr


def test_a_command_trusts_what_its_python_trusts(server: RunningServer, tmp_path: Path) -> None:
    (tmp_path / "own.pem").write_text("-----BEGIN CERTIFICATE-----\nT1dO\n-----END CERTIFICATE-----\n")
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho '{json.dumps({'certifi': str(tmp_path / 'own.pem'), 'missing': []})}'\n")
    python.chmod(0o755)
    show = ["--", "sh", "-c", 'grep -c T1dO "$SSL_CERT_FILE"']
    done = tunesmith(server, "run", "--python", str(python), *show, folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr


def test_env_prints_what_a_shell_takes(server: RunningServer, tmp_path: Path) -> None:
    done = tunesmith(server, "env", folder=tmp_path)
    shown = subprocess.run(
        ["/bin/sh", "-c", f'{done.stdout}printf "%s" "$HTTPS_PROXY"'], capture_output=True, text=True, check=True
    )
    assert shown.stdout.startswith("http://tunesmith:")
    status = json.loads(tunesmith(server, "status", "--json", folder=tmp_path).stdout)
    assert shown.stdout.endswith(f"@127.0.0.1:{status['proxy_port']}")
    assert not {"proxy_password", "identity_header"} & set(status)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "nothing to run is named"),
        (["run", "missing.py"], "there is no script 'missing.py'"),
        (["run", "--", "no-such-command"], "there is no command 'no-such-command'"),
        (["run", "--python", "/no/python", "a.py"], "there is no Python '/no/python'"),
        (["run", "--output", "x.ipynb", "a.py"], "only a notebook (.ipynb) is written with its outputs"),
        (["run", "--python", sys.executable, "a.ipynb"], "which run a notebook"),
    ],
)
def test_mistakes_are_said_before_anything_runs(
    server: RunningServer, tmp_path: Path, arguments: list[str], message: str
) -> None:
    for name in ("a.py", "a.ipynb"):
        (tmp_path / name).write_text("")
    done = tunesmith(server, *arguments, folder=tmp_path)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
