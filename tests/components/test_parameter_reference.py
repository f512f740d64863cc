from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_is_what_the_code_says() -> None:
    spec = importlib.util.spec_from_file_location("parameter_reference", ROOT / "scripts" / "parameter_reference.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / module.TARGET).read_text(encoding="utf-8") == module.render(), "run make docs"
