"""Endpoints and deployments in memory, as the database has them, and the routing table made from them.

Every change is written to the database first, then put in place; whoever reads a snapshot waits for nobody. The table
checks nothing and starts nothing: it is where the parts of the service keep what they share.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from tunesmith.endpoints import keys
from tunesmith.endpoints.adapters import find_adapter
from tunesmith.endpoints.routing import DeploymentRoute, Route
from tunesmith.endpoints.store import DeploymentDocument, EndpointDocument, EndpointStore
from tunesmith.errors import Conflict, InvalidModel, NotFound
from tunesmith.records.assets import ModelVersion
from tunesmith.storage.database import Database

Key = tuple[str, str]
"""(endpoint, deployment)."""


class Cipher(Protocol):
    """What is needed of ``storage.Secrets``."""

    def encrypt(self, text: str) -> str:
        """Ciphertext of ``text``."""

    def decrypt(self, token: str) -> str:
        """The text again."""


class EndpointTable:
    """See the module's docstring. ``lock`` is held by whoever reads, decides and writes in one go."""

    def __init__(
        self,
        database: Database,
        secrets: Cipher,
        resolve_model: Callable[[str], ModelVersion],
        resolve_adapter: Callable[[str], tuple[str, Path]],
        folder: Path,
    ) -> None:
        self.lock = threading.RLock()
        self.folder = folder
        self.secrets = secrets
        self.store = EndpointStore(database)
        self.endpoints: dict[str, EndpointDocument] = {}
        self.deployments: dict[Key, DeploymentDocument] = {}
        self.routes: dict[str, Route] = {}
        self.wanted: tuple[DeploymentDocument, ...] = ()
        self.deleting: tuple[str, ...] = ()
        self._resolve_model = resolve_model
        self._resolve_adapter = resolve_adapter
        self._listeners: list[Callable[[], None]] = []
        self._key_material: dict[str, tuple[tuple[bytes, ...], str]] = {}
        for endpoint in self.store.endpoints():
            self.endpoints[endpoint.name] = endpoint
            self._learn_keys(endpoint)
        for deployment in self.store.deployments():
            self.deployments[deployment.key] = deployment
        self.rebuild()

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` after every change of what is wanted, from the thread that made it."""
        self._listeners.append(listener)

    # Reading

    def endpoint(self, name: str) -> EndpointDocument:
        """One endpoint. Raises ``NotFound``."""
        found = self.endpoints.get(name)
        if found is None:
            raise NotFound(f"there is no endpoint {name[:64]!r}", target="endpoint", way_out=_known(self.endpoints))
        return found

    def deployment(self, endpoint: str, name: str) -> DeploymentDocument:
        """One deployment. Raises ``NotFound``."""
        self.endpoint(endpoint)
        found = self.deployments.get((endpoint, name))
        if found is None:
            raise NotFound(
                f"endpoint {endpoint!r} has no deployment {name[:64]!r}",
                target="deployment",
                way_out=_known(self.names(endpoint)),
            )
        return found

    def names(self, endpoint: str) -> set[str]:
        """The deployments behind ``endpoint``, those that are to go included."""
        return {name for owner, name in self.deployments if owner == endpoint}

    def living(self, endpoint: str) -> set[str]:
        """The deployments behind ``endpoint`` that are not to go."""
        return {name for name in self.names(endpoint) if self.deployments[endpoint, name].state != "Deleting"}

    def model(self, reference: str) -> ModelVersion:
        """The version that ``reference`` means, with its files here. Raises ``NotFound`` or ``InvalidModel``."""
        model = self._resolve_model(reference)
        if not model.path or not Path(model.path).is_dir():
            raise InvalidModel(
                f"the weights of {model.id} are not on this machine (state {model.state})",
                target="model",
                way_out=f"import them first: tunesmith models import {model.name}",
            )
        return model

    def adapter(self, name: str, reference: str) -> tuple[str, Path]:
        """The lasting form of an adapter's reference, and the adapter's folder. Raises ``NotFound`` or
        ``InvalidModel``."""
        lasting, folder = self._resolve_adapter(reference)
        return lasting, find_adapter(name, folder)

    # Changing

    def keep_endpoint(self, document: EndpointDocument, *, rekeyed: bool = False) -> None:
        """Write an endpoint and put it in place."""
        self.store.put_endpoint(document)
        fresh = rekeyed or document.name not in self._key_material
        self.endpoints[document.name] = document
        if fresh:
            self._learn_keys(document)
        self.rebuild()
        self._tell()

    def keep_deployment(self, document: DeploymentDocument, *, quiet: bool = False) -> None:
        """Write a deployment and put it in place; ``quiet`` wakes nobody."""
        self.store.put_deployment(document)
        self.deployments[document.key] = document
        self.rebuild()
        if not quiet:
            self._tell()

    def forget_deployment(self, key: Key) -> None:
        """Remove a deployment."""
        self.store.delete_deployment(*key)
        del self.deployments[key]
        self.rebuild()
        self._tell()

    def forget_endpoint(self, name: str) -> None:
        """Remove an endpoint that has no deployments."""
        self.store.delete_endpoint(name)
        del self.endpoints[name]
        self._key_material.pop(name, None)
        self.rebuild()
        self._tell()

    def rebuild(self) -> None:
        """Make the snapshots anew."""
        self.routes = {
            name: self._route(document)
            for name, document in self.endpoints.items()
            if document.provisioning_state != "Deleting"
        }
        self.deleting = tuple(
            document.name for document in self.endpoints.values() if document.provisioning_state == "Deleting"
        )
        self.wanted = tuple(self.deployments.values())

    def _route(self, document: EndpointDocument) -> Route:
        digests, secret = self._key_material[document.name]
        return Route(
            name=document.name,
            auth_mode=document.auth_mode,
            key_digests=digests,
            signing_secret=secret,
            traffic={target: share for target, share in document.traffic.items() if share},
            mirror=next(((target, share) for target, share in document.mirror_traffic.items() if share), None),
            created=int(document.created_at.timestamp()),
            deployments={
                name: _deployment_route(self.deployments[document.name, name]) for name in self.living(document.name)
            },
        )

    def _learn_keys(self, document: EndpointDocument) -> None:
        primary, secondary = (self.secrets.decrypt(key) for key in (document.primary_key, document.secondary_key))
        self._key_material[document.name] = ((keys.digest(primary), keys.digest(secondary)), primary)

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()


def not_deleting(document: EndpointDocument | DeploymentDocument) -> None:
    """Raise ``Conflict`` for what is being deleted."""
    if isinstance(document, EndpointDocument):
        name, state = document.name, document.provisioning_state
    else:
        name, state = document.spec.name, document.state
    if state == "Deleting":
        raise Conflict(f"{name!r} is being deleted", target="name", way_out="wait until it is gone, then make it anew")


def _deployment_route(document: DeploymentDocument) -> DeploymentRoute:
    spec = document.spec
    return DeploymentRoute(
        endpoint=spec.endpoint,
        name=spec.name,
        model=spec.model,
        model_name=document.model_name,
        instance_count=spec.instance_count,
        settings=spec.request_settings,
        state=document.state,
        cause=str(document.error.get("message")) if document.error else None,
        autoscale=spec.autoscale,
        adapters=spec.adapters,
        collector=spec.data_collector if spec.data_collector.enabled and spec.data_collector.sampling_rate else None,
    )


def _known(names: set[str] | dict[str, EndpointDocument]) -> str:
    listed = ", ".join(sorted(names)[:20])
    return f"there are: {listed}" if listed else "there are none yet"
