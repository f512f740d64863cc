"""Real instance processes: they come up, die, roll, fail with a cause, go."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.house import QUICK, House, has_ended, port_is_free, until
from tunesmith.records.endpoints import Instance, UpdateDeployment, UpdateEndpoint

HELLO = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 6, "temperature": 0}


def ready(house: House, endpoint: str, deployment: str, count: int) -> list[Instance]:
    """Wait until exactly ``count`` instances are there and all of them ready."""

    def look() -> list[Instance] | None:
        found = house.service.get_deployment(endpoint, deployment).instances
        return found if len(found) == count and all(one.state == "Ready" for one in found) else None

    return until(look, f"{count} ready instances of {endpoint}/{deployment}") if count else []


class Load:
    """Asks again and again in a thread, until told to stop; keeps every answer."""

    def __init__(self, house: House, endpoint: str) -> None:
        self._house, self._endpoint = house, endpoint
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.answers: list[tuple[int, str]] = []

    def _run(self) -> None:
        with self._house.client(self._endpoint) as client:
            while not self._stop.is_set():
                answer = client.post("/v1/chat/completions", json=HELLO)
                said = answer.json()["choices"][0]["message"]["content"] if answer.status_code == 200 else answer.text
                self.answers.append((answer.status_code, said))

    def __enter__(self) -> Load:
        self._thread.start()
        until(lambda: self.answers, "a first answer")
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        self._thread.join(60)


def test_the_life_of_a_deployment(house: House) -> None:
    record = house.deploy("life", "blue", "azureml:tiny-phi3:1", environment_variables={"GREETING": "hello"})
    assert record.ready_instances == 1
    (instance,) = record.instances
    assert [phase.name for phase in instance.phases] == ["copy", "load", "warm-up", "contract check"]
    assert all(phase.seconds is not None for phase in instance.phases)
    assert instance.pid is not None
    assert psutil.Process(instance.pid).environ()["GREETING"] == "hello"
    config = house.rooms.paths.instance("life", "blue", instance.id) / "config.json"
    assert config.stat().st_mode & 0o077 == 0
    house.service.update("life", UpdateEndpoint(traffic={"blue": 100}))

    with Load(house, "life") as load:
        # Scale up; kill one; it comes back; scale down: nobody notices.
        house.service.update_deployment("life", "blue", UpdateDeployment(instance_count=2))
        first, second = ready(house, "life", "blue", 2)
        assert house.ready("life", "blue").ready_instances == 2
        assert second.engine is not None
        assert second.engine["precision"] == "32"
        assert first.pid is not None
        os.kill(first.pid, signal.SIGKILL)

        def restarted() -> Instance | None:
            found = [one for one in house.service.get_deployment("life", "blue").instances if one.restarts == 1]
            return found[0] if found and found[0].state == "Ready" else None

        again = until(restarted, "the killed instance to be back")
        assert again.id == first.id
        assert has_ended(first.pid)
        assert len(ready(house, "life", "blue", 2)) == 2
        assert again.pid != first.pid
        assert again.error is not None
        assert "was ended by SIGKILL" in again.error["message"]
        house.service.update_deployment("life", "blue", UpdateDeployment(instance_count=1))
        (last,) = ready(house, "life", "blue", 1)
    assert {status for status, _ in load.answers} == {200}
    assert len({said for _, said in load.answers}) == 1

    folder = house.rooms.paths.endpoint("life")
    assert folder.is_dir()
    house.service.delete("life")
    until(lambda: "life" not in [one.name for one in house.service.list()], "the endpoint to go")
    for one in (second, again, last):
        assert one.pid is not None
        assert one.port is not None
        assert has_ended(one.pid)
        assert port_is_free(one.port)
    assert not folder.exists()


def test_an_update_rolls_without_a_failed_request(house: House) -> None:
    before = house.deploy("roll", "blue", "azureml:tiny-phi3:1").instances[0]
    house.service.update("roll", UpdateEndpoint(traffic={"blue": 100}))
    with Load(house, "roll") as load:
        old = load.answers[0][1]
        house.service.update_deployment("roll", "blue", UpdateDeployment(model="azureml:tuned-phi3:1"))
        record = house.ready("roll", "blue")
        until(lambda: load.answers[-1][1] != old, "the new model to answer")
    assert record.model == "azureml:tuned-phi3:1"
    (after,) = ready(house, "roll", "blue", 1)
    assert after.id != before.id
    assert {status for status, _ in load.answers} == {200}
    said = [text for _, text in load.answers]
    assert len(set(said)) == 2
    assert has_ended(before.pid)


def test_a_broken_model_fails_with_its_cause_and_its_log(house: House, models: dict[str, Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "notes.txt").write_text("no model here")
    house.rooms.resolver.models["broken"] = broken
    house.deploy("sick", "blue", "azureml:broken:1", wait=False)

    def failed() -> Any:
        record = house.service.get_deployment("sick", "blue")
        return record if record.provisioning_state == "Failed" else None

    record = until(failed, "the deployment to fail")
    assert record.error["code"] == "InvalidModel"
    assert "no model package" in record.error["message"]
    assert record.error["way_out"]
    assert any("phase: copy" in line for line in record.log_tail)
    assert record.instances[0].state == "Failed"
    assert record.instances[0].restarts == 0
    assert any("InvalidModel" in line for line in house.service.logs("sick", "blue", lines=50))
    with house.client("sick") as client:
        answer = client.post("/v1/chat/completions", json=HELLO, headers={"azureml-model-deployment": "blue"})
    assert answer.status_code == 503
    assert "no model package" in answer.json()["error"]["message"]

    house.service.update_deployment("sick", "blue", UpdateDeployment(model="azureml:tiny-llama:1"))
    healed = house.ready("sick", "blue")
    assert healed.error is None
    assert healed.log_tail == []
    ready(house, "sick", "blue", 1)


@pytest.mark.heavy
def test_an_instance_that_hangs_is_taken_out_and_started_again(house: House) -> None:
    probe = QUICK.model_copy(update={"timeout": 1, "failure_threshold": 1})
    house.deploy("hang", "blue", "azureml:tiny-phi3:1", liveness_probe=probe, readiness_probe=probe)
    (before,) = ready(house, "hang", "blue", 1)
    assert before.pid is not None
    os.kill(before.pid, signal.SIGSTOP)
    until(lambda: house.service.get_deployment("hang", "blue").ready_instances == 0, "the probes to fail")
    until(lambda: has_ended(before.pid), "the hanging process to be ended")
    (after,) = ready(house, "hang", "blue", 1)
    assert after.restarts == 1
    assert after.error is not None
    assert "probe failed" in after.error["message"]
