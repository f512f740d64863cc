"""Azure's many hosts and long paths, brought down to the short paths that the routes have.

    management.azure.com/subscriptions/S/resourceGroups/G/providers/…/workspaces/W/REST     → /workspace/REST
    …/subscriptions/S/…/registries/R/REST, behind any prefix                                → /registry/R/REST
    …/subscriptions/S/providers/…/locations/L/REST                                          → /location/REST
    …/subscriptions/S[/resourceGroups/G][/providers/…]/REST                                 → /subscription/REST
    *.api.azureml.ms/SERVICE/vN/subscriptions/S/…/workspaces/W/REST                         → /SERVICE/REST
    ACCOUNT.blob.core.windows.net/REST  (or /ACCOUNT.blob.HOST/REST)                        → /blob/ACCOUNT/REST
    ENDPOINT.REGION.inference.ml.azure.com/REST                                             → /endpoints/ENDPOINT/REST

ARM's paths are not case-sensitive, names are kept as they are given: below ``/workspace``, ``/registry/R``,
``/location`` and ``/subscription`` kinds and names take turns, so every second part is put into lower case, and routes
are written so. Any subscription, group and workspace name is accepted and leads to the one workspace; answers echo it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

PROVIDER = "Microsoft.MachineLearningServices"

_SCOPE = r"(?P<prefix>.*?)/subscriptions/(?P<subscription>[^/]+)/resourceGroups/(?P<group>[^/]+)"
_WORKSPACE = re.compile(rf"{_SCOPE}/providers/{re.escape(PROVIDER)}/workspaces/(?P<name>[^/]+)(?P<rest>/.*)?", re.I)
_REGISTRY = re.compile(rf"{_SCOPE}/providers/{re.escape(PROVIDER)}/registries/(?P<name>[^/]+)(?P<rest>/.*)?", re.I)
_LOCATION = re.compile(
    rf"/subscriptions/(?P<subscription>[^/]+)/providers/{re.escape(PROVIDER)}/locations/(?P<name>[^/]+)(?P<rest>/.*)?",
    re.I,
)
_SUBSCRIPTION = re.compile(
    r"/subscriptions/(?P<subscription>[^/]+)(?:/resourceGroups/(?P<group>[^/]+))?"
    rf"(?:/providers/{re.escape(PROVIDER)})?(?P<rest>/.*)?",
    re.I,
)
_BLOB_HOST = re.compile(r"(?P<account>[a-z0-9-]+)\.blob\.[^/]+", re.I)
_SCORING_HOST = re.compile(r"(?P<endpoint>[a-z0-9-]+)\.[a-z0-9-]+\.inference\.ml\.azure\.com", re.I)
_MANAGEMENT_PREFIXES = frozenset({"", "mferp"})
"""ARM itself, and the front end of the management services, which has the same routes."""


@dataclass(frozen=True, slots=True)
class AzureTarget:
    """What a request was sent to, in Azure's words. The names are those that the caller gave."""

    host: str
    """The Host header, with its port where there is one."""
    path: str
    """As it was asked for."""
    subscription: str = ""
    resource_group: str = ""
    workspace: str = ""


def normalise(host: str, path: str) -> tuple[str, AzureTarget]:
    """The short path for ``path`` on ``host``, and what it named. A path of no known form stays as it is."""
    target = AzureTarget(host=host, path=path)
    if found := _BLOB_HOST.fullmatch(host.partition(":")[0]):
        return f"/blob/{found['account']}{path}", target
    if found := _SCORING_HOST.fullmatch(host.partition(":")[0]):
        return f"/endpoints/{found['endpoint']}{path}", target
    first, _, others = path.removeprefix("/").partition("/")
    if found := _BLOB_HOST.fullmatch(first):
        return f"/blob/{found['account']}/{others}", target
    if found := _WORKSPACE.fullmatch(path):
        target = replace(
            target, subscription=found["subscription"], resource_group=found["group"], workspace=found["name"]
        )
        rest = (found["rest"] or "").rstrip("/")
        service = found["prefix"].removeprefix("/").partition("/")[0].lower()
        if service not in _MANAGEMENT_PREFIXES:
            return f"/{service}{rest}", target
        return f"/workspace{_kinds_in_lower_case(rest)}", target
    if found := _REGISTRY.fullmatch(path):
        target = replace(target, subscription=found["subscription"], resource_group=found["group"])
        return f"/registry/{found['name']}{_kinds_in_lower_case(found['rest'])}", target
    if found := _LOCATION.fullmatch(path):
        target = replace(target, subscription=found["subscription"])
        return f"/location{_kinds_in_lower_case(found['rest'])}", target
    if found := _SUBSCRIPTION.fullmatch(path):
        target = replace(target, subscription=found["subscription"], resource_group=found["group"] or "")
        return f"/subscription{_kinds_in_lower_case(found['rest'])}", target
    return path, target


def _kinds_in_lower_case(rest: str | None) -> str:
    parts = (rest or "").rstrip("/").split("/")[1:]
    return "".join(f"/{part if number % 2 else part.lower()}" for number, part in enumerate(parts))


class ShortPaths:
    """ASGI middleware: the short path in ``scope["path"]``, an ``AzureTarget`` in ``scope["azure"]``."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application below with the short path."""
        if scope["type"] == "http":
            path, target = normalise(Headers(scope=scope).get("host", ""), scope["path"])
            scope = {**scope, "path": path, "azure": target}
        await self._app(scope, receive, send)
