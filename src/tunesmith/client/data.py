"""``workspace.data``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from tunesmith.client.assets import Assets
from tunesmith.client.views import Data as DataView
from tunesmith.display.units import size as size_of
from tunesmith.records.assets import RegisterData
from tunesmith.records.validation import parse


class Data(Assets[DataView]):
    """Files and folders of conversations, kept by version.

    Examples:
        >>> chat = ws.data.register("chat", train, tags={"from": "support"})
        >>> chat.id, chat.version
        ('azureml:chat:1', '1')
        >>> ws.data.get("chat@latest").sha256 == chat.sha256
        True
    """

    kind = "data"
    view = DataView
    columns = (
        ("name", lambda data: data.name),
        ("version", lambda data: data.version),
        ("type", lambda data: data.type),
        ("rows", lambda data: data.rows),
        ("size", lambda data: size_of(data.size_bytes)),
        ("format", lambda data: data.format),
        ("sha256", lambda data: data.sha256[:12]),
        ("created", lambda data: data.created_at),
    )

    def register(
        self,
        name: str,
        path: str | Path,
        *,
        version: str | None = None,
        type: Literal["uri_file", "uri_folder", "mltable"] | None = None,
        description: str = "",
        tags: Mapping[str, str] | None = None,
    ) -> DataView:
        """Register a file or folder; its bytes are copied into the workspace, so a later change of the file changes
        nothing here.

        Args:
            name: Of the data asset.
            path: A local file or folder, or a reference.
            version: Any string; the next whole number when left out.
            type: ``uri_file``, ``uri_folder`` or ``mltable``; found from the path when left out.
            description: What it is.
            tags: Free pairs.
        """
        if type is None:
            local = Path(str(path)).expanduser()
            type = ("mltable" if (local / "MLTable").is_file() else "uri_folder") if local.is_dir() else "uri_file"
        body = parse(
            RegisterData,
            {
                "name": name,
                "path": self._files.usable(path, target="path"),
                "version": version,
                "type": type,
                "description": description,
                "tags": dict(tags or {}),
            },
        )
        return self._one("POST", "/api/v1/data", body.model_dump(mode="json"), slow=True)
