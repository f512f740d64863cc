"""What the resources of Azure's management protocol share: ids, URLs, bodies, lists.

Not here: long-running operations (``operations``), errors (``errors``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import parse_qsl, quote, urlencode

from fastapi import Body
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel
from starlette.requests import Request

from tunesmith.azure.errors import NotImplementedHere
from tunesmith.azure.hosts import API_HOST, MANAGEMENT_HOST, REGISTRY_HOST
from tunesmith.azure.paths import PROVIDER, AzureTarget
from tunesmith.errors import Fault, ValidationFailed
from tunesmith.records.assets import SYSTEM_REGISTRY, WORKSPACE, AssetVersion
from tunesmith.records.validation import validation_failed

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

Json = Annotated[dict[str, Any], Body()]
"""A route's parameter of this type is the request's JSON object."""


def _as_texts(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {
        key: str(item).lower() if isinstance(item, bool) else str(item) if isinstance(item, int | float) else item
        for key, item in value.items()
    }


Texts = Annotated[dict[str, str], BeforeValidator(_as_texts)]
"""Tags or properties: names and texts. Clients send numbers, too; they are kept as they are written."""

ListView = Literal["ActiveOnly", "ArchivedOnly", "All"]
_VIEWS: dict[str, ListView] = {"activeonly": "ActiveOnly", "archivedonly": "ArchivedOnly", "all": "All"}


class ArmBody(BaseModel):
    """A body in Azure's camel case. A field that is not known is an error that names it."""

    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True)


class ArmResource(ArmBody):
    """The fields that every resource sends back and that a request changes nothing with."""

    id: str | None = None
    name: str | None = None
    type: str | None = None
    system_data: Any = None


def read_body(model: type[M], data: Any, *, what: str = "request") -> M:
    """``data`` as a ``model``. ``null`` counts as not given, as Azure has it.

    Raises:
        ValidationFailed: with every fault, each by the path of its field.
    """
    try:
        return model.model_validate(_without_nulls(data))
    except ValidationError as error:
        raise validation_failed(error.errors(), what=what) from None
    except RecursionError:
        raise ValidationFailed(f"the {what} is nested too deeply to be one", target="body") from None


def refuse(feature: str, *, target: str | None = None, way_out: str | None = None) -> NotImplementedHere:
    """The error for a feature of Azure ML that is not here: ``feature`` is what the message says of it."""
    return NotImplementedHere(feature, target=target, way_out=way_out or "docs/azure.md lists what is supported")


def check_identity(identity: Any) -> None:
    """Let pass the identity that clients send for everything; refuse one that somebody chose.

    Raises:
        NotImplementedHere: it is another than SystemAssigned.
    """
    kind = identity.get("type") if isinstance(identity, Mapping) else identity
    if kind is not None and str(kind).replace("_", "").lower() not in ("systemassigned", "none"):
        raise refuse(
            f"nothing here acts with an identity of Azure's, and {str(kind)[:80]!r} is asked for",
            target="identity",
            way_out="leave identity out; what runs here runs as the user that runs the server",
        )


# Where a request went, and the URLs and ids that its answer has


def target(request: Request) -> AzureTarget:
    """What the request named."""
    found: AzureTarget = request.scope["azure"]
    return found


def own_host(request: Request) -> str | None:
    """The server's own address, where it is called by that rather than by Azure's names."""
    host = target(request).host
    name = host.partition(":")[0].lower()
    return host if name in {"localhost", "127.0.0.1"} else None


def management_url(request: Request) -> str:
    """Base of ARM's URLs, without a slash at its end."""
    return f"https://{own_host(request) or MANAGEMENT_HOST}"


def api_url(request: Request) -> str:
    """Base of the data plane: discovery, run history, MLflow. Without a slash at its end."""
    return f"https://{own_host(request) or API_HOST}"


def registry_url(request: Request) -> str:
    """Base of the registries' assets, without a slash at its end."""
    return f"https://{own_host(request) or REGISTRY_HOST}"


def workspace_id(request: Request) -> str:
    """The ARM id of the workspace, by the names that the caller uses."""
    named = target(request)
    return (
        f"/subscriptions/{named.subscription}/resourceGroups/{named.resource_group}"
        f"/providers/{PROVIDER}/workspaces/{named.workspace}"
    )


def resource_id(request: Request, *parts: str) -> str:
    """The ARM id of something in the workspace: ``resource_id(request, "computes", "gpu-cluster")``."""
    return "/".join([workspace_id(request), *parts])


def asset_id(request: Request, kind: str, record: AssetVersion) -> str:
    """The id of an asset version: an ARM id on the workspace's shelf, ``azureml://registries/…`` in a registry.

    ``kind`` is Azure's collection: models, data, components, environments.
    """
    if record.registry == WORKSPACE:
        return resource_id(request, kind, record.name, "versions", record.version)
    return f"azureml://registries/{record.registry}/{kind}/{record.name}/versions/{record.version}"


_ASSET_ID = re.compile(
    rf"(?:azureml:)?/subscriptions/[^/]+/resourceGroups/[^/]+/providers/{re.escape(PROVIDER)}/workspaces/[^/]+"
    r"/(?P<kind>models|data|components|environments|codes|computes|datastores)/(?P<name>[^/]+)"
    r"(?:/(?P<by>versions|labels)/(?P<version>[^/]+))?/?",
    re.I,
)


