"""Tunesmith: a self-hosted workspace for chat models.

``Workspace`` is the way in; the other names are what it takes and returns, and the errors it raises. Names are loaded
when they are first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tunesmith._version import __version__

if TYPE_CHECKING:
    from tunesmith.client.views import (
        ChatAnswer,
        ChatChunk,
        Component,
        Compute,
        Data,
        Deployment,
        Endpoint,
        EndpointKeys,
        Environment,
        Job,
        Model,
    )
    from tunesmith.client.workspace import Workspace
    from tunesmith.errors import (
        AlreadyExists,
        Conflict,
        DeploymentFailed,
        Failure,
        JobCanceled,
        JobFailed,
        ModelFailed,
        NotAllowed,
        NotAuthenticated,
        NotFound,
        RequestTimeout,
        TooManyRequests,
        TunesmithError,
        Unavailable,
        Unreachable,
        UnsupportedField,
        UserError,
        ValidationFailed,
    )
    from tunesmith.records.endpoints import ProbeSettings, RequestSettings
    from tunesmith.records.jobs import JobStatus, SubmitJob
    from tunesmith.records.workspace import JobEvent

_HOMES = {
    "client.workspace": ("Workspace",),
    "client.views": (
        "ChatAnswer",
        "ChatChunk",
        "Component",
        "Compute",
        "Data",
        "Deployment",
        "Endpoint",
        "EndpointKeys",
        "Environment",
        "Job",
        "Model",
    ),
    "errors": (
        "AlreadyExists",
        "Conflict",
        "DeploymentFailed",
        "Failure",
        "JobCanceled",
        "JobFailed",
        "ModelFailed",
        "NotAllowed",
        "NotAuthenticated",
        "NotFound",
        "RequestTimeout",
        "TooManyRequests",
        "TunesmithError",
        "Unavailable",
        "Unreachable",
        "UnsupportedField",
        "UserError",
        "ValidationFailed",
    ),
    "records.endpoints": ("ProbeSettings", "RequestSettings"),
    "records.jobs": ("JobStatus", "SubmitJob"),
    "records.workspace": ("JobEvent",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AlreadyExists",
    "ChatAnswer",
    "ChatChunk",
    "Component",
    "Compute",
    "Conflict",
    "Data",
    "Deployment",
    "DeploymentFailed",
    "Endpoint",
    "EndpointKeys",
    "Environment",
    "Failure",
    "Job",
    "JobCanceled",
    "JobEvent",
    "JobFailed",
    "JobStatus",
    "Model",
    "ModelFailed",
    "NotAllowed",
    "NotAuthenticated",
    "NotFound",
    "ProbeSettings",
    "RequestSettings",
    "RequestTimeout",
    "SubmitJob",
    "TooManyRequests",
    "TunesmithError",
    "Unavailable",
    "Unreachable",
    "UnsupportedField",
    "UserError",
    "ValidationFailed",
    "Workspace",
    "__version__",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
