from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tunesmith.azure.environment import (
    SHADOW,
    apply,
    config_text,
    dropped_exceptions,
    exports,
    find_config,
    leads_round,
    profile_text,
    variables,
)
from tunesmith.azure.hosts import SUNK, caught_hosts
from tunesmith.azure.trust import Trust
from tunesmith.records.azure import AzureSession

SESSION = AzureSession(
    proxy_port=4001,
    proxy_password="secret",
    direct_port=4002,
    identity_header="head",
    certificate="/ws/azure/ca.pem",
    folder="/ws/azure",
    caught=[*caught_hosts("ts1"), *SUNK],
    subscription_id="sub",
    resource_group="tunesmith",
    workspace_name="default",
)
TRUST = Trust(file=Path("/ws/azure/bundles/b.pem"), folder=Path("/ws/azure/bundles/b"))
PROXY = "http://tunesmith:secret@127.0.0.1:4001"


def test_variables_of_the_proxy() -> None:
    assert variables(SESSION, {"HOME": "/home/me"}, trust=TRUST) == {
        "REQUESTS_CA_BUNDLE": str(TRUST.folder),
        "SSL_CERT_FILE": str(TRUST.file),
        "CURL_CA_BUNDLE": str(TRUST.file),
        "IDENTITY_ENDPOINT": "http://127.0.0.1:4001/azure/msi/token",
        "IDENTITY_HEADER": "head",
        "AZURE_TOKEN_CREDENTIALS": "ManagedIdentityCredential",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "APPLICATIONINSIGHTS_STATSBEAT_DISABLED_ALL": "true",
        "AZUREML_RUN_POLLING_INTERVAL_MIN": "1",
        "AZUREML_RUN_POLLING_INTERVAL_MAX": "5",
        "HTTPS_PROXY": PROXY,
        "https_proxy": PROXY,
        "AZURE_CONFIG_DIR": "/ws/azure/cli",
        "AZURE_EXTENSION_DIR": "/home/me/.azure/cliextensions",
        "AZURE_DEFAULTS_GROUP": "tunesmith",
        "AZURE_DEFAULTS_WORKSPACE": "default",
        "ARM_CLOUD_METADATA_URL": None,
        "AZUREML_CURRENT_CLOUD": None,
        "REGISTRY_DISCOVERY_ENDPOINT_URL": None,
        "NO_PROXY": "127.0.0.1,localhost,::1",
        "no_proxy": "127.0.0.1,localhost,::1",
    }


def test_variables_without_a_proxy() -> None:
    found = variables(SESSION, {"HTTPS_PROXY": "http://corp:1", "NO_PROXY": ".azure.com"}, trust=TRUST, proxy=False)
    assert not {"HTTPS_PROXY", "AZURE_CONFIG_DIR"} & set(found)
    assert found["NO_PROXY"] == "127.0.0.1,localhost,::1,.azure.com"
    assert found["ARM_CLOUD_METADATA_URL"] == "https://localhost:4002/metadata/endpoints?api-version=2022-09-01"
    assert found["AZUREML_CURRENT_CLOUD"] == "TunesmithCloud"
    assert found["REGISTRY_DISCOVERY_ENDPOINT_URL"] == "https://localhost:4002/"
    assert found["OTEL_SDK_DISABLED"] == "true"


def test_what_the_caller_chose_is_left_alone() -> None:
    caller = {"AZUREML_RUN_POLLING_INTERVAL_MAX": "60", "OTEL_SERVICE_NAME": "mine"}
    found = variables(SESSION, caller, trust=TRUST, proxy=False)
    assert "AZUREML_RUN_POLLING_INTERVAL_MAX" not in found
    assert "OTEL_SDK_DISABLED" not in found


def test_the_az_command_keeps_its_extensions_and_its_defaults() -> None:
    caller = {"AZURE_CONFIG_DIR": "/mine", "AZURE_DEFAULTS_GROUP": "chosen"}
    found = variables(SESSION, caller, trust=TRUST)
    assert (found["AZURE_CONFIG_DIR"], found["AZURE_EXTENSION_DIR"]) == ("/ws/azure/cli", "/mine/cliextensions")
    assert "AZURE_DEFAULTS_GROUP" not in found
    (known,) = json.loads(profile_text(SESSION))["subscriptions"]
    assert (known["id"], known["isDefault"], known["environmentName"]) == ("sub", True, "AzureCloud")


@pytest.mark.parametrize("own", [{}, {"HTTPS_PROXY": "http://corp.example:3128", "NO_PROXY": "corp.example"}])
def test_a_process_that_is_pointed_here_already_is_pointed_here_once(own: dict[str, str]) -> None:
    config = Path("/ws/azure/config.json")
    once = variables(SESSION, own, trust=TRUST, config=config)
    twice = variables(SESSION, apply(once, own), trust=TRUST, config=config)
    changed = {name: value for name, value in twice.items() if once.get(name) != value}
    assert changed == {}


def test_a_config_comes_by_the_shadow_folder() -> None:
    found = variables(SESSION, {"PYTHONPATH": "/mine"}, trust=TRUST, config=Path("/ws/azure/config.json"))
    assert found["PYTHONPATH"] == f"{SHADOW}:/mine"
    assert found["TUNESMITH_AZURE_CONFIG"] == "/ws/azure/config.json"
    assert json.loads(config_text(SESSION)) == {
        "subscription_id": "sub",
        "resource_group": "tunesmith",
        "workspace_name": "default",
    }


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("*", True),
        ("azure.com", True),
        (".azure.com", True),
        ("management.azure.com", True),
        ("com", True),
        ("eastus.api.azureml.ms", True),
        (".windows.net", True),
        ("ts1.blob.core.windows.net", True),
        ("other.blob.core.windows.net", False),
        ("corp.example", False),
        ("10.0.0.0/8", False),
        ("localhost", False),
    ],
)
def test_exceptions_that_would_reach_the_real_azure(entry: str, expected: bool) -> None:
    assert leads_round(entry, SESSION.caught) is expected


def test_such_exceptions_do_not_count_and_are_named() -> None:
    caller = {"no_proxy": "corp.example,.azure.com"}
    assert variables(SESSION, caller, trust=TRUST)["NO_PROXY"] == "127.0.0.1,localhost,::1,corp.example"
    assert dropped_exceptions(SESSION, caller) == [".azure.com"]


def test_the_users_config_is_found_where_the_sdk_finds_it(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    assert find_config(inner) is None
    (tmp_path / "config.json").write_text("{}")
    assert find_config(inner) == tmp_path / "config.json"
    (tmp_path / "a" / ".azureml").mkdir()
    (tmp_path / "a" / ".azureml" / "config.json").write_text("{}")
    assert find_config(inner) == tmp_path / "a" / ".azureml" / "config.json"


def test_exports_are_what_a_shell_understands() -> None:
    text = exports({"A": "it's $HOME", "B": None}, "sh")
    shown = subprocess.run(
        ["/bin/sh", "-c", f'B=1\n{text}printf "%s|%s" "$A" "${{B-unset}}"'], capture_output=True, text=True, check=True
    )
    assert shown.stdout == "it's $HOME|unset"
    assert exports({"A": "it's", "B": None}, "fish") == "set -gx A 'it\\'s'\nset -e B\n"
    assert exports({"A": "it's"}, "powershell") == "$Env:A = 'it''s'\n"
    assert json.loads(exports({"A": "x", "B": None}, "json")) == {"A": "x", "B": None}


def test_apply_sets_and_unsets() -> None:
    assert apply({"A": "2", "B": None}, {"A": "1", "B": "1", "C": "1"}) == {"A": "2", "C": "1"}
