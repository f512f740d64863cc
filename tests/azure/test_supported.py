"""The table of operations says what the routes do."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.azure.wire import W, Wire, azure_wire
from tunesmith.azure.app import AREAS
from tunesmith.azure.context import AzureContext
from tunesmith.azure.guard import OPEN
from tunesmith.azure.identity import AzureKeys
from tunesmith.azure.paths import normalise
from tunesmith.endpoints.gateway import Gateway
from tunesmith.endpoints.pool import InstancePool

ROOT = Path(__file__).resolve().parent.parent.parent


def _reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("azure_reference", ROOT / "scripts" / "azure_reference.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


REFERENCE = _reference()
CALLS = [
    (operation.level, *call.split(" ", 1))
    for operations in REFERENCE.GROUPS.values()
    for operation in operations
    for call in operation.calls
]
UNLISTED = ("/blob/", "/mlflow/", "/discovery", "/metadata/", "/location/mfeoperationsstatus", "/history/")
"""Below these is what serves operations that the table names otherwise."""


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    with azure_wire(tmp_path_factory.mktemp("supported") / "home") as wire:
        yield wire


def short(path: str) -> str:
    return path if path.startswith("/") else normalise("management.azure.com", f"{W}/{path}".rstrip("/"))[0]


def routes(wire: Wire) -> list[Any]:
    services = wire.services
    keys = AzureKeys(services.secrets.token, services.id)
    context = AzureContext(services, Gateway(services.endpoints, InstancePool()), keys)
    return [route for create in AREAS for route in create(context).routes]


def test_every_row_is_true_of_the_routes(wire: Wire) -> None:
    known = routes(wire)
    for level, method, path in CALLS:
        found = [route for route in known if method in route.methods and route.path_regex.fullmatch(short(path))]
        if level != "no":
            assert found, f"{method} {path} is said to be here, and no route answers it"
        else:
            url = f"https://management.azure.com{W}/{path}".rstrip("/")
            url = f"https://management.azure.com{path}" if path.startswith("/") else url
            error = wire.call(method, url, {} if method in {"PUT", "POST"} else None, status=400)["error"]
            assert error["code"] == "NotImplementedByTunesmith", (method, path)


def test_every_route_has_a_row(wire: Wire) -> None:
    listed = {(method, short(path)) for _, method, path in CALLS}
    bare = [
        f"{method} {route.path}"
        for route in routes(wire)
        for method in route.methods
        if not route.path.startswith(UNLISTED)
        and not any(method == other and route.path_regex.fullmatch(path) for other, path in listed)
    ]
    assert sorted(bare) == [
        "DELETE /workspace/components/{name}/versions/{version}",
        "DELETE /workspace/data/{name}/versions/{version}",
        "DELETE /workspace/environments/{name}/versions/{version}",
        "DELETE /workspace/models/{name}/versions/{version}",
        "GET /registry/{registry}/components/{name}",
        "GET /registry/{registry}/components/{name}/labels/{label}",
        "GET /registry/{registry}/environments",
        "GET /registry/{registry}/environments/{name}",
        "GET /registry/{registry}/environments/{name}/labels/{label}",
        "GET /registry/{registry}/environments/{name}/versions",
        "GET /registry/{registry}/environments/{name}/versions/{version}",
        "GET /registry/{registry}/models/{name}",
        "GET /registry/{registry}/models/{name}/labels/{label}",
    ], "a route that the SDK calls for an operation of its own belongs into scripts/azure_reference.py"


BODIES = (
    b"{",
    b"[]",
    b'{"properties": []}',
    b'{"properties": ' * 500 + b"1" + b"}" * 500,
    b'{"properties": {"modelUri": "azureml://jobs/../outputs/x", "dataUri": "\\u0000", "model": "x",'
    b' "jobType": "Pipeline", "jobs": {"a": 3}, "computeType": "AmlCompute", "componentSpec": {"inputs": 3}},'
    b' "keyType": 3, "tail": 1e40}',
)
"""None of them is anything that a route takes."""


def test_what_a_caller_gets_wrong_is_the_callers_fault(wire: Wire) -> None:
    headers = {**wire.bearer, "content-type": "application/json"}
    for route in routes(wire):
        if route.path.startswith("/mlflow/"):  # those are MLflow's own
            continue
        for method in route.methods:
            takes_one = method in {"PUT", "POST", "PATCH"}
            for name, body in [("n", body) for body in BODIES] if takes_one else [("n", b""), ("x" * 300, b"")]:
                path = re.sub(r"\{\w+(:path)?\}", name, route.path).replace("/workspace", W, 1)
                url = f"https://management.azure.com{path}?$top=x"
                answer = wire.client.request(method, url, content=body, headers=headers)
                assert answer.status_code < 500 and answer.status_code != 424, (method, path[-200:], answer.text)


def test_every_route_that_is_not_open_asks_for_a_token(wire: Wire) -> None:
    paths = [(route.methods, re.sub(r"\{\w+(:path)?\}", "n", route.path)) for route in routes(wire)]
    asked = 0
    for methods, path in [*paths, ({"GET"}, "/elsewhere")]:
        if path.startswith(OPEN):
            continue
        for method in methods:
            answer = wire.client.request(method, f"https://management.azure.com{path}")
            assert answer.status_code == 401, (method, path, answer.text)
            asked += 1
    assert asked > 80
    scored = "/endpoints/"  # the routes of scoring are not of these areas
    assert [start for start in OPEN if not any(path.startswith(start) for _, path in paths)] == [scored]
