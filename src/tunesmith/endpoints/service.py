"""The wanted state of endpoints and deployments.
 Everything that may be asked of an endpoint is checked, written to the database and put in the routing table here.
Nothing here starts a process: the controller reads ``wanted()``, makes it so, and says what became of it with
``report``. All methods may be called from any thread.
"""

from __future__ import annotations

import builtins
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, Protocol

from tunesmith.endpoints import keys
from tunesmith.endpoints.routing import DeploymentRoute, Route
from tunesmith.endpoints.rules import MAX_DEPLOYMENTS, mirror_faults, name_faults, traffic_faults
from tunesmith.endpoints.store import DeploymentDocument, EndpointDocument, EndpointStore
from tunesmith.errors import (
    Conflict,
    Fault,
    InvalidModel,
    NotAuthenticated,
    NotFound,
    TooManyRequests,
    ValidationFailed,
)
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
    ProvisioningState,
    UpdateDeployment,
    UpdateEndpoint,
)
from tunesmith.storage.database import Database

KeyType = Literal["primary", "secondary"]
TOKEN_LIFETIME_S = 3600.0

_MADE_OF = ("model", "engine", "precision", "environment_variables", "instance_type")
"""The fields whose change needs new instances."""


class Cipher(Protocol):
    """What is needed of ``storage.Secrets``."""

    def encrypt(self, text: str) -> str:
        """Ciphertext of ``text``."""

    def decrypt(self, token: str) -> str:
        """The text again."""


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
    ) -> None:
        self._store = EndpointStore(database)
        self._secrets = secrets
        self._resolve_model = resolve_model
        self._folder = folder
        self._base_url = base_url
        self._describe_instance_type = describe_instance_type
        self._probes_of = probes_of
        self._lock = threading.RLock()
        self._limiter = keys.WrongKeyLimiter()
        self._listeners: builtins.list[Callable[[], None]] = []
        self._instances: Callable[[str, str], builtins.list[Instance]] = lambda _endpoint, _deployment: []
        self._endpoints: dict[str, EndpointDocument] = {}
        self._deployments: dict[tuple[str, str], DeploymentDocument] = {}
        self._digests: dict[str, tuple[tuple[bytes, ...], str]] = {}
        for endpoint in self._store.endpoints():
            self._endpoints[endpoint.name] = endpoint
            self._learn_keys(endpoint)
        for deployment in self._store.deployments():
            self._deployments[deployment.key] = deployment
        self._routes: dict[str, Route] = {}
        self._wanted: tuple[DeploymentDocument, ...] = ()
        self._deleting: tuple[str, ...] = ()
        self._rebuild()

    @property
    def folder(self) -> Path:
        """``endpoints/`` of the workspace."""
        return self._folder

    # Endpoints

    def list(self) -> builtins.list[Endpoint]:
        """Every endpoint, by name."""
        with self._lock:
            return [self._endpoint_record(self._endpoints[name]) for name in sorted(self._endpoints)]

    def get(self, name: str) -> Endpoint:
        """One endpoint. Raises ``NotFound``."""
        with self._lock:
            return self._endpoint_record(self._endpoint(name))

    def create_or_update(self, request: CreateEndpoint) -> Endpoint:
        """Create an endpoint with two fresh keys, or replace what is described of an existing one.

        Raises ``ValidationFailed`` for a bad name or split, ``Conflict`` while it is being deleted.
        """
        with self._lock:
            known = self._endpoints.get(request.name)
            deployments = self._names(request.name)
            faults = list(name_faults(request.name))
            faults += self._split_faults(request.name, request.traffic, request.mirror_traffic)
            if known is None and any(name.lower() == request.name.lower() for name in self._endpoints):
                faults.append(Fault("the name is taken (case does not count)", target="name", code="NameTaken"))
            _raise(faults, f"endpoint {request.name!r} cannot be made")
            changes: dict[str, Any] = {
                "auth_mode": request.auth_mode,
                "description": request.description,
                "tags": request.tags,
                "properties": request.properties,
            }
            if request.traffic is not None:
                changes["traffic"] = _whole(request.traffic, deployments)
            if request.mirror_traffic is not None:
                changes["mirror_traffic"] = request.mirror_traffic
            if known is None:
                document = EndpointDocument(
                    name=request.name,
                    created_at=utcnow(),
                    primary_key=self._secrets.encrypt(keys.new_key()),
                    secondary_key=self._secrets.encrypt(keys.new_key()),
                    **changes,
                )
            else:
                self._not_deleting(known)
                document = known.model_copy(update=changes)
            return self._keep_endpoint(document)

    def update(self, name: str, request: UpdateEndpoint) -> Endpoint:
        """Change parts of an endpoint; traffic takes effect for the next request, as a whole."""
        with self._lock:
            known = self._endpoint(name)
            self._not_deleting(known)
            _raise(
                self._split_faults(name, request.traffic, request.mirror_traffic),
                f"endpoint {name!r} cannot be changed so",
            )
            changes = request.model_dump(exclude_none=True)
            if request.traffic is not None:
                changes["traffic"] = _whole(request.traffic, self._names(name))
            return self._keep_endpoint(known.model_copy(update=changes))

    def delete(self, name: str) -> None:
        """Ask for the end of an endpoint and of all behind it; it is gone when its processes are."""
        with self._lock:
            document = self._endpoint(name)
            self._keep_endpoint(
                document.model_copy(update={"provisioning_state": "Deleting", "traffic": {}, "mirror_traffic": {}})
            )
            for key in [key for key in self._deployments if key[0] == name]:
                self._keep_deployment(self._deployments[key].model_copy(update={"state": "Deleting"}))

    # Keys

    def keys(self, name: str) -> EndpointKeys:
        """Both keys, in clear."""
        with self._lock:
            document = self._endpoint(name)
            return EndpointKeys(
                primary_key=self._secrets.decrypt(document.primary_key),
                secondary_key=self._secrets.decrypt(document.secondary_key),
            )

    def regenerate_key(self, name: str, which: KeyType) -> EndpointKeys:
        """Replace one key; the other goes on opening the endpoint, and requests that run go on."""
        if which not in ("primary", "secondary"):
            raise ValidationFailed(
                f"{which!r} is not a key", details=[Fault("primary or secondary", target="key_type", code="Invalid")]
            )
        with self._lock:
            document = self._endpoint(name)
            self._not_deleting(document)
            self._keep_endpoint(
                document.model_copy(update={f"{which}_key": self._secrets.encrypt(keys.new_key())}), rekeyed=True
            )
            return self.keys(name)

    def token(self, name: str) -> EndpointToken:
        """A short-lived access token, for an endpoint whose ``auth_mode`` is ``aml_token``.

        It is signed with the primary key, so regenerating that key revokes every token.
        """
        with self._lock:
            document = self._endpoint(name)
            if document.auth_mode != "aml_token":
                raise Conflict(
                    f"endpoint {name!r} uses keys, not tokens",
                    target="auth_mode",
                    way_out="read its keys, or update its auth_mode to aml_token",
                )
            secret = self._secrets.decrypt(document.primary_key)
        token, expires = keys.new_token(name, secret, lifetime_s=TOKEN_LIFETIME_S)
        return EndpointToken(
            access_token=token, expiry_time_utc=int(expires), refresh_after_time_utc=int(expires - 600)
        )

    def authenticate(self, name: str, authorization: str | None, caller: str = "") -> Route:
        """The route of ``name`` if ``authorization`` (``Bearer KEY``) opens it.

        An endpoint that does not exist and a wrong key give the same answer, so names cannot be probed. Raises
        ``NotAuthenticated``, or ``TooManyRequests`` when ``caller`` (its address) has sent many wrong keys.
        """
        route = self._routes.get(name)
        scheme, _, presented = (authorization or "").partition(" ")
        presented = presented.strip() if scheme.lower() == "bearer" else ""
        if route is None:
            keys.opens(presented, (b"", b""))
        elif route.auth_mode == "key":
            if presented and keys.opens(presented, route.key_digests):
                return route
        elif presented and keys.token_opens(presented, name, route.signing_secret):
            return route
        wait = self._limiter.failed(caller)
        if wait:
            raise TooManyRequests("too many wrong keys from this address", extra={"retry_after": max(1, round(wait))})
        kind = "token" if route is not None and route.auth_mode == "aml_token" else "key"
        raise NotAuthenticated(
            f"no {kind}" if not presented else f"the {kind} does not open this endpoint",
            target="Authorization",
            way_out=f"send 'Authorization: Bearer KEY' with a {kind} of the endpoint "
            + ("(tokens expire; ask for a new one)" if kind == "token" else "(tunesmith endpoints keys NAME)"),
        )

    # Deployments

    def list_deployments(self, endpoint: str) -> builtins.list[Deployment]:
        """The deployments behind ``endpoint``, by name."""
        with self._lock:
            self._endpoint(endpoint)
            return [
                self._deployment_record(self._deployments[endpoint, name]) for name in sorted(self._names(endpoint))
            ]

    def get_deployment(self, endpoint: str, name: str) -> Deployment:
        """One deployment with its instances, phases and, if it failed, its cause. Raises ``NotFound``."""
        with self._lock:
            return self._deployment_record(self._deployment(endpoint, name))

    def create_or_update_deployment(self, request: CreateDeployment) -> Deployment:
        """Want a deployment. It comes up in the background: follow ``provisioning_state``.

        A change of the model, engine, precision or environment variables rolls: new instances are ready before old
        ones go. Raises ``ValidationFailed``, ``NotFound`` for the endpoint or model, ``InvalidModel`` for a model
        that is not here.
        """
        with self._lock:
            self._not_deleting(self._endpoint(request.endpoint))
            known = self._deployments.get((request.endpoint, request.name))
            faults = list(name_faults(request.name))
            names = self._names(request.endpoint)
            if known is None and len(names) >= MAX_DEPLOYMENTS:
                faults.append(
                    Fault(f"the endpoint has {len(names)} deployments, the most there can be", target="endpoint")
                )
            _raise(faults, f"deployment {request.name!r} cannot be made")
        model = self._here(self._resolve_model(request.model))
        with self._lock:
            self._not_deleting(self._endpoint(request.endpoint))
            known = self._deployments.get((request.endpoint, request.name))
            if known is not None:
                self._not_deleting(known)
            notices = [said for said in (self._describe_instance_type(request.instance_type),) if said]
            spec = request.model_copy(update={"model": model.id})
            generation = known.generation if known else 1
            if known is not None and (
                known.state == "Failed" or any(getattr(known.spec, part) != getattr(spec, part) for part in _MADE_OF)
            ):
                generation += 1
            return self._keep_deployment(
                DeploymentDocument(
                    spec=spec,
                    notices=notices,
                    created_at=known.created_at if known else utcnow(),
                    generation=generation,
                    state="Creating" if known is None or known.state == "Creating" else "Updating",
                )
            )

    def update_deployment(self, endpoint: str, name: str, request: UpdateDeployment) -> Deployment:
        """Change parts of a deployment; see ``create_or_update_deployment``."""
        with self._lock:
            known = self._deployment(endpoint, name)
        changes = {
            field: getattr(request, field) for field in request.model_fields_set if getattr(request, field) is not None
        }
        # Outside the lock: the model's weights may have to be fetched first.
        return self.create_or_update_deployment(known.spec.model_copy(update=changes))

    def delete_deployment(self, endpoint: str, name: str) -> None:
        """Ask for the end of a deployment. Raises ``Conflict`` while it has traffic."""
        with self._lock:
            document = self._deployment(endpoint, name)
            parent = self._endpoint(endpoint)
            live, mirrored = parent.traffic.get(name, 0), parent.mirror_traffic.get(name, 0)
            if live or mirrored:
                raise Conflict(
                    f"deployment {name!r} has {live} % of the traffic and {mirrored} % mirrored",
                    target="traffic",
                    way_out="set its traffic and mirror to 0 first",
                )
            self._keep_deployment(document.model_copy(update={"state": "Deleting"}))

    def logs(self, endpoint: str, name: str, *, lines: int = 100) -> builtins.list[str]:
        """The last ``lines`` lines of each instance's log, the newest instance last."""
        with self._lock:
            self._deployment(endpoint, name)
        found: builtins.list[str] = []
        folder = self._folder / endpoint / name
        logs = sorted(folder.glob("*/log.txt"), key=lambda path: path.stat().st_mtime)
        for path in logs:
            if len(logs) > 1:
                found.append(f"== {path.parent.name} ==")
            found += tail(path, lines)
        return found

    # The controller's side

    def model_files(self, document: DeploymentDocument) -> tuple[Path, Path | None]:
        """The folder of a deployment's model, and its recorded answers where there are some. Raises
        ``InvalidModel``."""
        model = self._here(self._resolve_model(document.spec.model))
        return Path(model.path or ""), self._probes_of(model)

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` after every change of what is wanted, from the thread that made it."""
        self._listeners.append(listener)

    def watch_instances(self, instances: Callable[[str, str], builtins.list[Instance]]) -> None:
        """Where records take the live instances of a deployment from."""
        self._instances = instances

    def wanted(self) -> tuple[DeploymentDocument, ...]:
        """Every deployment, those that are to go included."""
        return self._wanted

    def deleting_endpoints(self) -> tuple[str, ...]:
        """Endpoints that are to go."""
        return self._deleting

    def report(
        self,
        key: tuple[str, str],
        generation: int,
        state: ProvisioningState,
        *,
        error: dict[str, Any] | None = None,
        log_tail: Iterable[str] = (),
        notices: Iterable[str] = (),
    ) -> None:
        """What became of a deployment's generation. A report about an older one is ignored."""
        with self._lock:
            known = self._deployments.get(key)
            if known is None or known.generation != generation or known.state == "Deleting":
                return
            told = [*known.notices, *(notice for notice in notices if notice not in known.notices)]
            changed = known.model_copy(
                update={"state": state, "error": error, "log_tail": [*log_tail], "notices": told}
            )
            if changed != known:
                self._keep_deployment(changed, quiet=True)

    def forget_deployment(self, key: tuple[str, str]) -> None:
        """The deployment's processes are gone: so is it."""
        with self._lock:
            document = self._deployments.get(key)
            if document is None or document.state != "Deleting":
                return
            self._store.delete_deployment(*key)
            del self._deployments[key]
            parent = self._endpoints.get(key[0])
            if parent is not None and (key[1] in parent.traffic or key[1] in parent.mirror_traffic):
                self._keep_endpoint(
                    parent.model_copy(
                        update={
                            "traffic": {name: share for name, share in parent.traffic.items() if name != key[1]},
                            "mirror_traffic": {n: s for n, s in parent.mirror_traffic.items() if n != key[1]},
                        }
                    )
                )
            self._rebuild()

    def forget_endpoint(self, name: str) -> None:
        """All behind the endpoint is gone: so is it."""
        with self._lock:
            if name in self._endpoints and not self._names(name):
                self._store.delete_endpoint(name)
                del self._endpoints[name]
                self._digests.pop(name, None)
                self._rebuild()

    def route(self, name: str) -> Route | None:
        """The routing snapshot of an endpoint; None when there is none."""
        return self._routes.get(name)

    def routes(self) -> dict[str, Route]:
        """All routing snapshots."""
        return self._routes

    # Inside

    def _endpoint(self, name: str) -> EndpointDocument:
        found = self._endpoints.get(name)
        if found is None:
            raise NotFound(f"there is no endpoint {name[:64]!r}", target="endpoint", way_out=_known(self._endpoints))
        return found

    def _deployment(self, endpoint: str, name: str) -> DeploymentDocument:
        self._endpoint(endpoint)
        found = self._deployments.get((endpoint, name))
        if found is None:
            raise NotFound(
                f"endpoint {endpoint!r} has no deployment {name[:64]!r}",
                target="deployment",
                way_out=_known(self._names(endpoint)),
            )
        return found

    @staticmethod
    def _here(model: ModelVersion) -> ModelVersion:
        if not model.path or not Path(model.path).is_dir():
            raise InvalidModel(
                f"the weights of {model.id} are not on this machine (state {model.state})",
                target="model",
                way_out=f"import them first: tunesmith models import {model.name}",
            )
        return model

    def _names(self, endpoint: str) -> set[str]:
        return {name for owner, name in self._deployments if owner == endpoint}

    def _split_faults(
        self, name: str, traffic: dict[str, int] | None, mirror: dict[str, int] | None
    ) -> builtins.list[Fault]:
        living = {
            deployment for deployment in self._names(name) if self._deployments[name, deployment].state != "Deleting"
        }
        faults = list(traffic_faults(traffic, living)) if traffic is not None else []
        return faults + (list(mirror_faults(mirror, living)) if mirror is not None else [])

    @staticmethod
    def _not_deleting(document: EndpointDocument | DeploymentDocument) -> None:
        if _state(document) == "Deleting":
            what = document.name if isinstance(document, EndpointDocument) else document.spec.name
            raise Conflict(
                f"{what!r} is being deleted", target="name", way_out="wait until it is gone, then make it anew"
            )

    def _keep_endpoint(self, document: EndpointDocument, *, rekeyed: bool = False) -> Endpoint:
        self._store.put_endpoint(document)
        fresh = rekeyed or document.name not in self._digests
        self._endpoints[document.name] = document
        if fresh:
            self._learn_keys(document)
        self._rebuild()
        self._tell()
        return self._endpoint_record(document)

    def _keep_deployment(self, document: DeploymentDocument, *, quiet: bool = False) -> Deployment:
        self._store.put_deployment(document)
        self._deployments[document.key] = document
        self._rebuild()
        if not quiet:
            self._tell()
        return self._deployment_record(document)

    def _learn_keys(self, document: EndpointDocument) -> None:
        digests = tuple(
            keys.digest(self._secrets.decrypt(key)) for key in (document.primary_key, document.secondary_key)
        )
        self._digests[document.name] = (digests, self._secrets.decrypt(document.primary_key))

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()

    def _rebuild(self) -> None:
        routes: dict[str, Route] = {}
        for name, document in self._endpoints.items():
            if document.provisioning_state == "Deleting":
                continue
            digests, secret = self._digests[name]
            mirror = next(((target, percent) for target, percent in document.mirror_traffic.items() if percent), None)
            routes[name] = Route(
                name=name,
                auth_mode=document.auth_mode,
                key_digests=digests,
                signing_secret=secret,
                traffic={target: share for target, share in document.traffic.items() if share},
                mirror=mirror,
                created=int(document.created_at.timestamp()),
                deployments={
                    deployment.spec.name: DeploymentRoute(
                        endpoint=name,
                        name=deployment.spec.name,
                        model=deployment.spec.model,
                        model_name=deployment.model_name,
                        instance_count=deployment.spec.instance_count,
                        settings=deployment.spec.request_settings,
                        state=deployment.state,
                        cause=str(deployment.error.get("message")) if deployment.error else None,
                    )
                    for deployment in self._deployments.values()
                    if deployment.spec.endpoint == name and deployment.state != "Deleting"
                },
            )
        self._routes = routes
        self._deleting = tuple(
            document.name for document in self._endpoints.values() if document.provisioning_state == "Deleting"
        )
        self._wanted = tuple(self._deployments.values())

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
            deployments=sorted(self._names(document.name)),
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
            created_at=document.created_at,
        )


def tail(path: Path, lines: int, *, limit: int = 256 * 1024) -> list[str]:
    """The last ``lines`` lines of a text file, reading at most ``limit`` bytes of its end."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - limit))
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return []
    return text.splitlines()[-lines:] if lines > 0 else []


def _whole(traffic: dict[str, int], names: set[str]) -> dict[str, int]:
    """A split that names every deployment, so that a reader sees the zeros."""
    return {**traffic, **{name: 0 for name in sorted(names) if name not in traffic}}


def _state(document: EndpointDocument | DeploymentDocument) -> ProvisioningState:
    return document.provisioning_state if isinstance(document, EndpointDocument) else document.state


def _known(names: Iterable[str]) -> str:
    listed = ", ".join(sorted(names)[:20])
    return f"there are: {listed}" if listed else "there are none yet"


def _raise(faults: list[Fault], message: str) -> None:
    if faults:
        raise ValidationFailed(message, details=faults, target=faults[0].target)
