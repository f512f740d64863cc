from __future__ import annotations

import pytest

from tunesmith.azure.paths import AzureTarget, normalise

W = "/subscriptions/S/resourceGroups/G/providers/Microsoft.MachineLearningServices/workspaces/Ws"
R = "/subscriptions/S/resourceGroups/G/providers/Microsoft.MachineLearningServices/registries/azureml"
API = "eastus.api.azureml.ms"


@pytest.mark.parametrize(
    ("host", "path", "short"),
    [
        ("management.azure.com", W, "/workspace"),
        ("management.azure.com", f"{W}/", "/workspace"),
        ("management.azure.com", f"{W}/onlineEndpoints/E1/deployments/Blue/getLogs",
         "/workspace/onlineendpoints/E1/deployments/Blue/getlogs"),
        ("management.azure.com", f"{W.lower()}/computes/Gpu-Box", "/workspace/computes/Gpu-Box"),
        ("cert-eastus.experiments.azureml.net", f"/mferp/managementfrontend{R}/models/Phi-3/versions/1",
         "/registry/azureml/models/Phi-3/versions/1"),
        ("management.azure.com",
         "/subscriptions/S/providers/Microsoft.MachineLearningServices/locations/eastus/mfeOperationsStatus/aB",
         "/location/mfeoperationsstatus/aB"),
        ("management.azure.com",
         "/subscriptions/S/resourceGroups/G/providers/Microsoft.MachineLearningServices/workspaces",
         "/subscription/workspaces"),
        ("management.azure.com", "/subscriptions/S", "/subscription"),
        (API, f"/history/v1.0{W}/runs/Sad_Coat/details", "/history/runs/Sad_Coat/details"),
        (API, f"/mlflow/v2.0{W}/api/2.0/mlflow/runs/get", "/mlflow/api/2.0/mlflow/runs/get"),
        (API, "/registrymanagement/v1.0/registries/azureml/discovery",
         "/registrymanagement/v1.0/registries/azureml/discovery"),
        ("ts1.blob.core.windows.net", "/c/LocalUpload/F.jsonl", "/blob/ts1/c/LocalUpload/F.jsonl"),
        ("localhost:9443", "/ts1.blob.localhost:9443/c/F", "/blob/ts1/c/F"),
        ("e-1.eastus.inference.ml.azure.com", "/score", "/endpoints/e-1/score"),
        ("management.azure.com", "/Unknown/Path", "/Unknown/Path"),
    ],
)  # fmt: skip
def test_short_paths(host: str, path: str, short: str) -> None:
    assert normalise(host, path)[0] == short


def test_names_are_kept_as_they_were_given() -> None:
    assert normalise("h", f"{W}/computes/c")[1] == AzureTarget("h", f"{W}/computes/c", "S", "G", "Ws")
    assert normalise("h", f"{R}/models")[0] == "/registry/azureml/models"
