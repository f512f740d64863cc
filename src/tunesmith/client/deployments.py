"""``workspace.deployments``."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Literal

from tunesmith.client.assets import segment
from tunesmith.client.polling import POLL_SECONDS, until_gone
from tunesmith.client.printing import Listing
from tunesmith.client.transport import Transport
from tunesmith.client.views import Deployment
from tunesmith.errors import DeploymentFailed, Fault, RequestTimeout, error_from_dict
from tunesmith.records.endpoints import (
    Autoscale,
    CreateDeployment,
    DataCollector,
    ProbeSettings,
    RequestSettings,
    UpdateDeployment,
)
from tunesmith.records.validation import parse


class Deployments:
    """Model versions served behind an endpoint. The endpoint comes first in every call."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create_or_update(
        self,
        name: str,
        *,
        endpoint: str,
        model: str,
        instance_count: int | None = None,
        instance_type: str = "local",
        engine: str = "auto",
        precision: str = "auto",
        request_settings: RequestSettings | Mapping[str, int] | None = None,
        liveness_probe: ProbeSettings | Mapping[str, int] | None = None,
        readiness_probe: ProbeSettings | Mapping[str, int] | None = None,
        environment_variables: Mapping[str, str] | None = None,
        autoscale: Autoscale | Mapping[str, int] | None = None,
        data_collector: DataCollector | Mapping[str, Any] | None = None,
        adapters: Mapping[str, str] | None = None,
        description: str = "",
        tags: Mapping[str, str] | None = None,
        properties: Mapping[str, str] | None = None,
        wait: bool = True,
        timeout: float = 1800.0,
    ) -> Deployment:
        """Create a deployment, or change it.

        Args:
            name: Of the deployment.
            endpoint: The endpoint it stands behind.
            model: Reference of a model version: ``name:version``, ``name@latest``, ``azureml://registries/…``.
            instance_count: Processes that serve it: 1 unless it is given, or what ``autoscale`` asks for.
            instance_type: A size; what the machine gives instead is in ``notices``.
            engine: ``auto``, ``openvino``, ``transformers`` or ``vllm``.
            precision: ``auto``, ``32``, ``bf16``, ``16``, or ``8`` for int8 weights.
            request_settings: Limits; times in milliseconds.
            liveness_probe: Times in seconds.
            readiness_probe: Times in seconds.
            environment_variables: For the instances' processes.
            autoscale: ``min_instances``, ``max_instances``, ``target_queue_length`` and ``cool_down_s``: the number of
                instances follows the load.
            data_collector: ``enabled``, ``sampling_rate``, ``redact``, ``redact_patterns`` and ``max_mb``: keep
                conversations, to be had with ``endpoints.export_conversations``.
            adapters: LoRA adapters over the model, served beside it: the name that callers give as ``model``, and a
                reference to the adapter's model version, job output or folder.
            description: What it is for.
            tags: Free pairs.
            properties: Free pairs.
            wait: Return once it is ready (a probe generation succeeded), rather than at once.
            timeout: Seconds to wait at most.

        Raises:
            DeploymentFailed: it could not be brought up; the details are the last lines of its log.
        """
        given: dict[str, Any] = {
            "name": name,
            "endpoint": endpoint,
            "model": str(model),
            "instance_count": instance_count,
            "instance_type": instance_type,
            "engine": engine,
            "precision": precision,
            "request_settings": request_settings,
            "liveness_probe": liveness_probe,
            "readiness_probe": readiness_probe,
            "environment_variables": dict(environment_variables or {}),
            "autoscale": autoscale,
            "data_collector": data_collector,
            "adapters": None if adapters is None else dict(adapters),
            "description": description,
            "tags": dict(tags or {}),
            "properties": dict(properties or {}),
        }
        body = parse(CreateDeployment, {key: value for key, value in given.items() if value is not None})
        made = Deployment.model_validate(self._transport.request("PUT", self._path(endpoint, name), body=body))
        return self.wait(endpoint, name, timeout=timeout) if wait else made

    def get(self, endpoint: str, name: str) -> Deployment:
        """One deployment with its instances as they stand now."""
        return Deployment.model_validate(self._transport.request("GET", self._path(endpoint, name)))

    def list(self, endpoint: str) -> Listing[Deployment]:
        """The deployments of an endpoint."""
        body = self._transport.request("GET", f"/api/v1/endpoints/{segment(endpoint)}/deployments")
        return Listing(
            [Deployment.model_validate(item) for item in body],
            (
                ("name", lambda deployment: deployment.name),
                ("model", lambda deployment: deployment.model),
                ("state", lambda deployment: deployment.provisioning_state),
                ("ready", lambda deployment: f"{deployment.ready_instances}/{deployment.instance_count}"),
                ("engine", lambda deployment: deployment.engine),
                ("precision", lambda deployment: deployment.precision),
            ),
            what="deployments",
        )

    def update(
        self,
        endpoint: str,
        name: str,
        *,
        model: str | None = None,
        instance_count: int | None = None,
        engine: str | None = None,
        precision: str | None = None,
        request_settings: RequestSettings | Mapping[str, int] | None = None,
        liveness_probe: ProbeSettings | Mapping[str, int] | None = None,
        readiness_probe: ProbeSettings | Mapping[str, int] | None = None,
        environment_variables: Mapping[str, str] | None = None,
        autoscale: Autoscale | Mapping[str, int] | Literal["off"] | None = None,
        data_collector: DataCollector | Mapping[str, Any] | None = None,
        adapters: Mapping[str, str] | None = None,
        description: str | None = None,
        tags: Mapping[str, str] | None = None,
        properties: Mapping[str, str] | None = None,
    ) -> Deployment:
        """Change the parts that are given. ``autoscale="off"`` keeps the number of instances as it is."""
        given: dict[str, Any] = {
            "model": model,
            "instance_count": instance_count,
            "engine": engine,
            "precision": precision,
            "request_settings": request_settings,
            "liveness_probe": liveness_probe,
            "readiness_probe": readiness_probe,
            "environment_variables": environment_variables,
            "autoscale": autoscale,
            "data_collector": data_collector,
            "adapters": adapters,
            "description": description,
            "tags": tags,
            "properties": properties,
        }
        body = parse(UpdateDeployment, {key: value for key, value in given.items() if value is not None})
        return Deployment.model_validate(self._transport.request("PATCH", self._path(endpoint, name), body=body))

    def wait(self, endpoint: str, name: str, *, timeout: float = 1800.0) -> Deployment:
        """Wait until a deployment is ready.

        Raises:
            DeploymentFailed: it could not be brought up.
            RequestTimeout: ``timeout`` seconds have passed; it goes on starting.
        """
        deadline = time.monotonic() + timeout
        while True:
            found = self.get(endpoint, name)
            if found.provisioning_state == "Succeeded":
                return found
            if found.provisioning_state in {"Failed", "Canceled"}:
                cause = error_from_dict(found.error or {"message": "the deployment could not be brought up"})
                raise DeploymentFailed(
                    cause.message,
                    target=cause.target or f"{endpoint}/{name}",
                    way_out=cause.way_out,
                    details=[*cause.details, *(Fault(line, code="Log") for line in found.log_tail)],
                    extra=cause.extra,
                )
            if time.monotonic() > deadline:
                raise RequestTimeout(
                    f"deployment {endpoint}/{name} is not ready after {timeout:g} s", target=f"{endpoint}/{name}"
                )
            time.sleep(POLL_SECONDS)

    def delete(self, endpoint: str, name: str, *, wait: bool = True, timeout: float = 300.0) -> None:
        """Delete a deployment; with ``wait``, return once its processes and ports are free.

        Raises:
            Conflict: it has traffic still.
            RequestTimeout: ``timeout`` seconds have passed; the deletion goes on.
        """
        self._transport.request("DELETE", self._path(endpoint, name), slow=True)
        if wait:
            until_gone(lambda: self.get(endpoint, name), what=f"deployment {endpoint}/{name}", timeout=timeout)

    def logs(self, endpoint: str, name: str, *, lines: int = 100) -> str:
        """The last ``lines`` of the log of its instances."""
        return self._transport.text(f"{self._path(endpoint, name)}/logs", params={"lines": lines})

    def _path(self, endpoint: str, name: str) -> str:
        return f"/api/v1/endpoints/{segment(endpoint)}/deployments/{segment(name)}"
