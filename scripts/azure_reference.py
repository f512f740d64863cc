"""The table of Azure ML's operations: which of them this workspace has. A test holds each row against the routes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

TARGET = "docs/reference/azure.md"

Level = Literal["yes", "partly", "no"]


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of ``MLClient``, and what stands behind it."""

    name: str
    level: Level
    calls: tuple[str, ...]
    """Method and path below the workspace (or, with a first ``/``, the short path) of the routes it needs."""
    note: str = ""


def _versions(kind: str) -> tuple[str, ...]:
    return (f"GET {kind}/n", f"GET {kind}/n/versions", f"GET {kind}/n/versions/1")


ENDPOINT = "onlineEndpoints/e"
DEPLOYMENT = f"{ENDPOINT}/deployments/d"
FOLLOW = ("GET /history/runs/j/details", "GET /history/runs/j")

GROUPS: dict[str, tuple[Operation, ...]] = {
    "Workspaces and registries": (
        Operation("workspaces.get, list", "yes", ("GET ", "GET /subscription/workspaces"), "any names lead here"),
        Operation("workspaces.begin_create, begin_update, begin_delete", "no", ("PUT ", "DELETE ")),
        Operation("workspaces.get_keys, begin_sync_keys", "no", ("POST listKeys", "POST resyncKeys")),
        Operation("workspaces.begin_diagnose, begin_provision_network", "no",
                  ("POST diagnose", "POST provisionManagedNetwork")),
        Operation("workspace_outbound_rules", "no", ("GET outboundRules", "PUT outboundRules/r")),
        Operation("MLClient(registry_name=\"azureml\")", "yes",
                  ("GET /registrymanagement/v1.0/registries/azureml/discovery",), "read only"),
        Operation("registries.get, list", "yes", ("GET /registry/azureml", "GET /subscription/registries"),
                  "`azureml` alone"),
        Operation("registries.begin_create, begin_delete", "no", ("PUT /registry/other", "DELETE /registry/other")),
        Operation("connections.list", "partly", ("GET connections",), "there are none"),
        Operation("connections.create_or_update", "no", ("PUT connections/c",)),
        Operation("tenants, subscriptions, resource groups", "yes",
                  ("GET /tenants", "GET /subscriptions", "GET /subscription", "GET /subscription/resourcegroups"),
                  "for the login of command-line tools; one of each, by any name"),
    ),
    "Models": (
        Operation("models.get, list (registry)", "yes",
                  ("GET /registry/azureml/models", "GET /registry/azureml/models/n/versions",
                   "GET /registry/azureml/models/n/versions/1"), "by version or label"),
        Operation("models.download (registry)", "yes", ("POST /registry/azureml/datarefs/n/versions/1",),
                  "weights that are not here are imported first"),
        Operation("models.create_or_update", "partly", ("PUT models/n/versions/1",),
                  "from a job's output, a local folder, a path in the datastore; no Triton models"),
        Operation("models.get, list, archive, restore", "yes",
                  ("GET models", *_versions("models"), "PUT models/n")),
        Operation("models.download", "yes", ("GET models/n/versions/1",)),
        Operation("models.share, package", "no", ("POST models/n/versions/1/package", "POST /registry/azureml/import")),
        Operation("registry.models.create_or_update", "no", ("PUT /registry/azureml/models/n/versions/1",),
                  "register in the workspace"),
    ),
    "Data and datastores": (
        Operation("upload of local inputs", "yes", ("GET datastores/workspaceblobstore",
                                                    "POST datastores/workspaceblobstore/listSecrets")),
        Operation("data.create_or_update, get, list, archive, restore", "yes",
                  ("PUT data/n/versions/1", "GET data", *_versions("data"), "PUT data/n")),
        Operation("datastores.get, get_default, list", "yes", ("GET datastores", "GET datastores/workspaceblobstore")),
        Operation("datastores.create_or_update, delete", "no",
                  ("PUT datastores/mine", "DELETE datastores/workspaceblobstore"), "the workspace has its own"),
        Operation("data.import_data, mount, share", "no", ("PUT schedules/s", "POST /registry/azureml/import")),
    ),
    "Components and environments": (
        Operation("components.get, list (registry)", "yes",
                  ("GET /registry/azureml/components", "GET /registry/azureml/components/n/versions",
                   "GET /registry/azureml/components/n/versions/1"), "by version, label or neither"),
        Operation("components.create_or_update", "partly", ("PUT components/n/versions/1",),
                  "command and pipeline components, with code; no others"),
        Operation("components.get, list, archive, restore", "yes",
                  ("GET components", *_versions("components"), "PUT components/n")),
        Operation("environments.create_or_update", "partly", ("PUT environments/n/versions/1",),
                  "recorded, never built; a build context is refused"),
        Operation("environments.get, list, archive, restore", "yes",
                  ("GET environments", *_versions("environments"), "PUT environments/n")),
        Operation("components.download", "yes", ("GET components/n/versions/1", "GET codes/n/versions/1"),
                  "the YAML, the code, the environment"),
        Operation("code snapshots", "yes",
                  ("POST codes/n/versions/1/startPendingUpload", "PUT codes/n/versions/1", "GET codes",
                   "GET codes/n/versions", "GET codes/n/versions/1"), "made by the SDK on the way"),
        Operation("feature stores, feature sets, indexes", "no",
                  ("GET featuresets", "GET featurestoreEntities", "PUT featuresets/f/versions/1")),
    ),
    "Compute": (
        Operation("compute.begin_create_or_update, begin_update", "partly", ("PUT computes/gpu-box",),
                  "AmlCompute; no compute instances, Kubernetes, virtual machines"),
        Operation("compute.get, list, begin_delete", "yes",
                  ("GET computes", "GET computes/gpu-box", "DELETE computes/gpu-box")),
        Operation("compute.list_nodes", "yes", ("POST computes/gpu-box/listNodes",), "one for each job that runs"),
        Operation("compute.list_sizes, list_usage", "yes", ("GET /location/vmsizes", "GET /location/usages"),
                  "Azure's numbers, and `local`"),
        Operation("compute.begin_start, begin_stop, begin_restart", "no",
                  ("POST computes/local/start", "POST computes/local/stop", "POST computes/local/restart"),
                  "clusters need neither"),
        Operation("compute.begin_attach, enable_sso", "no",
                  ("POST computes/local/attach", "POST computes/local/enableSso")),
    ),
    "Jobs": (
        Operation("jobs.create_or_update", "partly", ("PUT jobs/j",),
                  "pipeline and command jobs; no sweep, AutoML, parallel, Spark"),
        Operation("jobs.get, list", "yes", ("GET jobs", "GET jobs/j")),
        Operation("jobs.stream", "yes", FOLLOW),
        Operation("jobs.begin_cancel", "yes", ("POST jobs/j/cancel",)),
        Operation("jobs.update, archive, restore, begin_delete", "yes",
                  ("PATCH /history/experiments/e/runs/j", "DELETE jobs/j")),
        Operation("jobs.validate", "yes", (), "what the SDK itself checks; the rest is checked before a job starts"),
        Operation("jobs.download", "yes",
                  ("POST /history/rundata", "POST /data/dataversion/batchGetResolvedUris",
                   "POST /modelregistry/models/batchGetResolvedUris"), "outputs and logs"),
        Operation("child jobs, show_services", "yes",
                  ("GET /history/runs/j/children", "GET /history/runs/j/serviceinstances/0")),
        Operation("schedules", "no", ("GET schedules", "PUT schedules/s")),
    ),
    "Endpoints": (
        Operation("online_endpoints.begin_create_or_update", "partly", (f"PUT {ENDPOINT}",),
                  "keys and tokens; no Kubernetes, no Entra ID"),
        Operation("online_endpoints.get, list, begin_delete", "yes",
                  ("GET onlineEndpoints", f"GET {ENDPOINT}", f"DELETE {ENDPOINT}")),
        Operation("online_endpoints.get_keys, begin_regenerate_keys", "yes",
                  (f"POST {ENDPOINT}/listKeys", f"POST {ENDPOINT}/regenerateKeys", f"POST {ENDPOINT}/token")),
        Operation("online_endpoints.invoke", "yes", (f"POST {ENDPOINT}/listKeys", f"GET {ENDPOINT}/deployments")),
        Operation("online_deployments.begin_create_or_update", "partly", (f"PUT {DEPLOYMENT}",),
                  "MLflow chat models without scoring scripts"),
        Operation("online_deployments.get, list, begin_delete", "yes",
                  (f"GET {DEPLOYMENT}", f"GET {ENDPOINT}/deployments", f"DELETE {DEPLOYMENT}")),
        Operation("online_deployments.get_logs", "yes", (f"POST {DEPLOYMENT}/getLogs",)),
        Operation("batch_endpoints, batch_deployments", "no", ("GET batchEndpoints", "PUT batchEndpoints/b")),
        Operation("serverless_endpoints, marketplace_subscriptions", "no",
                  ("GET serverlessEndpoints", "GET marketplaceSubscriptions")),
    ),
    "MLflow": (
        Operation("tracking over azureml://", "yes", ("POST /mlflow/api/2.0/mlflow/experiments/search",),
                  "runs, metrics, artifacts; the runs of jobs as well"),
    ),
}  # fmt: skip


def render() -> str:
    """The page."""
    lines = [
        "# Azure ML's operations",
        "",
        "What `MLClient` of `azure-ai-ml` can do here. What is not here answers with the code",
        "`NotImplementedByTunesmith` and its name. [Azure ML](../azure.md) tells how the SDK is pointed here.",
    ]
    for title, operations in GROUPS.items():
        lines += ["", f"## {title}", "", "| operation | here | note |", "| --- | --- | --- |"]
        for operation in operations:
            called = "." in operation.name or "_" in operation.name or operation.name.startswith("MLClient")
            names = f"`{operation.name}`" if called else operation.name
            lines.append(f"| {names} | {operation.level} | {operation.note} |")
    return "\n".join(lines) + "\n"
