"""Packages as if they were installed."""

from __future__ import annotations

import importlib.machinery
import importlib.util

import pytest


def as_if_installed(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks for ``package`` finds it; it cannot be imported."""
    find = importlib.util.find_spec

    def found(name: str, within: str | None = None) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(name, None) if name == package else find(name, within)

    monkeypatch.setattr(importlib.util, "find_spec", found)
