"""Instances outlive their server, and the next one finds them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.support.house import House, free_port, has_ended, port_is_free, until
from tunesmith.records.endpoints import UpdateEndpoint
from tunesmith.storage.database import Database
from tunesmith.storage.paths import WorkspacePaths
from tunesmith.storage.tables import DeploymentRow

ROOT = Path(__file__).parents[2]
HELLO = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 6, "temperature": 0}


@pytest.mark.heavy
def test_a_killed_server_loses_nothing(tmp_path: Path, models: dict[str, Path]) -> None:
    home = tmp_path / "home"
    house = House(home, models).start()
    house.deploy("keep", "blue", "azureml:tiny-phi3:1", instance_count=2)
    house.deploy("gone", "blue", "azureml:tiny-phi3:1")
    house.service.update("keep", UpdateEndpoint(traffic={"blue": 100}))
    with house.client("keep") as client:
        expected = client.post("/score", json={"input_data": {"input_string": [{"role": "user", "content": "Hi"}]}})
    assert expected.status_code == 200, expected.text
    keys = house.service.keys("keep")
    first, second = house.service.get_deployment("keep", "blue").instances
    lost = house.service.get_deployment("gone", "blue").instances[0]
    house.stop()
    assert not any(has_ended(one.pid) for one in (first, second, lost))

    # A server of its own process takes over, and is killed.
    port = free_port()
    arguments = [sys.executable, "-m", "tests.support.house", str(home), str(port)]
    arguments += [f"{name}={path}" for name, path in models.items()]
    with (tmp_path / "server.log").open("wb") as log:
        server = subprocess.Popen(arguments, cwd=ROOT, stdout=log, stderr=log)
    bearer = {"authorization": f"Bearer {keys.secondary_key}"}

    def answer(port: int) -> httpx.Response | None:
        try:
            url = f"http://127.0.0.1:{port}/endpoints/keep/v1/chat/completions"
            return httpx.post(url, json=HELLO, headers=bearer, trust_env=False, timeout=30)
        except httpx.TransportError:
            return None

    until(lambda: answer(port), "the second server to answer")
    server.send_signal(signal.SIGKILL)
    server.wait()

    # While nobody watches, one instance dies and a deployment is deleted.
    assert first.pid is not None
    os.kill(first.pid, signal.SIGKILL)
    database = Database(WorkspacePaths(home).database_file)
    with database.session() as session:
        session.delete(session.get(DeploymentRow, ("gone", "blue")))
    database.close()

    third = House(home, models).start()
    try:
        assert third.service.keys("keep") == keys
        # The living one serves at once, before the dead one is back.
        answered = until(lambda: answer(third.port), "the third server to answer")
        assert answered.status_code == 200
        assert answered.headers["azureml-model-deployment"] == "blue"
        record = third.service.get_deployment("keep", "blue")
        adopted = next(one for one in record.instances if one.id == second.id)
        assert (adopted.pid, adopted.port, adopted.restarts) == (second.pid, second.port, 0)
        until(lambda: third.service.get_deployment("keep", "blue").ready_instances == 2, "the dead one to be back")
        revived = next(one for one in third.service.get_deployment("keep", "blue").instances if one.id == first.id)
        assert revived.pid != first.pid
        until(lambda: has_ended(lost.pid), "the unwanted instance to be ended")
        assert port_is_free(lost.port or 0)
    finally:
        third.close()
    assert not any((home / "endpoints").iterdir())
