"""What the services of models, data, components and environments have in common."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar
from urllib.parse import quote

from tunesmith.client.files import Files
from tunesmith.client.printing import Listing
from tunesmith.client.transport import Transport
from tunesmith.errors import NotFound, UserError
from tunesmith.records.assets import SYSTEM_REGISTRY, WORKSPACE, AssetKind, AssetVersion, UpdateAsset
from tunesmith.records.workspace import Deleted

A = TypeVar("A", bound=AssetVersion)


def segment(text: str) -> str:
    """One segment of a URL's path: nothing in it can end it."""
    return quote(text, safe="")


class Assets(Generic[A]):
    """Versions of one kind of asset, on the workspace's shelf and in the registries.

    Where no ``registry`` is named, the workspace's own shelf comes first and the system registry after it.
    """

    kind: ClassVar[AssetKind]
    view: type[A]
    columns: Sequence[tuple[str, Callable[[A], object]]]

    def __init__(self, transport: Transport, files: Files) -> None:
        self._transport = transport
        self._files = files

    def get(self, name: str, version: str | None = None, *, label: str | None = None, registry: str | None = None) -> A:
        """One version: by number, by label, or the latest.

        Args:
            name: Its name, or a reference: ``name:version``, ``name@label``, ``azureml://registries/…``.
            version: Any version string; with ``label`` left out, ``None`` means the label ``latest``.
            label: Such as ``latest``.
            registry: ``workspace``, ``azureml``, or ``None`` for both in this order.

        Raises:
            NotFound: there is none; the message names those that are close.
        """
        if version is not None and label is not None:
            raise UserError("give a version or a label, not both", target="label")
        if "/" in name or ":" in name or "@" in name:
            if version is not None or label is not None:
                raise UserError(f"{name!r} is a reference of its own; give no version or label with it", target="name")
            return self.resolve(name)
        place = f"versions/{segment(version)}" if version is not None else f"labels/{segment(label or 'latest')}"
        first: NotFound | None = None
        for shelf in [registry] if registry else [WORKSPACE, SYSTEM_REGISTRY]:
            try:
                return self._one("GET", f"{self._path(shelf, name)}/{place}")
            except NotFound as error:
                first = first or error
        assert first is not None
        raise first

    def resolve(self, reference: str) -> A:
        """The version that a reference points at."""
        return self._one("POST", "/api/v1/resolve", {"kind": self.kind, "reference": reference})

    def list(
        self,
        name: str | None = None,
        *,
        registry: str | None = None,
        search: str | None = None,
        tag: str | None = None,
        archived: bool = False,
    ) -> Listing[A]:
        """Versions, newest first within a name.

        Args:
            name: All versions of this one; every name otherwise.
            registry: One registry, or ``None`` for all.
            search: Words that must be in the name, the description or the tags.
            tag: ``key`` or ``key=value``.
            archived: Also those that were archived.
        """
        found: builtins.list[A] = []
        for shelf in [registry] if registry else [WORKSPACE, SYSTEM_REGISTRY]:
            params = {"name": name, "search": search, "tag": tag, "archived": archived or None}
            body = self._transport.request("GET", f"/api/v1/registries/{segment(shelf)}/{self.kind}", params=params)
            found += [self.view.model_validate(item) for item in body]
        return Listing(found, self.columns, what=self.kind)

    def update(
        self,
        name: str,
        version: str,
        *,
        registry: str | None = None,
        description: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> A:
        """Change the description or the tags; the rest of a version never changes."""
        change = UpdateAsset(description=description, tags=dict(tags) if tags is not None else None)
        return self._one("PATCH", self._version(registry, name, version), change.model_dump(exclude_none=True))

    def archive(self, name: str, version: str, *, registry: str | None = None) -> A:
        """Hide a version from lists. It can still be used by name, and restored."""
        return self._one("PATCH", self._version(registry, name, version), {"archived": True})

    def restore(self, name: str, version: str, *, registry: str | None = None) -> A:
        """Undo ``archive``."""
        return self._one("PATCH", self._version(registry, name, version), {"archived": False})

    def delete(self, name: str, version: str, *, registry: str | None = None) -> int | None:
        """Delete a version with its files; return the bytes that were freed, where known.

        Raises:
            Conflict: something still uses it, such as a deployment.
        """
        body = self._transport.request("DELETE", self._version(registry, name, version), slow=True)
        return Deleted.model_validate(body or {}).freed_bytes

    def _path(self, registry: str | None, name: str) -> str:
        return f"/api/v1/registries/{segment(registry or WORKSPACE)}/{self.kind}/{segment(name)}"

    def _version(self, registry: str | None, name: str, version: str) -> str:
        return f"{self._path(registry, name)}/versions/{segment(version)}"

    def _one(self, method: str, path: str, body: Mapping[str, Any] | None = None, *, slow: bool = False) -> A:
        return self.view.model_validate(self._transport.request(method, path, body=body, slow=slow))
