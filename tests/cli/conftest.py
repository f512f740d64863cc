"""A real server whose endpoint ``chat`` serves a tiny model, for the commands that ask one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.exports import export_here, with_shared_exports
from tests.support.server import RunningServer, running_server
from tests.support.tiny import tiny_model
from tunesmith.client import Workspace
from tunesmith.models import ModelPackage

Result = subprocess.CompletedProcess[str]


@dataclass(frozen=True)
class Served:
    """The server with its endpoint; ``instance`` is the process behind it."""

    server: RunningServer
    ws: Workspace
    instance: psutil.Process

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "tunesmith", "--url", self.server.url, "--token", self.server.token, *arguments]

    def run(self, *arguments: str, stdin: str = "", **options: Any) -> Result:
        """``tunesmith ARGUMENTS`` as a process of its own."""
        return subprocess.run(
            self.command(*arguments), input=stdin, capture_output=True, text=True, timeout=120, check=False, **options
        )

    def answer(self, text: str, **parameters: Any) -> str:
        """What the endpoint says, greedily."""
        return str(self.ws.endpoints.chat("chat", text, temperature=0, **parameters).text)


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("cli")
    source = tiny_model("qwen2", folder / "source")
    with running_server(with_shared_exports(folder / "home")) as server, Workspace(server.home, start=False) as ws:
        job = ws.models.import_("tiny", source)
        assert job is not None
        assert ws.jobs.wait(job.name).status == "Completed"
        export_here(ModelPackage.open(Path(str(ws.models.get("tiny").path))))
        ws.endpoints.create_or_update("chat")
        deployment = ws.deployments.create_or_update(
            "blue", endpoint="chat", model="tiny:1", engine="openvino", precision="32"
        )
        ws.endpoints.update("chat", traffic={"blue": 100})
        pid = deployment.instances[0].pid
        assert pid is not None
        yield Served(server, ws, psutil.Process(pid))


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, list[str]], Path]:
    """Writes lines to a file of the test's folder."""

    def made(name: str, lines: list[str]) -> Path:
        path = tmp_path / name
        path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        return path

    return made
