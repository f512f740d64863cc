"""The system registry: a shelf that ships with the product and is only read.

What is on it is given as records by whoever opens the workspace; loading them waits until somebody looks.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tunesmith.records.assets import (
    SYSTEM_REGISTRY,
    WORKSPACE,
    AssetKind,
    AssetVersion,
    ComponentVersion,
    DataVersion,
    EnvironmentVersion,
    ModelVersion,
    Registry,
)


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What stands on a registry's shelf."""

    models: Sequence[ModelVersion] = ()
    data: Sequence[DataVersion] = ()
    components: Sequence[ComponentVersion] = ()
    environments: Sequence[EnvironmentVersion] = ()


@dataclass(slots=True)
class SystemRegistry:
    """The registry ``azureml``; ``load`` is called once, at the first look."""

    load: Callable[[], Catalogue]
    name: str = SYSTEM_REGISTRY
    description: str = "Models, components and environments that ship with Tunesmith"
    _catalogue: Catalogue | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def assets(self, kind: AssetKind) -> Sequence[AssetVersion]:
        """Every version of a kind."""
        with self._lock:
            if self._catalogue is None:
                self._catalogue = self.load()
            found: Sequence[AssetVersion] = getattr(self._catalogue, kind)
            return found

    def record(self) -> Registry:
        """The registry itself."""
        return Registry(name=self.name, description=self.description, writable=False)


def registries(system: SystemRegistry) -> list[Registry]:
    """The workspace's own shelf and the system registry."""
    own = Registry(name=WORKSPACE, description="What was registered in this workspace", writable=True)
    return [own, system.record()]


def version_order(version: str) -> tuple[tuple[int, int, str], ...]:
    """A key that sorts version strings as people do: 2 before 10, 1.9 before 1.10."""
    return tuple((1, int(part), "") if part.isdigit() else (0, 0, part) for part in re.findall(r"\d+|[^\d.]+", version))
