"""Computes, sizes and usage."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from pydantic import Field
from starlette.requests import Request

from tunesmith.azure import arm
from tunesmith.azure.context import AzureContext
from tunesmith.azure.durations import read_duration, write_duration
from tunesmith.azure.hosts import LOCATION
from tunesmith.azure.paths import PROVIDER
from tunesmith.errors import NotFound, ValidationFailed
from tunesmith.records.compute import Compute, ComputeSize, CreateCompute
from tunesmith.records.jobs import JobStatus

LOCAL_TYPE = "local"


class ScaleSettings(arm.ArmBody):
    """How many nodes."""

    max_node_count: int = 1
    min_node_count: int = 0
    node_idle_time_before_scale_down: str = "PT120S"


class ClusterProperties(arm.ArmBody):
    """The inner ``properties``. The last ones are fields that have one meaning only on this machine."""

    vm_size: str
    vm_priority: Literal["Dedicated", "LowPriority"] = "Dedicated"
    scale_settings: ScaleSettings = Field(default_factory=ScaleSettings)
    os_type: Literal["Linux"] = "Linux"
    enable_node_public_ip: bool = True
    """Nothing of a compute is reached from outside, whatever this says."""
    remote_login_port_public_access: Literal["NotSpecified", "Disabled"] = "NotSpecified"
    isolated_network: Literal[False] = False
    allocation_state: str | None = None
    """Read only, as all that follow: a client that changes a compute sends them back."""
    allocation_state_transition_time: Any = None
    current_node_count: int | None = None
    target_node_count: int | None = None
    node_state_counts: Any = None
    errors: Any = None
    property_bag: Any = None


class ComputeProperties(arm.ArmBody):
    """The outer ``properties``."""

    compute_type: str
    properties: ClusterProperties
    description: str = ""
    compute_location: str | None = None
    disable_local_auth: bool = True
    """Nobody logs in to a node, whatever this says."""
    provisioning_state: str | None = None
    provisioning_errors: Any = None
    created_on: Any = None
    modified_on: Any = None
    is_attached_compute: bool | None = None
    resource_id: str | None = None


class ComputeBody(arm.ArmResource):
    """A compute as it is sent."""

    properties: ComputeProperties
    location: str | None = None
    tags: arm.Texts = Field(default_factory=dict)


def create_computes_router(context: AzureContext) -> APIRouter:
    """The routes of computes, sizes and usage."""
    router = APIRouter()
    computes = context.services.computes
    jobs = context.services.jobs

    @router.get("/workspace/computes")
    def list_computes(request: Request) -> dict[str, Any]:
        return arm.page(
            request, computes.list(), lambda compute: compute_body(request, compute), arm.list_options(request)
        )

    @router.get("/workspace/computes/{name}")
    def get_compute(request: Request, name: str) -> dict[str, Any]:
        return compute_body(request, computes.get(name))

    @router.put("/workspace/computes/{name}")
    def put_compute(request: Request, name: str, data: arm.Json) -> Response:
        asked = read_compute(name, data)
        try:
            computes.get(name)
            status = 200
        except NotFound:
            status = 201
        return JSONResponse(compute_body(request, computes.create_or_update(asked)), status_code=status)

    @router.delete("/workspace/computes/{name}")
    def delete_compute(name: str) -> Response:
        computes.delete(name)
        return Response(status_code=200)

    @router.post("/workspace/computes/{name}/listnodes")
    def list_nodes(name: str) -> dict[str, Any]:
        compute = computes.get(name)
        running = [job.name for job in jobs.list(status=JobStatus.RUNNING) if job.compute == compute.name]
        nodes = [{"nodeId": f"{compute.name}-local", "nodeState": "running", "runId": job} for job in running]
        return {"nodes": nodes, "nextLink": None}

    @router.post("/workspace/computes/{name}/{action}")
    def act(name: str, action: str) -> None:
        compute = computes.get(name)
        if action not in {"start", "stop", "restart"}:
            raise arm.refuse(f"a compute has no operation {action[:40]!r} here")
        raise arm.refuse(
            f"{action} is an operation of compute instances; {compute.name!r} is a cluster, whose nodes come and go "
            "with its jobs",
            target="name",
            way_out="leave the call out: a job can be sent to the compute at any time",
        )

    @router.get("/location/vmsizes")
    def sizes() -> dict[str, Any]:
        return {"value": [_size(size) for size in computes.sizes()]}

    @router.get("/location/usages")
    def usages(request: Request) -> dict[str, Any]:
        used = computes.list()
        items = [
            {
                "id": f"{arm.target(request).path}/clusters",
                "amlWorkspaceLocation": LOCATION,
                "type": f"{PROVIDER}/usages",
                "unit": "Count",
                "currentValue": len(used),
                # Names cost nothing; Azure's own bound for a workspace is as good as any.
                "limit": 500,
                "name": {"value": "Clusters", "localizedValue": "Clusters"},
            }
        ]
        return arm.page(request, items, dict, arm.list_options(request))

    return router


def read_compute(name: str, data: dict[str, Any]) -> CreateCompute:
    """The compute that a body asks for.

    Raises:
        NotImplementedHere: it is of another type than a cluster, or wants what one machine does not have.
        ValidationFailed: a field is faulty.
    """
    properties = data.get("properties")
    kind = properties.get("computeType") if isinstance(properties, dict) else None
    if kind != "AmlCompute":
        raise arm.refuse(
            f"a compute of the type {str(kind)[:40]!r} is not here; AmlCompute is", target="properties.computeType"
        )
    inner = properties.get("properties") if isinstance(properties, dict) else None
    for field, what in _ELSEWHERE.items():
        for place, where in ((inner, "properties.properties"), (properties, "properties"), (data, "")):
            if isinstance(place, dict) and place.get(field) not in (None, {}, [], "None"):
                target = f"{where}.{field}".lstrip(".")
                raise arm.refuse(f"a compute of this workspace has no {what}", target=target, way_out="leave it out")
    body = arm.read_body(ComputeBody, data, what="compute")
    cluster = body.properties.properties
    scale = cluster.scale_settings
    if scale.max_node_count < 1 or scale.min_node_count < 0:
        raise ValidationFailed(
            f"minNodeCount is {scale.min_node_count} and maxNodeCount {scale.max_node_count}",
            target="properties.properties.scaleSettings",
            way_out="minNodeCount is at least 0 and maxNodeCount at least 1",
        )
    return CreateCompute(
        name=name,
        size=cluster.vm_size,
        min_instances=scale.min_node_count,
        max_instances=scale.max_node_count,
        idle_time_before_scale_down=int(
            read_duration(
                scale.node_idle_time_before_scale_down,
                "properties.properties.scaleSettings.nodeIdleTimeBeforeScaleDown",
            )
        ),
        tier="dedicated" if cluster.vm_priority == "Dedicated" else "low_priority",
        description=body.properties.description,
        tags=body.tags,
    )


_ELSEWHERE = {
    "subnet": "network of its own",
    "userAccountCredentials": "logins over SSH",
    "virtualMachineImage": "images of virtual machines",
    "identity": "identity: steps run as the user that runs the server",
}


def compute_body(request: Request, compute: Compute) -> dict[str, Any]:
    """A compute as Azure has it. This machine itself is shown as a cluster of one node, of the size ``local``."""
    scale = {
        "minNodeCount": compute.min_instances,
        "maxNodeCount": compute.max_instances,
        "nodeIdleTimeBeforeScaleDown": write_duration(compute.idle_time_before_scale_down),
    }
    return {
        "id": arm.resource_id(request, "computes", compute.name),
        "name": compute.name,
        "type": f"{PROVIDER}/workspaces/computes",
        "location": LOCATION,
        "tags": compute.tags,
        "properties": {
            "computeType": "AmlCompute",
            "computeLocation": LOCATION,
            "description": compute.description,
            "provisioningState": compute.provisioning_state,
            "provisioningErrors": None,
            "createdOn": arm.timestamp(compute.created_at),
            "modifiedOn": arm.timestamp(compute.created_at),
            "isAttachedCompute": False,
            "disableLocalAuth": True,
            "properties": {
                "vmSize": compute.size,
                "vmPriority": "Dedicated" if compute.tier == "dedicated" else "LowPriority",
                "scaleSettings": scale,
                "osType": "Linux",
                "enableNodePublicIp": True,
                "remoteLoginPortPublicAccess": "NotSpecified",
                "allocationState": "Steady",
                "currentNodeCount": compute.min_instances,
                "targetNodeCount": compute.min_instances,
            },
        },
        "systemData": arm.system_data(compute.created_at),
    }


def _size(size: ComputeSize) -> dict[str, Any]:
    """A size with Azure's own numbers; that of this machine with what it has."""
    return {
        "name": size.name,
        "family": size.name.rsplit("_", 1)[0] if size.name != LOCAL_TYPE else LOCAL_TYPE,
        "vCPUs": size.vcpus,
        "gpus": size.gpus,
        "memoryGB": size.memory_gb,
        "osVhdSizeMB": 0,
        "maxResourceVolumeMB": 0,
        "lowPriorityCapable": True,
        "premiumIO": False,
        "supportedComputeTypes": ["AmlCompute"],
    }
