"""``workspace.computes``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from tunesmith.client.assets import segment
from tunesmith.client.printing import Listing
from tunesmith.client.transport import Transport
from tunesmith.client.views import Compute, MachineView
from tunesmith.records.compute import AllowListCheck, ComputeSize, CreateCompute
from tunesmith.records.validation import parse

PATH = "/api/v1/computes"


class Computes:
    """Named targets where jobs run. ``local`` is always there: the server's own machine.

    Examples:
        >>> ws.computes.get("local").provisioning_state
        'Succeeded'
        >>> box = ws.computes.create_or_update("gpu-box", size="Standard_NC24s_v3")
        >>> box.gpus, box.vcpus
        (4, 24)
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create_or_update(
        self,
        name: str,
        *,
        size: str = "local",
        type: Literal["amlcompute", "local"] = "amlcompute",
        min_instances: int = 0,
        max_instances: int = 1,
        idle_time_before_scale_down: int = 120,
        tier: Literal["dedicated", "low_priority"] | str = "dedicated",
        description: str = "",
        tags: Mapping[str, str] | None = None,
    ) -> Compute:
        """Create a compute, or change it.

        Args:
            name: Of the compute.
            size: ``local`` or one of Azure's, see ``sizes()``. A size is what a job asks for; ``difference`` of the
                answer says what this machine gives instead.
            type: ``amlcompute`` or ``local``.
            min_instances: Nodes kept ready.
            max_instances: Nodes at most.
            idle_time_before_scale_down: In seconds.
            tier: ``dedicated`` or ``low_priority``.
            description: What it is for.
            tags: Free pairs.
        """
        body = parse(
            CreateCompute,
            {
                "name": name,
                "size": size,
                "type": type,
                "min_instances": min_instances,
                "max_instances": max_instances,
                "idle_time_before_scale_down": idle_time_before_scale_down,
                "tier": tier,
                "description": description,
                "tags": dict(tags or {}),
            },
        )
        return Compute.model_validate(self._transport.request("PUT", f"{PATH}/{segment(name)}", body=body))

    def get(self, name: str) -> Compute:
        """One compute by name."""
        return Compute.model_validate(self._transport.request("GET", f"{PATH}/{segment(name)}"))

    def list(self) -> Listing[Compute]:
        """All computes."""
        found = [Compute.model_validate(item) for item in self._transport.request("GET", PATH)]
        return Listing(
            found,
            (
                ("name", lambda compute: compute.name),
                ("type", lambda compute: compute.type),
                ("size", lambda compute: compute.size),
                ("state", lambda compute: compute.provisioning_state),
                ("vCPUs", lambda compute: compute.vcpus),
                ("memory", lambda compute: f"{compute.memory_gb:g} GB"),
                ("GPUs", lambda compute: compute.gpus),
                ("difference", lambda compute: compute.difference),
            ),
            what="computes",
        )

    def delete(self, name: str) -> None:
        """Delete a compute; jobs that ran on it stay."""
        self._transport.request("DELETE", f"{PATH}/{segment(name)}")

    def sizes(self) -> Listing[ComputeSize]:
        """The sizes that a compute may have, with what each promises."""
        found = [ComputeSize.model_validate(item) for item in self._transport.request("GET", "/api/v1/compute/sizes")]
        return Listing(
            found,
            (
                ("name", lambda size: size.name),
                ("vCPUs", lambda size: size.vcpus),
                ("memory", lambda size: f"{size.memory_gb:g} GB"),
                ("GPUs", lambda size: size.gpus or ""),
                ("GPU", lambda size: size.gpu_name),
                ("GPU memory", lambda size: f"{size.gpu_memory_gb:g} GB" if size.gpu_memory_gb else ""),
            ),
            what="sizes",
        )

    def machine(self) -> MachineView:
        """What the server's machine has."""
        return MachineView.model_validate(self._transport.request("GET", "/api/v1/compute/machine"))

    def check(
        self, model: str, compute: str, purpose: Literal["finetune", "inference"] | str = "finetune"
    ) -> AllowListCheck:
        """Whether the allow-list of ``model`` (a reference) admits the size of ``compute`` for ``purpose``."""
        body = {"model": model, "compute": compute, "purpose": purpose}
        return AllowListCheck.model_validate(self._transport.request("POST", "/api/v1/compute/check", body=body))
