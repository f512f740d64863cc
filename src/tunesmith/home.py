"""Which folder is the workspace. Apart from the settings, whose libraries no command needs that only asks a server."""

from __future__ import annotations

import os
from pathlib import Path

HOME_VARIABLE = "TUNESMITH_HOME"


def find_home(workspace: str | Path | None = None) -> Path:
    """The workspace folder: ``workspace``, else ``TUNESMITH_HOME``, else ``~/.tunesmith``. Absolute; need not exist."""
    chosen = workspace or os.environ.get(HOME_VARIABLE) or Path("~/.tunesmith")
    return Path(os.path.abspath(Path(chosen).expanduser()))  # noqa: PTH100  (resolve() would follow a linked home)
