"""Local files on their way to the server and back.

A server on this machine reads local files where they are; a server elsewhere gets them uploaded first. Which of the
two it is shows in the workspace's folder: its ``workspace.json`` can be read here, with the same id, or it cannot.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tunesmith.client.transport import Transport
from tunesmith.errors import NotFound, UserError
from tunesmith.records.workspace import FileEntry, UploadedFile, WorkspaceInfo

PATH_TYPES = frozenset({"uri_file", "uri_folder", "mltable", "mlflow_model", "custom_model", "triton_model"})


class Files:
    """Makes local paths usable by one server."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._shared: bool | None = None

    @property
    def shared(self) -> bool:
        """Whether the server sees this machine's files."""
        if self._shared is None:
            info = WorkspaceInfo.model_validate(self._transport.request("GET", "/api/v1/workspace"))
            try:
                here = json.loads((Path(info.home) / "workspace.json").read_bytes())
                self._shared = here.get("id") == info.id
            except (OSError, ValueError):
                self._shared = False
        return self._shared

    def usable(self, path: str | Path, *, target: str, base: Path | None = None) -> str:
        """``path`` as the server can use it: a reference as it is, a local path made absolute, or its uploaded copy.

        ``base`` is where relative paths start from (the working directory otherwise); ``target`` names the field in
        errors.

        Raises:
            NotFound: there is no such file or folder.
        """
        text = str(path)
        if is_reference(text):
            return text
        local = ((base or Path.cwd()) / Path(text).expanduser()).absolute()
        if not local.exists():
            raise NotFound(f"there is no file or folder {local}", target=target, way_out="check the path")
        return str(local) if self.shared else self.upload(local)

    def upload(self, path: Path) -> str:
        """Send a file or a folder; return its path on the server's machine."""
        if path.is_file():
            return self._send(path, path.name, None).path
        files = sorted(item for item in path.rglob("*") if item.is_file())
        if not files:
            raise UserError(f"the folder {path} holds no file", target=str(path))
        upload: str | None = None
        for item in files:
            sent = self._send(item, f"{path.name}/{item.relative_to(path).as_posix()}", upload)
            upload, root = sent.upload, sent.root
        return f"{root}/{path.name}"

    def inputs(self, inputs: Mapping[str, Any], *, base: Path | None = None) -> dict[str, Any]:
        """A job's inputs with every local path made usable."""
        made = dict(inputs)
        for name, value in made.items():
            if isinstance(value, Mapping) and isinstance(value.get("path"), str) and "${{" not in value["path"]:
                made[name] = {**value, "path": self.usable(value["path"], target=f"inputs.{name}", base=base)}
        return made

    def fetch(self, path: str, destination: Path) -> Path:
        """Download the folder listed by ``GET path`` into ``destination``, file by file.

        Raises:
            UserError: the server named a file outside the folder.
        """
        root = destination.absolute()
        for entry in [FileEntry.model_validate(item) for item in self._transport.request("GET", path)]:
            to = root / entry.path
            if ".." in Path(entry.path).parts or Path(entry.path).is_absolute():
                raise UserError(f"the server names a file outside the folder: {entry.path!r}", target=path)
            self._transport.download(f"{path}/{quote(entry.path)}", to)
        root.mkdir(parents=True, exist_ok=True)
        return root

    def _send(self, file: Path, path: str, upload: str | None) -> UploadedFile:
        answer = self._transport.upload("/api/v1/uploads", file, params={"path": path, "upload": upload})
        return UploadedFile.model_validate(answer)


def is_reference(text: str) -> bool:
    """Whether ``text`` names an asset, an output or a place elsewhere, rather than a local path."""
    return "://" in text or text.startswith("azureml:")
