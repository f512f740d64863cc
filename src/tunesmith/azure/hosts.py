"""The names of Azure's hosts: those that answers name, those that are caught, those that are sunk."""

from __future__ import annotations

LOCATION = "eastus"
"""The region that everything says it is in: SDKs ask for one, and show it."""
API_HOST = f"{LOCATION}.api.azureml.ms"
REGISTRY_HOST = f"cert-{LOCATION}.experiments.azureml.net"
MANAGEMENT_HOST = "management.azure.com"
STORAGE_SUFFIX = "core.windows.net"

CAUGHT = (
    MANAGEMENT_HOST,
    ".azureml.ms",
    ".azureml.net",
    f".blob.{STORAGE_SUFFIX}",
    f".dfs.{STORAGE_SUFFIX}",
    f".file.{STORAGE_SUFFIX}",
    ".inference.ml.azure.com",
    ".login.microsoftonline.com",
    "login.microsoftonline.com",
)
"""Hosts that are answered here. One that begins with a dot stands for every name that ends so."""

SUNK = (
    ".applicationinsights.azure.com",
    ".livediagnostics.monitor.azure.com",
    "dc.services.visualstudio.com",
    "settings.sdk.monitor.azure.com",
    "config.mlflow-telemetry.io",
    ".mlflow-telemetry.io",
)
"""Hosts of telemetry: what is sent there is taken, counted and thrown away."""


def matches(host: str, patterns: tuple[str, ...]) -> bool:
    """Whether ``host`` is one of ``patterns``."""
    name = host.lower().rstrip(".")
    return any(name.endswith(pattern) if pattern.startswith(".") else name == pattern for pattern in patterns)
