"""Finding the server of a folder, or starting one."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.server import RunningServer
from tunesmith.client import Workspace
from tunesmith.client.discovery import find_server, read_token, start_server
from tunesmith.errors import NotAuthenticated, NotFound, Unavailable, Unreachable
from tunesmith.records.workspace import ServerAddress


def test_two_callers_at_once_get_one_server(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with ThreadPoolExecutor(3) as pool:
        workspaces = list(pool.map(lambda _: Workspace(home), range(3)))
    try:
        pids = {ws.status().pid for ws in workspaces}
        assert len(pids) == 1
        assert {ws.url for ws in workspaces} == {workspaces[0].url}
    finally:
        workspaces[0].shutdown()
        for ws in workspaces:
            ws.close()
    psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], timeout=30)
    assert find_server(home) is None


def test_a_started_server_holds_none_of_the_callers_files(tmp_path: Path) -> None:
    """A pipe that the caller passes on to its children must end when the caller does, not when the server does."""
    read, write = os.pipe()
    os.set_inheritable(write, True)
    server = start_server(tmp_path / "home")
    try:
        os.close(write)
        assert os.read(read, 1) == b""
    finally:
        os.close(read)
        with Workspace(tmp_path / "home", start=False) as ws:
            ws.shutdown()
        psutil.wait_procs([psutil.Process(server.pid)], timeout=30)


def test_without_a_server_and_without_starting_one(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="no server runs") as caught:
        Workspace(tmp_path, start=False)
    assert "tunesmith up" in (caught.value.way_out or "")
    with pytest.raises(NotFound, match="no token"):
        read_token(tmp_path)


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text("prot = 3\n")
    with pytest.raises(Unavailable, match=r"did not start.*prot"):
        start_server(tmp_path)


def test_a_stale_address_is_not_believed(server: RunningServer, tmp_path: Path) -> None:
    real = ServerAddress.model_validate_json((server.home / "server.json").read_bytes())
    assert find_server(server.home) == real
    this = psutil.Process()
    stale: list[dict[str, Any]] = [
        {"pid": 2**22 + 1},
        {"process_started": real.process_started - 3600},
        {"pid": this.pid, "process_started": this.create_time(), "url": "http://127.0.0.1:1"},
        {"workspace_id": "another"},
    ]
    for change in stale:
        (tmp_path / "server.json").write_text(real.model_copy(update=change).model_dump_json())
        assert find_server(tmp_path) is None, change
    for text in ("", "{", "[]", '{"url": 1}'):
        (tmp_path / "server.json").write_text(text)
        assert find_server(tmp_path) is None


def test_the_folder_comes_from_the_environment(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_HOME", str(server.home))
    with Workspace(start=False) as ws:
        assert ws.url == server.url and str(server.home) in str(ws)


def test_by_url_and_token(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotAuthenticated, match="needs its token"):
        Workspace(url=server.url)
    with Workspace(url=server.url, token="wrong") as ws, pytest.raises(NotAuthenticated, match="the token is wrong"):
        ws.status()
    monkeypatch.setenv("TUNESMITH_TOKEN", server.token)
    with Workspace(url=server.url) as ws:
        assert ws.status().home == str(server.home)
    with Workspace(url="http://127.0.0.1:1", token="x") as ws, pytest.raises(Unreachable):
        ws.status()


def test_the_package_loads_next_to_nothing() -> None:
    code = "import sys, tunesmith; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ})
    assert {"pydantic", "httpx", "rich", "torch", "yaml", "psutil"} & set(done.stdout.split()) == set()


def test_every_exported_name_is_there() -> None:
    import tunesmith

    assert sorted(tunesmith.__all__) == tunesmith.__all__
    assert all(getattr(tunesmith, name) is not None for name in tunesmith.__all__)
    assert dir(tunesmith) == sorted(tunesmith.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Wrkspace'"):
        _ = tunesmith.Wrkspace
