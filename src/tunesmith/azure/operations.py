"""Long-running operations: what a client polls until the work is done.

An operation's id says what it watches, so nothing is kept and a restart forgets none: ``watch`` names who knows the
state of a kind of thing, ``accepted`` answers the request that started it.

Clients wait as long as they are told. Azure's own ``Retry-After`` counts whole seconds; ``x-ms-retry-after-ms`` is
understood by every client that polls ``Azure-AsyncOperation``, so a quarter of a second is what they are told.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fastapi.responses import JSONResponse
from starlette.requests import Request
from starlette.responses import Response

from tunesmith.azure import arm
from tunesmith.azure.errors import error_body
from tunesmith.azure.hosts import LOCATION
from tunesmith.errors import NotFound, TunesmithError

POLL_MILLISECONDS = 250

Status = Literal["InProgress", "Succeeded", "Failed"]


@dataclass(frozen=True, slots=True)
class OperationState:
    """How far an operation is; ``error`` says why it failed."""

    status: Status
    error: TunesmithError | None = None


Watch = Callable[..., OperationState]
"""Given the names that were passed to ``accepted``, says how far it is."""


class Operations:
    """Who knows the state of which kind of operation."""

    def __init__(self) -> None:
        self._watches: dict[str, Watch] = {}

    def watch(self, kind: str, state: Watch) -> None:
        """Let ``state(*names)`` answer for operations of ``kind``. Called while routers are made."""
        self._watches[kind] = state

    def accepted(
        self, request: Request, kind: str, *names: str, body: Mapping[str, Any] | None = None, status: int = 201
    ) -> Response:
        """The answer to a request whose work goes on: ``body`` and where to ask.

        Args:
            request: the one that is answered.
            kind: one that is watched.
            names: what its watch needs to find the thing again.
            body: the resource as it is now; ``None`` for a delete.
            status: 201 for a create, 200 for an update, 202 for a delete.
        """
        if kind not in self._watches:
            raise ValueError(f"nobody watches {kind!r}")
        identity = _encode(kind, names)
        target = arm.target(request)
        url = (
            f"{arm.management_url(request)}/subscriptions/{target.subscription}/providers/"
            f"Microsoft.MachineLearningServices/locations/{LOCATION}/mfeOperationsStatus/{identity}"
            "?api-version=2024-10-01"
        )
        headers = {
            "Azure-AsyncOperation": url,
            "x-ms-async-operation-timeout": "PT4H",
            "x-ms-retry-after-ms": str(POLL_MILLISECONDS),
        }
        if body is None:
            return Response(status_code=status, headers=headers)
        return JSONResponse(dict(body), status_code=status, headers=headers)

    def answer(self, request: Request, identity: str) -> Response:
        """The answer to a poll.

        Raises:
            NotFound: no operation has this id.
        """
        kind, names = _decode(identity)
        if kind not in self._watches:
            raise NotFound(f"there is no operation {identity[:80]!r}")
        state = self._watches[kind](*names)
        body: dict[str, Any] = {"id": arm.target(request).path, "name": identity, "status": state.status}
        headers = {}
        if state.error is not None:
            body["error"] = error_body(state.error)["error"]
        if state.status == "InProgress":
            headers["x-ms-retry-after-ms"] = str(POLL_MILLISECONDS)
        return JSONResponse(body, headers=headers)


def _encode(kind: str, names: tuple[str, ...]) -> str:
    return base64.urlsafe_b64encode(json.dumps([kind, *names]).encode()).rstrip(b"=").decode("ascii")


def _decode(identity: str) -> tuple[str, list[str]]:
    try:
        parts = json.loads(base64.urlsafe_b64decode(identity + "=" * (-len(identity) % 4)))
    except (ValueError, binascii.Error):
        parts = None
    if not isinstance(parts, list) or not parts or not all(isinstance(part, str) for part in parts):
        raise NotFound(f"there is no operation {identity[:80]!r}")
    return parts[0], parts[1:]
