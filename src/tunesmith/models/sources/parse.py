"""From the text of a source to the source."""

from __future__ import annotations

import re
from pathlib import Path

from tunesmith.errors import UserError
from tunesmith.models.package import MLMODEL_FILE
from tunesmith.models.sources.base import Source
from tunesmith.models.sources.folder import FolderSource
from tunesmith.models.sources.gguf import GgufSource
from tunesmith.models.sources.gguf_reader import is_gguf
from tunesmith.models.sources.hub import HubSource
from tunesmith.models.sources.mlflow import MlflowSource
from tunesmith.models.sources.wheel import WheelSource

FORMS = (
    "a source is hf://org/name[@revision], pypi://distribution==version/path/in/wheel.gguf, "
    "or the path of a model folder, a .gguf file or an MLflow model folder"
)
_HUB = re.compile(r"^hf://(?P<repo>[\w.-]+/[\w.-]+?)(?:@(?P<revision>[\w./-]+?))?(?:/(?P<member>[\w./-]+\.gguf))?$")
_WHEEL = re.compile(r"^pypi://(?P<name>[A-Za-z0-9][\w.-]*)==(?P<version>[\w.!+-]+)/(?P<member>[^@]+\.gguf)$")


def parse_source(text: str) -> Source:
    """The source that ``text`` names; ``UserError`` for one of no known form and for a path that is not there."""
    if text.startswith("hf://"):
        found = _HUB.match(text)
        if not found or ".." in text:
            raise UserError(f"{text!r} is no model on the hub", target="source", way_out=FORMS)
        return HubSource(text, found["repo"], found["revision"], found["member"])
    if text.startswith("pypi://"):
        found = _WHEEL.match(text)
        if not found or ".." in found["member"].split("/"):
            raise UserError(
                f"{text!r} names no GGUF file in a wheel of a fixed version", target="source", way_out=FORMS
            )
        return WheelSource(text, f"{found['name']}=={found['version']}", found["member"])
    if "://" in text:
        raise UserError(f"{text!r} is no known kind of source", target="source", way_out=FORMS)
    path = Path(text).expanduser().absolute()
    if not path.exists():
        raise UserError(f"there is no file or folder {path}", target="source", way_out=FORMS)
    if path.is_file():
        if path.suffix.lower() == ".gguf" or is_gguf(path):
            return GgufSource(str(path), path)
        raise UserError(
            f"{path.name} is a file, and of files only .gguf can be imported",
            target=str(path),
            way_out="give the folder that the file lies in" if path.suffix == ".safetensors" else FORMS,
        )
    if (path / MLMODEL_FILE).is_file():
        return MlflowSource(str(path), path)
    return FolderSource(str(path), path)
