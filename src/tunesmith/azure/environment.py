"""The environment that points Azure's SDK here, for one process.

Pure: from an ``AzureSession`` and the variables of the caller to the variables that differ. Nothing here talks to a
server or writes a file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from tunesmith.azure.trust import Trust
from tunesmith.azure.upstream import Upstream, excludes, split_no_proxy
from tunesmith.records.azure import AzureSession

TOKEN_PATH = "/azure/msi/token"
"""Where a managed identity gets its tokens, on the proxy's port."""
CLOUD = "TunesmithCloud"
"""The cloud's name where no proxy is used."""
CONFIG_VARIABLE = "TUNESMITH_AZURE_CONFIG"
"""Names the ``config.json`` that ``MLClient.from_config`` takes where it finds no other."""
SHADOW = Path(__file__).parent / "shadow"
"""What the user's own Python is given; it imports nothing of Tunesmith."""
CONFIG_PLACES = (".azureml/config.json", ".azureml/project.json", "aml_config/config.json", "aml_config/project.json")
CONFIG_NAMES = ("config.json", "project.json")
CLI_FOLDER = "cli"
"""The ``az`` command's own folder, in that of the Azure face: the user's login is neither used nor changed."""
PROFILE = "azureProfile.json"
DIRECT = ("127.0.0.1", "localhost", "::1")
SILENT = {
    "OTEL_SDK_DISABLED": "true",
    "OTEL_LOGS_EXPORTER": "none",
    "OTEL_TRACES_EXPORTER": "none",
    "OTEL_METRICS_EXPORTER": "none",
}
"""Ends the SDK's own telemetry where no proxy can throw it away; left alone where the caller has such variables."""


def variables(
    session: AzureSession,
    caller: Mapping[str, str],
    *,
    trust: Trust,
    config: Path | None = None,
    proxy: bool = True,
) -> dict[str, str | None]:
    """The variables to set (or, with ``None``, to unset) over those of ``caller``.

    Args:
        session: where the workspace is reached.
        caller: the variables that the process would have.
        trust: the workspace's authority and every authority that the process trusts otherwise.
        config: a ``config.json`` to fall back on; ``None`` where the caller has one.
        proxy: whether the SDK is led here by a proxy, or by a cloud of its own name.

    Raises:
        ValidationFailed: the caller's own proxy cannot stand behind this one.
    """
    port = session.proxy_port
    changes: dict[str, str | None] = {
        "REQUESTS_CA_BUNDLE": str(trust.folder),
        "SSL_CERT_FILE": str(trust.file),
        "CURL_CA_BUNDLE": str(trust.file),
        "IDENTITY_ENDPOINT": f"http://127.0.0.1:{port}{TOKEN_PATH}",
        "IDENTITY_HEADER": session.identity_header,
        "AZURE_TOKEN_CREDENTIALS": "ManagedIdentityCredential",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "APPLICATIONINSIGHTS_STATSBEAT_DISABLED_ALL": "true",
    }
    for name, value in (("AZUREML_RUN_POLLING_INTERVAL_MIN", "1"), ("AZUREML_RUN_POLLING_INTERVAL_MAX", "5")):
        if name not in caller:
            changes[name] = value
    kept = split_no_proxy(caller.get("no_proxy") or caller.get("NO_PROXY") or "")
    if proxy:
        user = _upstream(session, caller).user
        address = f"http://{quote(user)}:{quote(session.proxy_password)}@127.0.0.1:{port}"
        changes |= {"HTTPS_PROXY": address, "https_proxy": address}
        kept = tuple(entry for entry in kept if not leads_round(entry, session.caught))
        changes |= _cli(session, caller)
        # A cloud of another name would lead round the proxy's hosts.
        changes |= dict.fromkeys(("ARM_CLOUD_METADATA_URL", "AZUREML_CURRENT_CLOUD", "REGISTRY_DISCOVERY_ENDPOINT_URL"))
    else:
        base = f"https://localhost:{session.direct_port}"
        changes |= {
            "ARM_CLOUD_METADATA_URL": f"{base}/metadata/endpoints?api-version=2022-09-01",
            "AZUREML_CURRENT_CLOUD": CLOUD,
            "REGISTRY_DISCOVERY_ENDPOINT_URL": f"{base}/",
        }
        if not any(name.startswith("OTEL_") for name in caller):
            changes |= SILENT
    # The lower case counts first for some clients and alone for others, so both say the same.
    no_proxy = ",".join([*DIRECT, *(entry for entry in kept if entry not in DIRECT)])
    changes |= {"NO_PROXY": no_proxy, "no_proxy": no_proxy}
    if config is not None:
        others = [entry for entry in caller.get("PYTHONPATH", "").split(os.pathsep) if entry and entry != str(SHADOW)]
        changes["PYTHONPATH"] = os.pathsep.join([str(SHADOW), *others])
        changes[CONFIG_VARIABLE] = str(config)
    return changes


