"""Hashes beyond those of files: of Python modules, of code folders, of the environment, of texts.

Also the cheap check that files are still what they were, by name and size.
"""

from __future__ import annotations

import hashlib
import importlib.util
import platform
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from tunesmith.errors import NotFound
from tunesmith.storage.hashing import file_sha256, files_below

SKIPPED = frozenset(
    {".git", "__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".ipynb_checkpoints", ".venv"}
)
"""Folders that are never part of code."""

FileSizes = tuple[tuple[str, int], ...]
"""Relative path and size in bytes of each file of a folder; a single file has the path ``""``."""


def hash_modules(modules: str) -> str:
    """Hash of the Python source of installed packages or modules, named with spaces between.

    Raises:
        NotFound: one of them is not installed.
    """
    digest = hashlib.sha256()
    for module in sorted(modules.split()):
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            raise NotFound(f"the module {module!r} is not installed", target=module)
        origin = Path(spec.origin)
        root, files = (
            (origin.parent, code_files(origin.parent))
            if origin.name == "__init__.py"
            else (origin.parent, [origin.name])
        )
        for relative in files:
            digest.update(f"{module}/{relative}\0{file_sha256(root / relative)}\n".encode())
    return digest.hexdigest()


def hash_code(path: Path) -> str:
    """Hash of a code folder (without caches and version control) or of one file."""
    if path.is_file():
        return file_sha256(path)
    digest = hashlib.sha256()
    for relative in code_files(path):
        digest.update(f"{relative}\0{file_sha256(path / relative)}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def code_files(folder: Path) -> list[str]:
    """The relative paths of the files that count as code, sorted."""
    return [relative for relative in files_below(folder) if not SKIPPED.intersection(relative.split("/"))]


def file_sizes(path: Path) -> FileSizes:
    """What is there, without reading contents."""
    if path.is_file():
        return (("", path.stat().st_size),)
    return tuple((relative, (path / relative).stat().st_size) for relative in files_below(path))


def same_files(path: Path, expected: Sequence[Sequence[object]]) -> bool:
    """Whether exactly these files with these sizes are at ``path``."""
    if not path.exists():
        return False
    return [list(entry) for entry in file_sizes(path)] == [list(entry) for entry in expected]


def environment_lock() -> list[str]:
    """What is installed: ``name==version`` of each distribution, sorted, then Python and the platform."""
    installed = (_name_and_version(found) for found in metadata.distributions())
    found = {f"{name.lower().replace('_', '-')}=={version}" for name, version in installed if name}
    python = f"python=={'.'.join(map(str, sys.version_info[:3]))}"
    return [*sorted(found), python, f"platform=={sys.platform}-{platform.machine()}"]


def _name_and_version(found: metadata.Distribution) -> tuple[str, str]:
    """From the head of the metadata: ``name`` and ``version`` parse the whole of it, descriptions too, once each."""
    head = (found.read_text("METADATA") or found.read_text("PKG-INFO") or "").partition("\n\n")[0]
    fields = dict(
        line.split(": ", 1) for line in reversed(head.splitlines()) if line.startswith(("Name: ", "Version: "))
    )
    if len(fields) < 2:
        return found.name, found.version
    return fields["Name"].strip(), fields["Version"].strip()


def text_sha256(text: str) -> str:
    """Hash of a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