_REGISTRY_WEIGHTS = re.compile(
    rf"https://(?:ts[0-9a-z]+\.blob\.[^/?]+|[^/?]+:\d+)/registry-({re.escape(SYSTEM_REGISTRY)})/([^/?]+)/([^/?]+)/?",
)
"""The ``modelUri`` of a registry's model."""
_REGISTRY_ID = "azureml://registries/{}/models/{}/versions/{}"


def short_reference(text: str) -> str:
    """An id in ARM's long form as this workspace's services write it; anything else as it is.

    ``/subscriptions/…/models/M/versions/V`` → ``azureml:M:V``; ``…/labels/L`` → ``azureml:M@L``;
    ``…/computes/C`` → ``azureml:C``; where a registry's model is downloaded from → ``azureml://registries/…``.
    """
    found = _ASSET_ID.fullmatch(text.strip())
    if found is None:
        weights = _REGISTRY_WEIGHTS.fullmatch(text.strip())
        return _REGISTRY_ID.format(*weights.groups()) if weights else text
    if found["version"] is None:
        return f"azureml:{found['name']}"
    separator = ":" if found["by"].lower() == "versions" else "@"
    return f"azureml:{found['name']}{separator}{found['version']}"


def timestamp(moment: datetime) -> str:
    """Azure's form of a time: 2026-11-24T08:00:00.000000Z."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def system_data(created: datetime, modified: datetime | None = None) -> dict[str, str]:
    """Azure's ``systemData``. There are no accounts here, so everything was made by the workspace's owner."""
    return {
        "createdAt": timestamp(created),
        "createdBy": "Workspace owner",
        "createdByType": "User",
        "lastModifiedAt": timestamp(modified or created),
        "lastModifiedBy": "Workspace owner",
        "lastModifiedByType": "User",
    }


# Lists


@dataclass(frozen=True, slots=True)
class ListOptions:
    """What a list call asks for."""

    top: int | None
    skip: int
    view: ListView
    extra: dict[str, str]
    """The options that were named as known, where they are given."""


def list_options(request: Request, *known: str) -> ListOptions:
    """Read ``$top`` (or ``count``), ``$skip``, ``$orderBy``, ``listViewType`` and the options in ``known``.

    ``$orderBy`` may only ask for what lists have: the newest first.

    Raises:
        ValidationFailed: a value is faulty.
        NotImplementedHere: an option that would change the list is not known; it is never ignored.
    """
    query = dict(request.query_params)
    faults: list[Fault] = []
    top, skip, count = (_number(query, name, faults) for name in ("$top", "$skip", "count"))
    asked = query.get("listViewType", "ActiveOnly")
    # Some clients write the name of their enum's member: ListViewType.ACTIVE_ONLY.
    view = _VIEWS.get(asked.rpartition(".")[2].replace("_", "").lower())
    if view is None:
        faults.append(Fault(f"{asked[:80]!r} is not a list view", "listViewType", way_out=", ".join(_VIEWS.values())))
    order = query.get("$orderBy", query.get("orderBy", "createdtime desc")).lower()
    if faults:
        raise ValidationFailed("the list's options are faulty", details=faults)
    if order not in {"createdtime desc", "createdat desc", "createddate desc", "updatedat desc"}:
        raise refuse(f"lists have the newest first; $orderBy {order[:80]!r} is not known", target="$orderBy")
    common = {"api-version", "$top", "$skip", "listViewType", "$orderBy", "orderBy", "count"}
    for name in query:
        if name not in common and name not in known:
            raise refuse(f"lists of this kind do not know the option {name[:80]!r}", target=name[:80])
    return ListOptions(
        top=top or count or None,
        skip=skip or 0,
        view=view or "ActiveOnly",
        extra={name: query[name] for name in known if name in query},
    )


def page(request: Request, items: Sequence[T], body: Callable[[T], Any], options: ListOptions) -> dict[str, Any]:
    """The list envelope: the asked part of ``items`` through ``body``, and where the next part is."""
    end = len(items) if options.top is None else options.skip + options.top
    answer: dict[str, Any] = {"value": [body(item) for item in items[options.skip : end]], "nextLink": None}
    if end < len(items) and options.top:
        query = [(key, value) for key, value in parse_qsl(request.url.query) if key not in {"$skip", "%24skip"}]
        named = target(request)
        answer["nextLink"] = f"https://{named.host}{quote(named.path)}?{urlencode([*query, ('$skip', str(end))])}"
    return answer


def in_view(archived: bool, view: ListView) -> bool:
    """Whether something that is, or is not, archived belongs into a list of this view."""
    return view == "All" or archived == (view == "ArchivedOnly")


def _number(query: dict[str, str], name: str, faults: list[Fault]) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    if not text.isdecimal() or len(text) > 9:
        faults.append(Fault(f"{text[:80]!r} is not a whole number", name))
        return None
    return int(text)


def _without_nulls(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _without_nulls(value) for key, value in data.items() if value is not None}
    return [_without_nulls(item) for item in data] if isinstance(data, list) else data


def has_tags(tags: Mapping[str, str], wanted: str) -> bool:
    """Whether ``tags`` are as a list's filter has it: ``key`` or ``key=value``, with commas between."""
    for part in filter(None, wanted.split(",")):
        key, equals, value = part.partition("=")
        if key not in tags or (equals and tags[key] != value):
            return False
    return True
