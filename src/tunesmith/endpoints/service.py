"""The wanted state of endpoints and deployments.

Everything that may be asked of an endpoint is checked here, written to the database and put in the routing table.
Nothing here starts a process: the controller reads ``wanted()``, makes it so, and says what became of it. Keys and
tokens are in ``access``; the controller's side is ``EndpointService.outcomes``. All
methods may be called from any thread.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tunesmith.endpoints import keys
from tunesmith.endpoints.access import EndpointAccess, KeyType
from tunesmith.endpoints.adapters import check_base
from tunesmith.endpoints.documents import MADE_OF
from tunesmith.endpoints.outcomes import Outcomes, describe
from tunesmith.endpoints.routing import Route
from tunesmith.endpoints.rules import (
    MAX_DEPLOYMENTS,
    adapter_faults,
    autoscale_faults,
    mirror_faults,
    name_faults,
    traffic_faults,
    whole_split,
)
from tunesmith.endpoints.store import DeploymentDocument, EndpointDocument
from tunesmith.endpoints.table import Cipher, EndpointTable, not_deleting
from tunesmith.endpoints.tails import tail
from tunesmith.errors import Conflict, Fault, ValidationFailed
from tunesmith.records.assets import ModelVersion
from tunesmith.records.base import utcnow
from tunesmith.records.endpoints import (
    CreateDeployment,
    CreateEndpoint,
    Deployment,
    Endpoint,
    EndpointKeys,
    EndpointToken,
    Instance,
    UpdateDeployment,
    UpdateEndpoint,
)
from tunesmith.storage.database import Database

_GENERATION = (*MADE_OF, "adapters")
"""The fields whose change makes a new generation of instances."""


class EndpointService:
    """Endpoints and deployments: create, update, read, delete; keys; the routing table.

    Args:
        database: where the wanted state is kept.
        secrets: encrypts the keys.
        resolve_model: a model reference to its version; ``path`` is its folder on this machine.
        folder: ``endpoints/`` of the workspace, for the logs of instances.
        base_url: the server's address, for ``scoring_uri``; called when a record is made.
        describe_instance_type: the difference between an instance type and this machine, in words, if any.
        probes_of: the file (or its folder) with the greedy answers that evaluation recorded for a model, if any.
        resolve_adapter: an adapter's reference to its lasting form and its folder; without it, adapters are models.
    """

    def __init__(
        self,
        database: Database,
        secrets: Cipher,
        resolve_model: Callable[[str], ModelVersion],
        *,
        folder: Path,
        base_url: Callable[[], str] = lambda: "",
        describe_instance_type: Callable[[str], str | None] = lambda _size: None,
        probes_of: Callable[[ModelVersion], Path | None] = lambda _model: None,
        resolve_adapter: Callable[[str], tuple[str, Path]] | None = None,
    ) -> None:
        self._table = EndpointTable(database, secrets, resolve_model, resolve_adapter or self._registered, folder)
        self._access = EndpointAccess(self._table)
        self.outcomes = Outcomes(self._table, probes_of)
        """The controller's side: what it needs to know, and what it reports."""
        self._base_url = base_url
        self._describe_instance_type = describe_instance_type
        self._instances: Callable[[str, str], builtins.list[Instance]] = lambda _endpoint, _deployment: []

    @property
    def folder(self) -> Path:
        """``endpoints/`` of the workspace."""
        return self._table.folder

    # Endpoints

    def list(self) -> builtins.list[Endpoint]:
        """Every endpoint, by name."""
        with self._table.lock:
            return [self._endpoint_record(self._table.endpoints[name]) for name in sorted(self._table.endpoints)]

    def get(self, name: str) -> Endpoint:
        """One endpoint. Raises ``NotFound``."""
        with self._table.lock:
            return self._endpoint_record(self._table.endpoint(name))

    def create_or_update(self, request: CreateEndpoint) -> Endpoint:
        """Create an endpoint with two fresh keys, or replace what is described of an existing one.

        Raises ``ValidationFailed`` for a bad name or split, ``Conflict`` while it is being deleted.
        """
        with self._table.lock:
            known = self._table.endpoints.get(request.name)
            faults = list(name_faults(request.name))
            faults += self._split_faults(request.name, request.traffic, request.mirror_traffic)
            if known is None and any(name.lower() == request.name.lower() for name in self._table.endpoints):
                faults.append(Fault("the name is taken (case does not count)", target="name", code="NameTaken"))
            _raise(faults, f"endpoint {request.name!r} cannot be made")
            changes: dict[str, Any] = {
                "auth_mode": request.auth_mode,
                "description": request.description,
                "tags": request.tags,
                "properties": request.properties,
            }
            if request.traffic is not None:
                changes["traffic"] = whole_split(request.traffic, self._table.names(request.name))
            if request.mirror_traffic is not None:
                changes["mirror_traffic"] = request.mirror_traffic
            if known is None:
                document = EndpointDocument(
                    name=request.name,
                    created_at=utcnow(),
                    primary_key=self._table.secrets.encrypt(keys.new_key()),
                    secondary_key=self._table.secrets.encrypt(keys.new_key()),
                    **changes,
                )
            else:
                not_deleting(known)
                document = known.model_copy(update=changes)
            self._table.keep_endpoint(document)
            return self._endpoint_record(document)

    def update(self, name: str, request: UpdateEndpoint) -> Endpoint:
        """Change parts of an endpoint; traffic takes effect for the next request, as a whole."""
        with self._table.lock:
            known = self._table.endpoint(name)
            not_deleting(known)
            _raise(
                self._split_faults(name, request.traffic, request.mirror_traffic),
                f"endpoint {name!r} cannot be changed so",
            )
            changes = request.model_dump(exclude_none=True)
            if request.traffic is not None:
                changes["traffic"] = whole_split(request.traffic, self._table.names(name))
            document = known.model_copy(update=changes)
            self._table.keep_endpoint(document)
            return self._endpoint_record(document)

    def delete(self, name: str) -> None:
        """Ask for the end of an endpoint and of all behind it; it is gone when its processes are."""
        with self._table.lock:
            document = self._table.endpoint(name)
            self._table.keep_endpoint(
                document.model_copy(update={"provisioning_state": "Deleting", "traffic": {}, "mirror_traffic": {}})
            )
            for deployment in self._table.names(name):
                doomed = self._table.deployments[name, deployment]
                self._table.keep_deployment(doomed.model_copy(update={"state": "Deleting"}))

    # Keys

    def keys(self, name: str) -> EndpointKeys:
        """Both keys, in clear."""
        return self._access.keys(name)

    def regenerate_key(self, name: str, which: KeyType) -> EndpointKeys:
        """See ``EndpointAccess.regenerate_key``."""
        return self._access.regenerate_key(name, which)

    def token(self, name: str) -> EndpointToken:
        """See ``EndpointAccess.token``."""
        return self._access.token(name)

    def authenticate(self, name: str, authorization: str | None, caller: str = "") -> Route:
        """See ``EndpointAccess.authenticate``."""
        return self._access.authenticate(name, authorization, caller)

    # Deployments

    def list_deployments(self, endpoint: str) -> builtins.list[Deployment]:
        """The deployments behind ``endpoint``, by name."""
        with self._table.lock:
            self._table.endpoint(endpoint)
            names = sorted(self._table.names(endpoint))
            return [self._deployment_record(self._table.deployments[endpoint, name]) for name in names]

    def get_deployment(self, endpoint: str, name: str) -> Deployment:
        """One deployment with its instances, phases and, if it failed, its cause. Raises ``NotFound``."""
        with self._table.lock:
            return self._deployment_record(self._table.deployment(endpoint, name))

    def create_or_update_deployment(self, request: CreateDeployment) -> Deployment:
        """Want a deployment. It comes up in the background: follow ``provisioning_state``.

        A change of the model, its adapters, engine, precision or environment variables rolls: new instances are ready
        before old ones go. With ``autoscale`` and no ``instance_count`` there are as many instances as there were, or
        the fewest there may be. Raises ``ValidationFailed``, ``NotFound`` for the endpoint or model, ``InvalidModel``
        for a model that is not here or an adapter of another base.
        """
        return self._want(request, counted="instance_count" in request.model_fields_set)

    def update_deployment(self, endpoint: str, name: str, request: UpdateDeployment) -> Deployment:
        """Change parts of a deployment; see ``create_or_update_deployment``."""
        with self._table.lock:
            known = self._table.deployment(endpoint, name)
        changes = {
            field: getattr(request, field) for field in request.model_fields_set if getattr(request, field) is not None
        }
        if changes.get("autoscale") == "off":
            changes["autoscale"] = None
        # Outside the lock: the model's weights may have to be fetched first.
        return self._want(known.spec.model_copy(update=changes), counted="instance_count" in changes)

    def delete_deployment(self, endpoint: str, name: str) -> None:
        """Ask for the end of a deployment. Raises ``Conflict`` while it has traffic."""
        with self._table.lock:
            document = self._table.deployment(endpoint, name)
            parent = self._table.endpoint(endpoint)
            live, mirrored = parent.traffic.get(name, 0), parent.mirror_traffic.get(name, 0)
            if live or mirrored:
                raise Conflict(
                    f"deployment {name!r} has {live} % of the traffic and {mirrored} % mirrored",
                    target="traffic",
                    way_out="set its traffic and mirror to 0 first",
                )
            self._table.keep_deployment(document.model_copy(update={"state": "Deleting"}))

    def logs(self, endpoint: str, name: str, *, lines: int = 100) -> builtins.list[str]:
        """The last ``lines`` lines of each instance's log, the newest instance last, and what autoscale did."""
        with self._table.lock:
            self._table.deployment(endpoint, name)
            scaled = self.outcomes.scale_events((endpoint, name))
        found: builtins.list[str] = []
        logs = sorted((self.folder / endpoint / name).glob("*/log.txt"), key=lambda path: path.stat().st_mtime)
        for path in logs:
            if len(logs) > 1 or scaled:
                found.append(f"== {path.parent.name} ==")
            found += tail(path, lines)
        if scaled:
            found.append("== autoscale ==")
            found += [f"{event.time:%Y-%m-%d %H:%M:%S} {describe(event)}" for event in scaled[-lines:]]
        return found

    # For the controller and the gateway

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` after every change of what is wanted, from the thread that made it."""
        self._table.subscribe(listener)

    def watch_instances(self, instances: Callable[[str, str], builtins.list[Instance]]) -> None:
        """Where records take the live instances of a deployment from."""
        self._instances = instances

    def wanted(self) -> tuple[DeploymentDocument, ...]:
        """Every deployment, those that are to go included."""
        return self._table.wanted

    def deleting_endpoints(self) -> tuple[str, ...]:
        """Endpoints that are to go."""
        return self._table.deleting

    def route(self, name: str) -> Route | None:
        """The routing snapshot of an endpoint; None when there is none."""
        return self._table.routes.get(name)

    def routes(self) -> dict[str, Route]:
        """All routing snapshots."""
        return self._table.routes

    # Inside

    def _registered(self, reference: str) -> tuple[str, Path]:
        model = self._table.model(reference)
        return model.id, Path(model.path or "")

    def _want(self, request: CreateDeployment, *, counted: bool) -> Deployment:
        """Check ``request`` and want it; ``counted`` tells whether its instance count was asked for."""
        with self._table.lock:
            not_deleting(self._table.endpoint(request.endpoint))
            known = self._table.deployments.get((request.endpoint, request.name))
            faults = list(name_faults(request.name))
            names = self._table.names(request.endpoint)
            if known is None and len(names) >= MAX_DEPLOYMENTS:
                faults.append(
                    Fault(f"the endpoint has {len(names)} deployments, the most there can be", target="endpoint")
                )
            if request.autoscale is not None:
                faults += autoscale_faults(request.autoscale, request.instance_count if counted else None)
            taken = dict.fromkeys({*names, request.name}, "a deployment") | {request.endpoint: "the endpoint"}
            faults += adapter_faults(request.adapters, taken)
            _raise(faults, f"deployment {request.name!r} cannot be made")
        model = self._table.model(request.model)
        adapters = self._adapters(request, model)
        with self._table.lock:
            not_deleting(self._table.endpoint(request.endpoint))
            known = self._table.deployments.get((request.endpoint, request.name))
            if known is not None:
                not_deleting(known)
            notices = [said for said in (self._describe_instance_type(request.instance_type), *adapters.said) if said]
            spec = request.model_copy(update={"model": model.id, "adapters": adapters.references})
            limits = spec.autoscale
            if limits is not None and not counted:
                there = known.spec.instance_count if known else limits.min_instances
                count = min(max(there, limits.min_instances), limits.max_instances)
                spec = spec.model_copy(update={"instance_count": count})
            generation = known.generation if known else 1
            if known is not None and (
                known.state == "Failed" or any(getattr(known.spec, part) != getattr(spec, part) for part in _GENERATION)
            ):
                generation += 1
            document = DeploymentDocument(
                spec=spec,
                notices=notices,
                created_at=known.created_at if known else utcnow(),
                generation=generation,
                state="Creating" if known is None or known.state == "Creating" else "Updating",
            )
            self._table.keep_deployment(document)
            return self._deployment_record(document)

    def _adapters(self, request: CreateDeployment, model: ModelVersion) -> _Adapters:
        found = _Adapters({}, [])
        for name, reference in request.adapters.items():
            if name == model.name:
                _raise(
                    [Fault(f"{name!r} is the name of the model itself", target=f"adapters.{name}", code="NameTaken")],
                    f"deployment {request.name!r} cannot be made",
                )
            lasting, folder = self._table.adapter(name, reference)
            found.references[name] = lasting
            found.said.append(check_base(name, folder, Path(model.path or ""), model.id))
        return found

    def _split_faults(
        self, name: str, traffic: dict[str, int] | None, mirror: dict[str, int] | None
    ) -> builtins.list[Fault]:
        living = self._table.living(name)
        faults = list(traffic_faults(traffic, living)) if traffic is not None else []
        return faults + (list(mirror_faults(mirror, living)) if mirror is not None else [])

    def _endpoint_record(self, document: EndpointDocument) -> Endpoint:
        base = self._base_url().rstrip("/")
        return Endpoint(
            name=document.name,
            auth_mode=document.auth_mode,
            description=document.description,
            tags=document.tags,
            properties=document.properties,
            traffic=document.traffic,
            mirror_traffic=document.mirror_traffic,
            provisioning_state=document.provisioning_state,
            deployments=sorted(self._table.names(document.name)),
            scoring_uri=f"{base}/endpoints/{document.name}/score",
            openai_uri=f"{base}/endpoints/{document.name}/v1",
            created_at=document.created_at,
        )

    def _deployment_record(self, document: DeploymentDocument) -> Deployment:
        instances = self._instances(*document.key)
        return Deployment(
            **document.spec.model_dump(),
            provisioning_state=document.state,
            ready_instances=sum(instance.state == "Ready" for instance in instances),
            instances=instances,
            error=document.error,
            log_tail=document.log_tail,
            notices=document.notices,
            scale_events=self.outcomes.scale_events(document.key),
            created_at=document.created_at,
        )


class _Adapters(NamedTuple):
    references: dict[str, str]
    said: builtins.list[str | None]


def _raise(faults: list[Fault], message: str) -> None:
    if faults:
        raise ValidationFailed(message, details=faults, target=faults[0].target)
