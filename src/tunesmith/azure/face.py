"""The Azure face as a part of the server: made when somebody asks for it, there again after a restart."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.azure.blob_account import account_name
from tunesmith.azure.context import AzureContext
from tunesmith.azure.hosts import RESOURCE_GROUP, SUNK, caught_hosts
from tunesmith.azure.identity import AzureKeys
from tunesmith.records.azure import AzureSession
from tunesmith.storage.atomic import write_text

if TYPE_CHECKING:
    from tunesmith.azure.proxy import AzureProxy
    from tunesmith.endpoints.gateway import Gateway
    from tunesmith.workspace import Services

log = logging.getLogger("tunesmith.azure")


class AzureFace:
    """Starts the proxy when it is first asked for, on the ports it had before.

    Kernels and shells keep the addresses in their environment, so a server that starts over a workspace whose face was
    in use opens it at once.

    Args:
        services: the workspace's.
        gateway: answers what endpoints are asked.
        http: the server's protocol of HTTP/1.1, with its limits for heads and bodies.
    """

    def __init__(self, services: Services, gateway: Gateway, http: type[asyncio.Protocol]) -> None:
        self._services = services
        self._keys = AzureKeys(services.secrets.token, services.id)
        self._caught = caught_hosts(account_name(services.id))
        self._context = AzureContext(services, gateway, self._keys)
        self._http = http
        self._starting = asyncio.Lock()
        self._proxy: AzureProxy | None = None
        self._ports = (0, 0)

    @property
    def folder(self) -> Path:
        """Where the files of this face are: the authority, the ports, what wrappers need."""
        return self._services.paths.azure

    async def resume(self) -> None:
        """Open the face where it was in use before; what goes wrong is said and stops nobody else."""
        if not self._ports_file.exists():
            return
        try:
            await self.session()
        except Exception:
            log.exception("the Azure face could not be opened again; the next `tunesmith azure` tries once more")

    async def session(self) -> AzureSession:
        """How a process reaches this face; the face is open once this returns."""
        async with self._starting:
            if self._proxy is None:
                self._proxy = await self._start()
        return AzureSession(
            proxy_port=self._ports[0],
            proxy_password=self._keys.proxy_password,
            direct_port=self._ports[1],
            identity_header=self._keys.identity_header,
            certificate=str(self._proxy.authority.certificate_file),
            folder=str(self.folder),
            caught=[*self._caught, *SUNK],
            subscription_id=self._services.id,
            resource_group=RESOURCE_GROUP,
            workspace_name=self._services.name,
            connections=dict(self._proxy.connections),
            telemetry=dict(self._proxy.front.sunk),
        )

    async def stop(self) -> None:
        """Close what is open."""
        if self._proxy is not None:
            await self._proxy.stop()
        for close in self._context.closing:
            await asyncio.to_thread(close)

    async def _start(self) -> AzureProxy:
        # Imported here: most servers are never asked for it.
        from tunesmith.azure.app import create_azure_app
        from tunesmith.azure.certificates import CertificateAuthority
        from tunesmith.azure.proxy import AzureProxy

        authority = await asyncio.to_thread(CertificateAuthority, self.folder, (*self._caught, *SUNK))
        proxy = AzureProxy(create_azure_app(self._context), authority, self._keys, self._caught, self._http)
        wanted = (0, 0)
        with suppress(OSError, ValueError, TypeError):
            first, second = json.loads(self._ports_file.read_text("ascii"))
            wanted = (int(first), int(second))
        self._ports = await proxy.start(*wanted)
        if self._ports != wanted:
            write_text(self._ports_file, json.dumps(self._ports), mode=0o600)
        log.info("Azure's protocol is answered behind the proxy on port %d, without one on port %d", *self._ports)
        threading.Thread(target=_look_ahead, name="azure-look-ahead", daemon=True).start()
        return proxy

    @property
    def _ports_file(self) -> Path:
        return self.folder / "ports.json"


def _look_ahead() -> None:
    """Load what the first requests would wait for. The SDK takes seconds to import meanwhile."""
    import cryptography.fernet  # seals an endpoint's keys

    import tunesmith.finetune.estimates  # foretells what a job needs
    from tunesmith.components import catalogue as components
    from tunesmith.models import catalogue as models

    del cryptography, tunesmith
    components.entries()
    models.entries()
