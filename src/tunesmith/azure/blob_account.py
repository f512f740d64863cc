"""The one storage account: its name, its containers, its URLs, and the signatures that open them."""

from __future__ import annotations

from datetime import timedelta
from urllib.parse import quote

from starlette.requests import Request

from tunesmith.azure import arm
from tunesmith.azure.blob_places import ARTIFACTS, REGISTRY, RUNS
from tunesmith.azure.blob_sas import SasKey
from tunesmith.azure.context import AzureContext
from tunesmith.azure.hosts import MANAGEMENT_HOST, STORAGE_SUFFIX

LOG_LINK_LIFETIME = timedelta(hours=4)


class StorageAccount:
    """The account of one workspace; the same after a restart."""

    def __init__(self, context: AzureContext) -> None:
        self.workspace_id = context.keys.workspace_id
        self.name = account_name(self.workspace_id)
        self.sas = SasKey(self.name, context.keys.derive("blob storage"))
        self.blob_container = f"azureml-blobstore-{self.workspace_id}"

    def name_for(self, request: Request) -> str:
        """The account's name as clients must be told it, so that the URL they make of it leads here.

        They write ``https://NAME.blob.SUFFIX``. Without the proxy the suffix is this server's own address, and only a
        name that begins with that address leads to it.
        """
        host = _own_host(request)
        return f"{host}/{self.name}" if host else self.name

    def suffix_for(self, request: Request) -> str:
        """What follows ``.blob.``."""
        return _own_host(request) or STORAGE_SUFFIX

    def url(self, request: Request, container: str, blob: str = "") -> str:
        """The URL of a container or a blob, without a signature."""
        base = f"https://{self.name_for(request)}.blob.{self.suffix_for(request)}/{container}"
        return f"{base}/{quote(blob)}" if blob else base

    def registry_place(self, request: Request, name: str, version: str) -> str:
        """Where the weights of a registry's model are downloaded from, as clients are told it.

        They take what follows the first part of the path for the blobs' names. Without the proxy the account's name
        is such a part as well, and is left out: they never ask at this URL, they ask for the one with a signature.
        """
        host = _own_host(request)
        container = f"https://{host}/{REGISTRY}" if host else self.url(request, REGISTRY)
        return f"{container}/{quote(name)}/{quote(version)}/"

    def run_file_url(self, request: Request, run: str, name: str) -> str:
        """A link to a file of a run, good for some hours."""
        blob = f"{RUNS}{run}/{name}"
        token = self.sas.blob_token(ARTIFACTS, blob, lifetime=LOG_LINK_LIFETIME)
        return f"{self.url(request, ARTIFACTS, blob)}?{token}"

    def arm_id(self, request: Request) -> str:
        """The account's ARM id."""
        named = arm.target(request)
        return (
            f"/subscriptions/{named.subscription}/resourceGroups/{named.resource_group}"
            f"/providers/Microsoft.Storage/storageAccounts/{self.name}"
        )


def account_name(workspace_id: str) -> str:
    """The storage account's name: 24 small letters and digits, as Azure wants them."""
    return f"ts{workspace_id.replace('-', '').lower()[:22]}"


def _own_host(request: Request) -> str | None:
    host = arm.management_url(request).removeprefix("https://")
    return None if host == MANAGEMENT_HOST else host
