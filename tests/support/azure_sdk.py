"""An environment with Azure ML's own packages, as their user has one: built once, kept below ``build/``.

``python -m tests.support.azure_sdk`` builds it ahead of the tests.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NEWEST = ROOT / "requirements" / "azure.txt"
OLDER = ROOT / "requirements" / "azure-older.txt"

_NOT_FETCHED = (
    "No matching distribution found",
    "Could not find a version",
    "Temporary failure in name resolution",
    "Failed to establish a new connection",
    "Connection to",
    "ConnectionResetError",
    "Read timed out",
    "Max retries exceeded",
)


def azure_python(requirements: Path = NEWEST) -> Path:
    """The Python of an environment with exactly the packages of ``requirements``; a test without network skips."""
    try:
        return _environment(requirements)
    except NotFetched as error:
        pytest.skip(str(error))


class NotFetched(Exception):
    """The packages cannot be had from here."""


def _environment(requirements: Path) -> Path:
    """The folder's name is a hash of the file and of this Python, so a change of either builds another one."""
    key = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()[:16]
    folder = ROOT / "build" / "azure-venv" / key
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{key}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another worker may be building it
        if not (folder / "done").exists():
            _build(folder, requirements)
            (folder / "done").touch()
    return folder / "bin" / "python"


def _build(folder: Path, requirements: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    # What is never imported need not be compiled.
    options = ["--no-deps", "--no-compile", "--quiet", "--disable-pip-version-check"]
    install = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", *options]
    done = subprocess.run([*install, "-r", str(requirements)], text=True, capture_output=True, check=False)
    if done.returncode and any(sign in done.stderr for sign in _NOT_FETCHED):
        raise NotFetched(f"{requirements.name} cannot be fetched: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr[-4000:]


if __name__ == "__main__":
    try:
        _environment(NEWEST)
    except NotFetched as error:
        print(f"{error}; the tests that need it are skipped", file=sys.stderr)
