"""A PostgreSQL server of the tests' own, where the machine has its programs."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.house import free_port

USER = "tunesmith"


def programs() -> Path | None:
    """The folder of ``initdb`` and ``postgres``: on the path, or where Debian puts them."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return folders[-1].parent if folders else None


@contextmanager
def postgresql_server(folder: Path) -> Iterator[str]:
    """Run a server on loopback; gives the URL of it, to which a database's name is added."""
    tools = programs()
    assert tools is not None
    # It refuses to run as root; then another user runs it, who needs a folder that they can reach.
    user = "nobody" if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="tunesmith-pg-") as short:
        home = Path(short)
        if user is not None:
            shutil.chown(home, user)
        data, port = home / "data", free_port()
        run: dict[str, Any] = {"user": user, "check": True, "stdout": subprocess.DEVNULL, "cwd": home}
        log = folder / "postgresql.log"
        log.touch()
        if user is not None:
            shutil.chown(log, user)
        subprocess.run([str(tools / "initdb"), "-D", str(data), "-U", USER, "-A", "trust", "-E", "UTF8", "-N"], **run)
        options = f"-p {port} -h 127.0.0.1 -k {home} -c fsync=off"
        start = [str(tools / "pg_ctl"), "-D", str(data), "-w", "-l", str(home / "log"), "-o", options, "start"]
        subprocess.run(start, **run)
        try:
            yield f"postgresql+psycopg://{USER}@127.0.0.1:{port}"
        finally:
            subprocess.run([str(tools / "pg_ctl"), "-D", str(data), "-m", "immediate", "-w", "stop"], **run)
            shutil.copy(home / "log", log)
