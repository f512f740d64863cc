"""Exported models, kept by what they were made of: a second deployment of a version does not export again.

An export's name is a hash over the package, the form of its weights, this exporter and OpenVINO. It is written aside
and renamed, so it is wholly there or not at all; of two processes that want the same, one exports and the other
waits. What cannot be exported is remembered as well, with the reason.

Imports neither torch nor openvino.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tunesmith.errors import Failure, InvalidModel, error_from_dict
from tunesmith.models.package import ModelPackage

EXPORTER = 2
"""Counts up whenever exports change, so that older ones are not taken."""
INT8 = "int8"
"""The form of weights in eight bits; every other form is the package's own."""
FOLDER_VARIABLE = "TUNESMITH_EXPORTS"
REPORT_FILE = "report.json"


@dataclass(frozen=True, slots=True)
class Export:
    """An export on this machine."""

    path: Path
    key: str
    reused: bool
    """It was there already."""
    seconds: float
    """What making it took."""
    quality: dict[str, dict[str, float]]
    """By precision: how far its logits are from those of the transformers model in float32."""


def default_folder() -> Path:
    """Where exports are kept when nobody says: ``TUNESMITH_EXPORTS``, else in the user's cache folder."""
    if given := os.environ.get(FOLDER_VARIABLE):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tunesmith" / "exports"


def export_key(package: ModelPackage, form: str) -> str:
    """The name of an export."""
    parts = ("export", EXPORTER, package.sha256, form, version("openvino"))
    return hashlib.sha256("|".join(map(str, parts)).encode()).hexdigest()[:32]


def find_or_export(package: ModelPackage, form: str, folder: Path) -> Export:
    """The export of ``package`` in ``folder``, made in a child process if it is not there.

    Raises ``InvalidModel`` when the package cannot be exported, ``Failure`` when the child ended otherwise.
    """
    key = export_key(package, form)
    path, refused = folder / key, folder / f"{key}.refused.json"
    reused = True
    if not path.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        with _only_one(folder / f".{key}.lock") as lock:
            if refused.is_file():
                raise error_from_dict(json.loads(refused.read_text(encoding="utf-8")))
            if not path.is_dir():
                reused = False
                _run(package, form, path, refused, lock)
    report = json.loads((path / REPORT_FILE).read_text(encoding="utf-8"))
    return Export(path, key, reused, report["seconds"], report["quality"])


def _run(package: ModelPackage, form: str, path: Path, refused: Path, lock: int) -> None:
    command = [
        *(sys.executable, "-m", "tunesmith.generate.engines.openvino_export"),
        *(str(package.path), str(path), form),
    ]
    # The lock is the child's too: should this process end first, the next one waits for the child.
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, pass_fds=(lock,)
    )
    if done.returncode == 0:
        return
    lines = done.stdout.strip().splitlines()
    body: dict[str, Any] | None = None
    if lines and lines[-1].startswith("{"):
        body = json.loads(lines[-1])
    if body is None:
        end = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise Failure(
            f"exporting the model to OpenVINO failed: {end[0]}",
            target=str(package.path),
            way_out="the transformers engine needs no export: --engine transformers",
        )
    error = error_from_dict(body)
    if isinstance(error, InvalidModel):
        aside = refused.with_name(f".{refused.name}.{os.getpid()}")
        aside.write_text(json.dumps(body), encoding="utf-8")
        aside.rename(refused)
    raise error


@contextmanager
def _only_one(path: Path) -> Iterator[int]:
    """Wait until no other process holds the lock file ``path``; its descriptor. The lock goes with the last process
    that has it open."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def exports_of(package: ModelPackage, folder: Path) -> list[Path]:
    """What ``folder`` keeps of ``package``: exports, remembered refusals, locks. They go with the package.

    Those that another exporter or version of OpenVINO made are not found.
    """
    keys = [export_key(package, form) for form in (package.manifest.dtype, INT8)]
    paths = [folder / name for key in keys for name in (key, f"{key}.refused.json", f".{key}.lock")]
    return [path for path in paths if path.exists()]
