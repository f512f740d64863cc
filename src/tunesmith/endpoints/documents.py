"""The two files of an instance's folder, shared by the controller that writes one and the instance that writes the
other.

``config.json`` (the controller's, 0600: it holds the instance's secret) says what to serve. ``instance.json`` (the
instance's, written whole or not at all) says how far it is. Both outlive the server, and by them it finds its
instances again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tunesmith.records.endpoints import Phase

CONFIG_FILE = "config.json"
STATE_FILE = "instance.json"
LOG_FILE = "log.txt"
SECRET_HEADER = "x-tunesmith-secret"

PHASES = ("copy", "load", "warm-up", "contract check")
"""In order; after the last the instance is ready."""


MADE_OF = {
    "model": "model",
    "engine": "engine",
    "precision": "precision",
    "instance_type": "instance_type",
    "environment_variables": "environment",
}
"""What an instance is made of, adapters aside: the deployment's field, and the configuration's.

Where one of them changes there must be new instances; other adapters an engine may take while it serves.
"""


class InstanceConfig(BaseModel):
    """What an instance is to serve."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    endpoint: str
    deployment: str
    instance: str
    generation: int
    model: str
    """Reference of the model version, as answers name it."""
    model_path: Path
    greedy_probes: Path | None = None
    """The answers that evaluation recorded, when they are not in the model's own folder."""
    engine: str = "auto"
    precision: str = "auto"
    instance_type: str | None = None
    adapters: dict[str, Path] = Field(default_factory=dict)
    """Folders of LoRA adapters, by the names they are asked for."""
    exports: Path | None = None
    """Where engines keep what they make of a package, for the next instance."""
    secret: str = Field(repr=False)
    environment: dict[str, str] = Field(default_factory=dict, repr=False)
    """Environment variables of the process."""
    drain_s: float = 180.0
    """How long requests in flight may go on after SIGTERM."""


class InstanceState(BaseModel):
    """How far an instance is."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    instance: str
    pid: int
    process_started: float
    """Unix seconds, from the operating system: with ``pid`` it names one process for ever."""
    port: int | None = None
    state: Literal["Starting", "Ready", "Stopping", "Stopped", "Failed"] = "Starting"
    phases: list[Phase] = Field(default_factory=list)
    engine: dict[str, Any] | None = None
    """The engine's description, once open."""
    capabilities: dict[str, Any] | None = None
    notices: list[str] = Field(default_factory=list)
    error: dict[str, Any] | None = None
    """Why it failed, in an error's wire form (the inner object)."""


def read_state(folder: Path) -> InstanceState | None:
    """The state an instance wrote last, or None when it has not yet."""
    try:
        return InstanceState.model_validate_json((folder / STATE_FILE).read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def read_config(folder: Path) -> InstanceConfig | None:
    """The configuration in ``folder``, or None when there is none that can be read."""
    try:
        return InstanceConfig.model_validate_json((folder / CONFIG_FILE).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
