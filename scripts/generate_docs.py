"""Writes the generated pages of the documentation, or checks with ``--check`` that they are what would be written.

Each generator is a module here with ``TARGET`` (a path from the repository's root) and ``render() -> str``.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GENERATORS = ["cli_reference", "api_reference", "parameter_reference", "sdk_reference", "azure_reference"]


def pages() -> dict[str, str]:
    """Every generated page: its path and its text."""
    sys.path.insert(0, str(ROOT / "scripts"))
    made = {}
    for name in GENERATORS:
        module = importlib.import_module(name)
        made[module.TARGET] = module.render()
    return made


def main() -> int:
    """Write or check the pages; 1 when a page is stale."""
    stale = []
    for target, text in pages().items():
        path = ROOT / target
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        if "--check" in sys.argv:
            stale.append(target)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(f"wrote {target}")
    for target in stale:
        print(f"{target} is stale: run make docs", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