def _cli(session: AzureSession, caller: Mapping[str, str]) -> dict[str, str | None]:
    """What the ``az`` command takes: a login of its own, the extensions that the user has, names to fall back on."""
    folder = str(Path(session.folder) / CLI_FOLDER)
    changes: dict[str, str | None] = {"AZURE_CONFIG_DIR": folder}
    users = caller.get("AZURE_CONFIG_DIR")
    if "AZURE_EXTENSION_DIR" not in caller and users != folder:
        home = Path(users) if users else Path(caller.get("HOME") or "~").expanduser() / ".azure"
        changes["AZURE_EXTENSION_DIR"] = str(home / "cliextensions")
    for name, value in (("GROUP", session.resource_group), ("WORKSPACE", session.workspace_name)):
        if f"AZURE_DEFAULTS_{name}" not in caller:
            changes[f"AZURE_DEFAULTS_{name}"] = value
    return changes


def profile_text(session: AzureSession) -> str:
    """What the ``az`` command knows after a login as the managed identity that the workspace is."""
    subscription = {
        "id": session.subscription_id,
        "name": "Tunesmith",
        "state": "Enabled",
        "user": {"name": "systemAssignedIdentity", "type": "servicePrincipal", "assignedIdentityInfo": "MSI"},
        "isDefault": True,
        "tenantId": session.subscription_id,
        "homeTenantId": session.subscription_id,
        "environmentName": "AzureCloud",
        "managedByTenants": [],
    }
    return json.dumps({"subscriptions": [subscription]}, indent=2) + "\n"


def _upstream(session: AzureSession, caller: Mapping[str, str]) -> Upstream:
    """The caller's proxy. Where that is this one, in a shell that is pointed here already, the one behind it."""
    found = Upstream.from_environment(caller)
    parts = urlsplit(found.url)
    if (parts.hostname, parts.port) == ("127.0.0.1", session.proxy_port):
        return Upstream.from_user(unquote(parts.username or ""))
    return found


def apply(changes: Mapping[str, str | None], caller: Mapping[str, str]) -> dict[str, str]:
    """The whole environment."""
    merged: dict[str, str | None] = {**caller, **changes}
    return {name: value for name, value in merged.items() if value is not None}


def dropped_exceptions(session: AzureSession, caller: Mapping[str, str]) -> list[str]:
    """The entries of the caller's NO_PROXY that would lead round the proxy to the real Azure, and so do not count."""
    entries = split_no_proxy(caller.get("no_proxy") or caller.get("NO_PROXY") or "")
    return [entry for entry in entries if leads_round(entry, session.caught)]


def leads_round(entry: str, caught: Sequence[str]) -> bool:
    """Whether an entry of NO_PROXY stands for one of the hosts that are caught, or for a name below one."""
    wanted = entry.lower().partition(":")[0].removeprefix("*").removeprefix(".")
    for pattern in caught:
        name = pattern.removeprefix(".")
        below = pattern.startswith(".") and (wanted == name or wanted.endswith(f".{name}"))
        if below or excludes(entry, name) or excludes(entry, f"x.{name}"):
            return True
    return False


def find_config(folder: Path) -> Path | None:
    """The ``config.json`` that the SDK finds from ``folder``: in the places and in the order it looks."""
    folders = [folder, *folder.parents][:21]
    for relative in (*CONFIG_PLACES, *CONFIG_NAMES):
        for where in folders:
            if (where / relative).is_file():
                return where / relative
    return None


def config_text(session: AzureSession) -> str:
    """A ``config.json`` for this workspace."""
    names = {
        "subscription_id": session.subscription_id,
        "resource_group": session.resource_group,
        "workspace_name": session.workspace_name,
    }
    return json.dumps(names, indent=2) + "\n"


def exports(changes: Mapping[str, str | None], shell: str) -> str:
    """The lines that set ``changes`` in a shell: ``sh``, ``fish``, ``powershell``; or ``json``."""
    if shell == "json":
        return json.dumps(changes, indent=2) + "\n"
    return "".join(f"{_LINES[shell](name, value)}\n" for name, value in changes.items())


def _sh(name: str, value: str | None) -> str:
    if value is None:
        return f"unset {name}"
    return f"export {name}='{value.replace(chr(39), chr(39) + chr(92) + chr(39) + chr(39))}'"


def _fish(name: str, value: str | None) -> str:
    if value is None:
        return f"set -e {name}"
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"set -gx {name} '{escaped}'"


def _powershell(name: str, value: str | None) -> str:
    if value is None:
        return f"Remove-Item Env:{name} -ErrorAction SilentlyContinue"
    escaped = value.replace("'", "''")
    return f"$Env:{name} = '{escaped}'"


_LINES = {"sh": _sh, "fish": _fish, "powershell": _powershell}
