"""The names of Azure's hosts: those that answers name, those that are caught, those that are sunk."""

from __future__ import annotations

LOCATION = "eastus"
"""The region that everything says it is in: SDKs ask for one, and show it."""
RESOURCE_GROUP = "tunesmith"
"""In the ``config.json`` that is provided; any other name leads here as well."""
API_HOST = f"{LOCATION}.api.azureml.ms"
REGISTRY_HOST = f"cert-{LOCATION}.experiments.azureml.net"
MANAGEMENT_HOST = "management.azure.com"
STORAGE_SUFFIX = "core.windows.net"

AZURE_ML = (MANAGEMENT_HOST, ".azureml.ms", ".azureml.net", ".inference.ml.azure.com")
"""Azure ML's own hosts. One that begins with a dot stands for every name that ends so."""

SUNK = (
    ".applicationinsights.azure.com",
    ".livediagnostics.monitor.azure.com",
    "dc.services.visualstudio.com",
    "settings.sdk.monitor.azure.com",
    "config.mlflow-telemetry.io",
    ".mlflow-telemetry.io",
)
"""Hosts of telemetry: what is sent there is taken, counted and thrown away."""


def caught_hosts(account: str) -> tuple[str, ...]:
    """The hosts that are answered here.

    Of the blob hosts only that of the workspace's own ``account``: public data sets lie on others, and stay reachable.
    """
    return (*AZURE_ML, f"{account}.blob.{STORAGE_SUFFIX}")


def matches(host: str, patterns: tuple[str, ...]) -> bool:
    """Whether ``host`` is one of ``patterns``."""
    name = host.lower().rstrip(".")
    return any(name.endswith(pattern) if pattern.startswith(".") else name == pattern for pattern in patterns)
