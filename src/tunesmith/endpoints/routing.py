"""The routing table: what the gateway must know of an endpoint to send one request.

The table is a snapshot. A change makes a new snapshot and puts it in place in one assignment, so a request sees the
endpoint before the change or after it, never a mixture, and no request waits for the database.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field

from tunesmith.errors import NotFound
from tunesmith.records.endpoints import Autoscale, DataCollector, RequestSettings

DEPLOYMENT_HEADER = "azureml-model-deployment"
"""Picks a deployment past the traffic split; comes back with every answer."""


@dataclass(frozen=True, slots=True)
class DeploymentRoute:
    """One deployment as a request sees it."""

    endpoint: str
    name: str
    model: str
    """Reference of the model version, as answers name it."""
    model_name: str
    instance_count: int
    settings: RequestSettings
    state: str = "Creating"
    cause: str | None = None
    """Why it failed, in a line."""
    autoscale: Autoscale | None = None
    collector: DataCollector | None = None
    """How to keep conversations, where any are kept."""
    adapters: Mapping[str, str] = field(default_factory=dict)
    """LoRA adapters over the model, by the names that callers use; each with the reference of its version."""

    @property
    def model_names(self) -> set[str]:
        """What a request's ``model`` may be to be answered here, beside the endpoint's name."""
        return {self.name, self.model, self.model_name, *self.adapters}

    @property
    def queue_room(self) -> int:
        """Requests that may wait at once: as many as run when every instance there may be is busy.

        With ``autoscale`` it is never so few that the queue could not grow to where another instance is started.
        """
        limit = self.settings.max_concurrent_requests_per_instance
        if self.autoscale is None:
            return limit * self.instance_count
        return max(limit, self.autoscale.target_queue_length + 1) * self.autoscale.max_instances

    @property
    def key(self) -> tuple[str, str]:
        """(endpoint, deployment)."""
        return (self.endpoint, self.name)


@dataclass(frozen=True, slots=True)
class Choice:
    """Who answers one request."""

    deployment: DeploymentRoute
    adapter: str | None = None
    """The adapter, where not the deployment's own model answers."""

    @property
    def model(self) -> str:
        """Reference of what answers: the adapter's, or the model's."""
        return self.deployment.model if self.adapter is None else self.deployment.adapters[self.adapter]

    @property
    def model_name(self) -> str:
        """The name that callers know it by."""
        return self.deployment.model_name if self.adapter is None else self.adapter


@dataclass(frozen=True, slots=True)
class Route:
    """One endpoint as a request sees it."""

    name: str
    auth_mode: str
    key_digests: tuple[bytes, ...] = field(repr=False)
    signing_secret: str = field(repr=False)
    traffic: Mapping[str, int]
    mirror: tuple[str, int] | None
    """(deployment, percent)."""
    deployments: Mapping[str, DeploymentRoute]
    created: int = 0
    """Unix seconds."""

    @property
    def model_names(self) -> list[str]:
        """What a request's ``model`` may be: models, their adapters, deployments."""
        there = self.deployments.values()
        names = [one.model_name for one in there] + [name for one in there for name in one.adapters]
        return list(dict.fromkeys([*names, *self.deployments]))

    def choose(self, draw: float, deployment: str | None = None, model: str | None = None) -> Choice:
        """Who answers one request.

        ``deployment`` is the header's choice, or None. ``model`` is the body's: the endpoint's own name (or None) means
        any, a deployment's name means that one, a model's name or reference means those that serve it, an adapter's
        name means that adapter in those that have it. ``draw`` is a number in [0, 1) that falls into one share of the
        traffic. Raises ``NotFound`` when what is named does not exist or has no traffic.
        """
        if deployment is not None:
            chosen = self.deployments.get(deployment)
            if chosen is None:
                close = difflib.get_close_matches(deployment, self.deployments, n=1)
                known = ", ".join(sorted(self.deployments)) or "none"
                raise NotFound(
                    f"endpoint {self.name!r} has no deployment {deployment[:64]!r} (it has: {known})",
                    target=DEPLOYMENT_HEADER,
                    way_out=f"did you mean {close[0]!r}?" if close else None,
                )
            if model is None or model in chosen.model_names or model == self.name:
                return Choice(chosen, model if model in chosen.adapters else None)
            raise NotFound(
                f"deployment {chosen.name!r} of endpoint {self.name!r} serves no model {model[:64]!r} "
                f"(it serves: {', '.join(sorted(chosen.model_names))})",
                target="model",
                way_out="GET …/v1/models lists the names",
            )
        traffic = self.traffic
        adapter: str | None = None
        if model is not None and model != self.name:
            if model in self.deployments:
                return Choice(self.deployments[model])
            serving = {name for name, one in self.deployments.items() if model in (one.model_name, one.model)}
            if not serving:
                serving = {name for name, one in self.deployments.items() if model in one.adapters}
                adapter = model
            if not serving:
                known = ", ".join(sorted(self.model_names))
                raise NotFound(
                    f"endpoint {self.name!r} serves no model {model[:64]!r} (it serves: {known or 'none'})",
                    target="model",
                    way_out="GET …/v1/models lists the names",
                )
            traffic = {name: percent for name, percent in traffic.items() if name in serving}
        mark = draw * sum(traffic.values())
        for name, percent in traffic.items():
            mark -= percent
            if mark < 0:
                return Choice(self.deployments[name], adapter)
        raise NotFound(
            f"no deployment of endpoint {self.name!r} has traffic",
            target="traffic",
            way_out=f"give one traffic, or name one with the header {DEPLOYMENT_HEADER}",
        )

    def mirrored(self, draw: float, chosen: str) -> DeploymentRoute | None:
        """The deployment that gets a copy of this request, if ``draw`` in [0, 1) says so."""
        if self.mirror is None or self.mirror[0] == chosen or draw * 100 >= self.mirror[1]:
            return None
        return self.deployments.get(self.mirror[0])
