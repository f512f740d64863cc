"""What the global options say, and the connection they lead to."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tunesmith.client import Workspace


@dataclass(slots=True)
class Options:
    """The global options of one run of the command line."""

    workspace: Path | None = None
    url: str | None = None
    token: str | None = None
    json: bool = False
    debug: bool = False


options = Options()
"""Set once by the root callback, read by the commands."""


def home() -> Path:
    """The workspace folder: ``--workspace``, else ``TUNESMITH_HOME``, else ``~/.tunesmith``."""
    if options.workspace is not None:
        return options.workspace.expanduser().absolute()
    return Path(os.environ.get("TUNESMITH_HOME") or "~/.tunesmith").expanduser().absolute()


def connect(*, start: bool = True) -> Workspace:
    """The workspace of this run: a running server is found, or one is started."""
    from tunesmith.client import Workspace

    if options.url:
        return Workspace(url=options.url, token=options.token or os.environ.get("TUNESMITH_TOKEN"))
    return Workspace(home(), start=start)
