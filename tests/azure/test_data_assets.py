"""Datastores and data assets, with the requests that the SDK sends."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.azure.wire import W, Wire, azure_wire, query_of


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    with azure_wire(tmp_path_factory.mktemp("data") / "home") as wire:
        yield wire


def data(uri: str, type: str = "uri_file", **changes: Any) -> dict[str, Any]:
    return {"properties": {"dataUri": uri, "dataType": type, "isArchived": False, "isAnonymous": False, **changes}}


def test_the_store_is_shown_under_azures_two_names(wire: Wire) -> None:
    found = {store["name"]: store["properties"] for store in wire.arm("GET", "datastores")["value"]}
    assert list(found) == ["workspaceblobstore", "workspaceartifactstore"]
    assert [store["isDefault"] for store in found.values()] == [True, False]
    assert {store["accountName"] for store in found.values()} == {wire.account.name}
    assert found["workspaceblobstore"]["containerName"] == wire.container
    default = wire.arm("GET", "datastores?isDefault=true")["value"]
    assert [store["name"] for store in default] == ["workspaceblobstore"]
    for hours, lasts in ((1, 1), (1000, 168)):
        url = f"https://management.azure.com{W}/datastores/workspaceblobstore/listSecrets"
        answer = wire.client.post(url, json={"expireAfterHours": hours}, headers=wire.bearer)
        end = datetime.fromisoformat(query_of(answer.json()["sasToken"])["se"])
        assert abs(end - datetime.now(UTC) - timedelta(hours=lasts)) < timedelta(minutes=5)
        assert ("168 hours at most" in answer.headers.get("warning", "")) == (hours > lasts)
    error = wire.arm("POST", "datastores/workspaceblobstore/listSecrets", {"expireAfterHours": 0}, status=400)["error"]
    assert error["details"][0]["target"] == "expireAfterHours"
    asked = {"expirableSecret": True, "expireAfterHours": 1}
    secrets = wire.arm("POST", "datastores/workspaceblobstore/listSecrets", asked)
    assert secrets["secretsType"] == "Sas"
    assert wire.blob("HEAD", "none", sas=secrets["sasToken"]).status_code == 404
    assert wire.arm("POST", "datastores/workspaceblobstore/listSecrets")["secretsType"] == "Sas"
    broken = wire.client.post(
        f"https://management.azure.com{W}/datastores/workspaceblobstore/listSecrets",
        content=b"{",
        headers=wire.bearer | {"content-type": "application/json"},
    )
    assert (broken.status_code, broken.json()["error"]["code"]) == (400, "ValidationFailed")
    assert wire.arm("GET", "datastores/other", status=404)["error"]["code"] == "ResourceNotFound"
    error = wire.arm("PUT", "datastores/other", {"properties": {}}, status=400)["error"]
    assert error["code"] == "NotImplementedByTunesmith"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("count=1", ["workspaceblobstore"]),
        ("$skip=1", ["workspaceartifactstore"]),
        ("orderByAsc=true", ["workspaceartifactstore", "workspaceblobstore"]),
        ("isDefault=false", ["workspaceartifactstore"]),
        ("names=workspaceartifactstore,other", ["workspaceartifactstore"]),
    ],
)
def test_the_options_of_a_list_of_datastores(wire: Wire, query: str, expected: list[str]) -> None:
    assert [store["name"] for store in wire.arm("GET", f"datastores?{query}")["value"]] == expected


@pytest.mark.parametrize("query", ["count=x", "isDefault=maybe", "orderByAsc=1", "odd=1"])
def test_a_faulty_option_is_named(wire: Wire, query: str) -> None:
    error = wire.arm("GET", f"datastores?{query}", status=400)["error"]
    assert query.partition("=")[0] in {error.get("target"), *(fault["target"] for fault in error["details"])}


def test_without_the_proxy_the_account_leads_to_the_server_itself(wire: Wire) -> None:
    own = "https://localhost:8123"
    found = wire.call("GET", f"{own}{W}/datastores/workspaceblobstore")["properties"]
    assert found["accountName"] == f"localhost:8123/{wire.account.name}"
    # What azure-storage-blob makes of it.
    base = f"https://{found['accountName']}.blob.{found['endpoint']}/{found['containerName']}"
    sent = wire.client.put(f"{base}/direct.txt?{wire.sas}", content=b"x", headers={"x-ms-blob-type": "BlockBlob"})
    assert sent.status_code == 201
    assert wire.blob("GET", "direct.txt").content == b"x"


def test_an_uploaded_file_becomes_a_data_asset(wire: Wire) -> None:
    uri = wire.upload("rows.jsonl", b'{"a": 1}\n')
    made = wire.arm("PUT", "data/rows/versions/1", data(uri, tags={"a": "b"}, description="rows"), status=201)
    assert made["id"] == f"{W}/data/rows/versions/1"
    properties = made["properties"]
    assert (properties["dataType"], properties["tags"], properties["description"]) == ("uri_file", {"a": "b"}, "rows")
    assert properties["dataUri"].endswith("/datastores/workspaceblobstore/paths/data/rows/1/rows.jsonl")
    assert wire.blob("GET", "data/rows/1/rows.jsonl").content == b'{"a": 1}\n'
    assert wire.services.data.get("rows", "1").rows == 1
    # What was uploaded may change or go; the asset keeps what it had.
    upload = uri.partition("/paths/")[2]
    assert wire.blob("PUT", upload, b"other", x_ms_blob_type="BlockBlob").status_code == 201
    assert wire.blob("GET", "data/rows/1/rows.jsonl").content == b'{"a": 1}\n'
    container = wire.arm("GET", "data/rows")["properties"]
    assert (container["latestVersion"], container["nextVersion"], container["dataType"]) == ("1", "2", "uri_file")


def test_a_version_is_described_anew_and_never_gets_other_data(wire: Wire) -> None:
    uri = wire.upload("fixed.jsonl", b'{"a": 2}\n')
    wire.arm("PUT", "data/fixed/versions/1", data(uri, properties={"p": 1}), status=201)
    assert wire.arm("PUT", "data/fixed/versions/1", data(uri, description="new"))["properties"]["description"] == "new"
    own = wire.arm("GET", "data/fixed/versions/1")["properties"]["dataUri"]
    wire.arm("PUT", "data/fixed/versions/1", data(own, tags={"x": "y"}))
    assert wire.arm("GET", "data/fixed/versions/1")["properties"]["properties"] == {"p": "1"}
    other = wire.arm("PUT", "data/fixed/versions/1", data(own, properties={"p": "2"}), status=400)["error"]
    assert other["target"] == "properties.properties"
    error = wire.arm("PUT", "data/fixed/versions/1", data(wire.upload("o.jsonl", b"{}\n")), status=400)["error"]
    assert (error["code"], error["message"].rstrip(".")) == ("UserError", "Asset paths cannot be updated")


def test_folders_and_tables(wire: Wire) -> None:
    for name, text in (("MLTable", b"paths:\n  - file: ./a.csv\n"), ("a.csv", b"a\n1\n")):
        assert wire.put(f"LocalUpload/table/mine/{name}", text).status_code == 201
    uri = "azureml://datastores/workspaceblobstore/paths/LocalUpload/table/mine"
    made = wire.arm("PUT", "data/table/versions/1", data(uri, "mltable", referencedUris=["./a.csv"]), status=201)
    assert made["properties"]["dataUri"].endswith("/paths/data/table/1/")
    assert wire.blob("GET", "data/table/1/MLTable").status_code == 200
    error = wire.arm("PUT", "data/wrong/versions/1", data(uri, "uri_file"), status=400)["error"]
    assert "a folder, where a file is wanted" in error["message"]


def test_data_is_listed_and_archived_by_version_and_by_name(wire: Wire) -> None:
    def listed(rest: str) -> list[str]:
        return [item["name"] for item in wire.arm("GET", rest)["value"]]

    for version, text in (("1", b"1\n"), ("2", b"2\n")):
        wire.arm("PUT", f"data/many/versions/{version}", data(wire.upload(f"{version}.txt", text)), status=201)
    assert listed("data/many/versions?$orderBy=createdtime desc&$top=1") == ["2"]
    two = wire.arm("GET", "data/many/versions/2")["properties"]
    wire.arm("PUT", "data/many/versions/2", {"properties": {**two, "isArchived": True}})
    assert listed("data/many/versions") == ["1"]
    assert listed("data/many/versions?listViewType=All") == ["2", "1"]
    assert wire.arm("GET", "data/many")["properties"]["latestVersion"] == "1"
    described = {"properties": {"description": "of the name"}}
    refused = wire.arm("PUT", "data/many", described, status=400)["error"]
    assert (refused["code"], refused["target"]) == ("NotImplementedByTunesmith", "properties.description")
    wire.arm("PUT", "data/many", {"properties": {"dataType": "uri_file", "isArchived": True}})
    assert "many" not in listed("data")
    assert "many" in listed("data?listViewType=ArchivedOnly")
    described = {"properties": {"description": "of the name"}}
    refused = wire.arm("PUT", "data/many", described, status=400)["error"]
    assert (refused["code"], refused["target"]) == ("NotImplementedByTunesmith", "properties.description")
    wire.arm("PUT", "data/many", {"properties": {"dataType": "uri_file", "isArchived": False}})
    assert listed("data/many/versions") == ["2", "1"]
    wire.arm("DELETE", "data/many/versions/1")
    assert wire.arm("GET", "data/many/versions/1", status=404)["error"]["code"] == "ResourceNotFound"


@pytest.mark.parametrize("uri", ["/etc/passwd", "https://example.org/a.csv", "azureml:other:1"])
def test_only_the_store_and_jobs_outputs_become_data(wire: Wire, uri: str) -> None:
    error = wire.arm("PUT", "data/outside/versions/1", data(uri), status=400)["error"]
    assert error["target"] == "properties.dataUri"
