"""One folder of OpenVINO exports for a whole run of the tests: each tiny model is exported once."""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from tunesmith.generate.engines.exports import export_key
from tunesmith.models import ModelPackage

VARIABLE = "TUNESMITH_TEST_EXPORTS"


def share_exports() -> None:
    """Make the folder and name it in the environment; the process that makes it removes it at its end."""
    if VARIABLE not in os.environ:
        folder = os.environ[VARIABLE] = tempfile.mkdtemp(prefix="tunesmith-exports-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)


def shared_exports() -> Path:
    """The folder."""
    return Path(os.environ[VARIABLE])


def with_shared_exports(home: Path) -> Path:
    """``home`` as a workspace that finds its exports there, and keeps them there; nothing in it may delete a model."""
    cache = home / "cache"
    cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    home.chmod(0o700)
    (cache / "exports").symlink_to(shared_exports())
    return home


def export_here(package: ModelPackage, folder: Path | None = None, form: str | None = None) -> Path:
    """Put the export of ``package`` into ``folder`` (this run's, where none is named), which is returned.

    It is made in this process, which has imported torch already.
    """
    from tunesmith.generate.engines.openvino_export import export

    folder, form = folder or shared_exports(), form or package.manifest.dtype
    folder.mkdir(exist_ok=True)
    path = folder / export_key(package, form)
    with path.with_suffix(".making").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            export(package, path, form)  # type: ignore[arg-type]
    return folder
