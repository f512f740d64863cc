"""Azure's clients, written down as plain HTTP: an application over a temporary workspace, called by Azure's names."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote

from starlette.testclient import TestClient

from tests.support.workspace import temporary_workspace
from tunesmith.azure.app import create_azure_app
from tunesmith.azure.blob_account import StorageAccount
from tunesmith.azure.context import AzureContext
from tunesmith.azure.identity import AzureKeys
from tunesmith.endpoints.gateway import Gateway
from tunesmith.endpoints.pool import InstancePool
from tunesmith.workspace import Services

W = "/subscriptions/sub/resourceGroups/rg/providers/Microsoft.MachineLearningServices/workspaces/ws"
API = "https://eastus.api.azureml.ms"
ENDED = {"Completed", "Failed", "Canceled"}


class Wire:
    """What the SDK does, call by call."""

    def __init__(self, services: Services) -> None:
        self.services = services
        keys = AzureKeys(services.secrets.token, services.id)
        context = AzureContext(services, Gateway(services.endpoints, InstancePool()), keys)
        self.account = StorageAccount(context)
        self.bearer = {"authorization": f"Bearer {keys.issue('https://management.azure.com').token}"}
        self.client = TestClient(create_azure_app(context), base_url="https://management.azure.com")
        self.container = self.account.blob_container
        self.blobs = f"https://{self.account.name}.blob.core.windows.net"
        self.sas = self.account.sas.container_token(self.container)

    # ── ARM and the data plane ──────────────────────────────────────────────────────────────────────────────────

    def arm(self, method: str, rest: str, body: Any = None, status: int | None = 200) -> Any:
        """A call below the workspace; its JSON."""
        return self.call(method, f"https://management.azure.com{W}/{rest}", body, status)

    def api(self, method: str, service: str, rest: str, body: Any = None, status: int | None = 200) -> Any:
        """A call of a service of the data plane, such as ``history/v1.0``."""
        return self.call(method, f"{API}/{service}{W}/{rest}", body, status)

    def call(self, method: str, url: str, body: Any = None, status: int | None = 200) -> Any:
        answer = self.client.request(method, url, json=body, headers=self.bearer)
        assert status is None or answer.status_code == status, (answer.status_code, answer.text)
        return answer.json() if answer.content else None

    # ── blobs ───────────────────────────────────────────────────────────────────────────────────────────────────

    def blob(
        self, method: str, name: str, content: bytes = b"", *, query: str = "", sas: str | None = None, **headers: str
    ) -> Any:
        """A call of blob storage; in the names of headers ``_`` is ``-``, and ``__`` is ``_``."""
        sent = {key.replace("__", "+").replace("_", "-").replace("+", "_"): value for key, value in headers.items()}
        path = f"{self.container}/{quote(name)}" if name else self.container
        token = self.sas if sas is None else sas
        return self.client.request(
            method, f"{self.blobs}/{path}?{'&'.join(filter(None, [query, token]))}", content=content, headers=sent
        )

    def put(self, name: str, content: bytes, **headers: str) -> Any:
        """Put Blob, as azure-storage-blob does it without overwriting."""
        return self.blob("PUT", name, content, x_ms_blob_type="BlockBlob", if_none_match="*", **headers)

    def upload(self, name: str, content: bytes) -> str:
        """Upload a file as the SDK does, under the hash of its content; its path in the datastore."""
        digest = hashlib.sha256(content).hexdigest()
        path = f"LocalUpload/{digest}/{name}"
        assert self.blob("HEAD", path).status_code == 404
        assert self.put(path, content).status_code == 201
        told = self.blob("PUT", path, query="comp=metadata", x_ms_meta_upload__status="completed", x_ms_meta_name="n")
        assert told.status_code == 200
        return f"azureml://datastores/workspaceblobstore/paths/{path}"

    # ── jobs ────────────────────────────────────────────────────────────────────────────────────────────────────

    def code(self, files: dict[str, str], name: str = "code", version: str = "1", folder: str = "src") -> str:
        """Upload and register a code snapshot; its ARM id."""
        pending = self.arm("POST", f"codes/{name}/versions/{version}/startPendingUpload", {"pendingUploadType": "x"})
        reference = pending["blobReferenceForConsumption"]
        base, _, token = reference["credential"]["sasUri"].partition("?")
        for path, text in files.items():
            answer = self.client.put(
                f"{base}/{folder}/{path}?{token}",
                content=text.encode(),
                headers={"x-ms-blob-type": "BlockBlob", "if-none-match": "*"},
            )
            assert answer.status_code == 201, answer.text
        body = {
            "properties": {
                "codeUri": f"{reference['blobUri']}/{folder}",
                "isAnonymous": True,
                "properties": {"hash_sha256": f"{name}-{version}", "hash_version": "202208"},
            }
        }
        identity: str = self.arm("PUT", f"codes/{name}/versions/{version}", body)["id"]
        return identity

    def finish(self, job: str, seconds: float = 60.0) -> dict[str, Any]:
        """Wait for the end of a job; its details."""
        end = time.monotonic() + seconds
        while True:
            details: dict[str, Any] = self.api("GET", "history/v1.0", f"runs/{job}/details")
            if details["status"] in ENDED:
                return details
            assert time.monotonic() < end, details
            time.sleep(0.05)

    def log(self, url: str) -> str:
        """A log's text, fetched by the link that run history gave."""
        answer = self.client.get(url)
        assert answer.status_code == 200, answer.text
        return answer.text


@contextmanager
def azure_wire(home: Path) -> Iterator[Wire]:
    """The face over a new workspace whose jobs run."""
    with temporary_workspace(home) as services:
        services.jobs.start(interval_s=0.05)
        try:
            yield Wire(services)
        finally:
            services.jobs.stop()


def query_of(token: str) -> dict[str, str]:
    """A token's parts."""
    return dict(parse_qsl(token))
