"""What an instance started ends with it, however it ends."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.house import has_ended, until
from tunesmith.endpoints.documents import CONFIG_FILE, STATE_FILE, InstanceConfig, InstanceState
from tunesmith.endpoints.handle import Handle
from tunesmith.endpoints.pool import InstancePool
from tunesmith.endpoints.process import MARK, InstanceProcess
from tunesmith.storage.atomic import write_json

# The one in front ends as soon as the one that it started has written down its own pid.
ORPHAN = """
import os, subprocess, sys, time
code = f"import os, time; open({sys.argv[1]!r}, 'w').write(str(os.getpid())); time.sleep(600)"
subprocess.Popen([sys.executable, "-c", code])
while not os.path.exists(sys.argv[1]) or not os.path.getsize(sys.argv[1]): time.sleep(0.01)
"""


def configure(folder: Path, model: Path, engine: str = "auto") -> None:
    folder.mkdir()
    config = InstanceConfig(
        endpoint="chat",
        deployment="blue",
        instance="i1",
        generation=1,
        model="azureml:m:1",
        model_path=model,
        engine=engine,
        secret="secret",
    )
    write_json(folder / CONFIG_FILE, config, mode=0o600)


def orphaned(folder: Path, *, marked: bool = True) -> tuple[subprocess.Popen[bytes], float, int]:
    """A process that has ended and was reaped, when it began, and the pid of what it left behind."""
    file = folder / "pid"
    environment = {**os.environ, **({MARK: str(folder)} if marked else {})}
    leader = subprocess.Popen([sys.executable, "-c", ORPHAN, str(file)], start_new_session=True, env=environment)
    started = psutil.Process(leader.pid).create_time()
    leader.wait()
    return leader, started, int(file.read_text())


def test_killing_a_dead_leader_ends_what_it_started(tmp_path: Path) -> None:
    leader, started, left = orphaned(tmp_path)
    assert not has_ended(left)
    process = InstanceProcess(leader.pid, started, leader)
    assert not process.alive()
    process.kill()
    until(lambda: has_ended(left), "what the dead one had started to end")


def test_a_server_that_finds_a_dead_instance_ends_what_it_left(tmp_path: Path) -> None:
    leader, started, left = orphaned(tmp_path)
    folder = tmp_path / "instance"
    configure(folder, tmp_path)
    write_json(folder / STATE_FILE, InstanceState(instance="i1", pid=leader.pid, process_started=started))
    handle = Handle.adopt(folder, InstancePool())
    assert handle is not None
    assert handle.process is None
    until(lambda: has_ended(left), "what the dead one had started to end")


def test_a_pid_that_was_given_out_again_is_left_alone() -> None:
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    try:
        InstanceProcess(other.pid, psutil.Process(other.pid).create_time() - 5).kill()
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_group_that_is_no_instances_is_left_alone(tmp_path: Path) -> None:
    leader, started, left = orphaned(tmp_path, marked=False)
    try:
        InstanceProcess(leader.pid, started).kill()
        assert not has_ended(left)
    finally:
        os.kill(left, signal.SIGKILL)


def test_an_instance_that_is_stopped_while_it_loads_leaves_no_server(
    tmp_path: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "pid"
    command = tmp_path / "vllm"
    command.write_text(f"#!/bin/sh\necho $$ > {file}\nexec sleep 600\n")  # never ready
    command.chmod(0o755)
    monkeypatch.setenv("TUNESMITH_VLLM", str(command))
    configure(tmp_path / "instance", models["tiny-phi3"], engine="vllm")
    process = InstanceProcess.start(tmp_path / "instance", {})
    try:
        until(lambda: file.exists() and file.read_text().strip(), "the engine's server to be started")
        server = int(file.read_text())
        assert not has_ended(server)
        os.kill(process.pid, signal.SIGTERM)
        until(lambda: not process.alive(), "the instance to end")
        until(lambda: has_ended(server), "its server to end")
    finally:
        process.kill()


def test_one_that_is_let_go_is_known_by_its_number_alone_and_nobody_complains(tmp_path: Path) -> None:
    """It goes on; that its object goes while it runs is meant so, and no warning."""
    running = InstanceProcess.start(tmp_path, {})  # without a configuration it ends by itself, some time later
    assert running.alive()
    running.let_go()
    gc.collect()
    until(lambda: not running.alive(), "it to end")
    assert running.describe_end() == "ended while nobody watched"
    os.waitpid(running.pid, 0)
