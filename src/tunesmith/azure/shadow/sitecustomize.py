"""Lets ``MLClient.from_config`` fall back on the file that TUNESMITH_AZURE_CONFIG names.

Runs in the user's own Python, where Tunesmith is not installed: it imports the standard library alone. ``from_config``
looks for a ``config.json`` in the working directory and above it, and asks no variable; this lets a script without one
find this workspace, and writes nothing into the user's folders. A file that the user has is found first, as ever.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

MODULE = "azure.ai.ml._ml_client"


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the module as it would be found, and looks once it is loaded."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The module's own spec, with a loader around its loader."""
        if fullname != MODULE:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(importlib.abc.Loader):
    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _fall_back(module.MLClient)


def _fall_back(client: Any) -> None:
    original = client.from_config.__func__

    def from_config(cls: Any, /, credential: Any, *, path: Any = None, file_name: Any = None, **options: Any) -> Any:
        try:
            return original(cls, credential, path=path, file_name=file_name, **options)
        except Exception as error:
            ours = os.environ.get("TUNESMITH_AZURE_CONFIG")
            missing = type(error).__name__ == "ValidationException" and "could not find config.json" in str(error)
            if not missing or path is not None or file_name is not None or not ours:
                raise
            return original(cls, credential, path=ours, **options)

    from_config.__doc__ = original.__doc__
    client.from_config = classmethod(from_config)


def _next_sitecustomize() -> None:
    """Run the one that this one hides."""
    here = Path(__file__).resolve().parent
    path = [entry for entry in sys.path if Path(entry or ".").resolve() != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", path)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


sys.meta_path.insert(0, _Finder())
_next_sitecustomize()
