"""LoRA adapters that a deployment serves beside its model: where one lies, and whether it belongs to the base.

An adapter is weights *over* a base. Over another base of the same shapes it would load and answer nonsense, so the
hash of the base that it was trained on is compared where it is known: from the lock of its training run, or from the
model package that its MLflow model holds.
"""

from __future__ import annotations

import json
from pathlib import Path

from tunesmith.errors import InvalidModel
from tunesmith.models.adapter_files import ADAPTER_CONFIG_FILE, ADAPTER_FOLDER, LOCK_FILE, TUNED
from tunesmith.models.package import MANIFEST_FILE, MLFLOW_PACKAGE_FOLDER, ModelPackage


def find_adapter(name: str, folder: Path) -> Path:
    """The adapter's own folder: ``folder``, or the one inside a training output or an MLflow model.

    Raises ``InvalidModel``.
    """
    for place in (folder, folder / ADAPTER_FOLDER):
        if (place / ADAPTER_CONFIG_FILE).is_file():
            return place
    raise InvalidModel(
        f"adapter {name!r} is no LoRA adapter: neither {folder.name} nor {folder.name}/{ADAPTER_FOLDER} has a "
        f"{ADAPTER_CONFIG_FILE}",
        target=f"adapters.{name}",
        way_out="name a training output, a registered adapter, or a model that was converted with its adapter",
    )


def base_of(adapter: Path) -> str | None:
    """The ``sha256`` of the package that the adapter was trained on; None where nothing tells it."""
    beside = adapter.parent
    try:
        if (beside / LOCK_FILE).is_file():
            return str(json.loads((beside / LOCK_FILE).read_bytes())["model"]["sha256"])
        manifest = beside / MLFLOW_PACKAGE_FOLDER / MANIFEST_FILE
        if manifest.is_file():
            package = ModelPackage.open(manifest.parent)
            source = package.manifest.origin.source
            return source.removeprefix(TUNED) if source.startswith(TUNED) else package.sha256
    except (ValueError, KeyError, TypeError):
        return None
    return None


def check_base(name: str, adapter: Path, model: Path, model_id: str) -> str | None:
    """Raise ``InvalidModel`` when the adapter belongs to another base; what to say where that cannot be told."""
    wanted = base_of(adapter)
    if wanted is None:
        return f"adapter {name}: nothing tells which base it was trained on; its shapes are compared when it loads"
    there = ModelPackage.open(model).sha256
    if wanted != there:
        raise InvalidModel(
            f"adapter {name!r} was trained on another base (package {wanted[:12]}…) than {model_id} ({there[:12]}…)",
            target=f"adapters.{name}",
            way_out="deploy the base that it was trained on",
        )
    return None
