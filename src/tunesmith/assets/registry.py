"""The system registry: a shelf that ships with the product and is only read.

What is on it is given as records by whoever opens the workspace; loading them waits until somebody looks.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tunesmith.records.assets import SYSTEM_REGISTRY, WORKSPACE, AssetKind, AssetVersion, Registry

Load = Callable[[AssetKind], Sequence[AssetVersion]]
"""Gives every version of a kind; each kind has records of its own class."""


@dataclass(slots=True)
class SystemRegistry:
    """The registry ``azureml``; ``load`` is called once for each kind, when it is first looked at."""

    load: Load
    name: str = SYSTEM_REGISTRY
    description: str = "Models, components and environments that ship with Tunesmith"
    _loaded: dict[AssetKind, Sequence[AssetVersion]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def assets(self, kind: AssetKind) -> Sequence[AssetVersion]:
        """Every version of a kind."""
        with self._lock:
            if kind not in self._loaded:
                self._loaded[kind] = self.load(kind)
            return self._loaded[kind]

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
