"""The whole life cycle through the SDK, on a tiny model, with the server killed while a job trains and while an
endpoint serves.
"""

from __future__ import annotations

import threading
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.events import told
from tests.support.house import port_is_free, until
from tests.support.server import end_server, start_server
from tests.support.tiny import tiny_conversations
from tunesmith.client import Workspace
from tunesmith.errors import NotFound
from tunesmith.records.workspace import JobEvent


def has_ended(pid: int) -> bool:
    """Whether a process is gone; one that nobody has reaped yet is."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.heavy
@pytest.mark.timeout(600)
def test_life_cycle_with_kills(tiny_folder: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    train = tiny_conversations(tmp_path / "train.jsonl", 64)
    server = start_server(home)
    port = server.url.rsplit(":", 1)[1]
    with Workspace(home, start=False) as ws:
        try:
            fetching = ws.models.import_("tiny", tiny_folder)
            assert fetching is not None
            assert ws.jobs.wait(fetching.name).status == "Completed"
            base = ws.models.get("tiny")
            assert (base.state, base.registry) == ("imported", "workspace") and base.chat_contract

            job = ws.finetune(
                base,
                train,
                name="tune",
                apply_lora="true",
                max_steps=40,
                per_device_train_batch_size=4,
                learning_rate=1e-3,
                logging_steps=1,
            )
            events: list[JobEvent] = []
            trains = threading.Event()

            def take(event: JobEvent) -> None:
                events.append(event)
                if event.kind == "metric" and event.step and "finetune" in event.step:
                    trains.set()

            def follow() -> None:
                ws.jobs.stream(job.name, take)
                trains.set()

            watcher = threading.Thread(target=follow)
            watcher.start()
            assert trains.wait(120)
            server.kill()
            server = start_server(home, "--port", port)
            watcher.join(180)
            job = ws.jobs.wait(job.name)
            print(job)
            assert told(events) == told(ws.jobs.events(job.name, follow=False))
            assert {step.attempt for step in job.steps if not step.reused_from} == {1}, "nothing was started again"
            losses = [point.value for point in ws.jobs.metrics(job.name) if point.key == "loss"]
            assert losses[-1] < losses[0]

            tuned = ws.models.register("tuned", job.outputs["mlflow_model_folder"].uri, version="v1")
            assert tuned.lineage is not None and tuned.lineage.job == job.name
            assert {"base_model", "train"} <= {item.role for item in tuned.lineage.items}
            assert (ws.models.download("tuned", tmp_path) / "MLmodel").is_file()

            ws.endpoints.create_or_update("talk")
            deployment = ws.deployments.create_or_update("blue", endpoint="talk", model=tuned.id)
            ws.endpoints.update("talk", traffic={"blue": 100})
            instance = deployment.instances[0]
            keys = ws.endpoints.keys("talk")
            said = ws.endpoints.chat("talk", "What about hello?", max_tokens=4, temperature=0)
            assert said.usage["completion_tokens"] <= 4
            streamed = ws.endpoints.chat("talk", "What about hello?", stream=True, max_tokens=4, temperature=0)
            assert "".join(chunk.text for chunk in streamed) == said.text
            payload = {
                "input_data": {
                    "input_string": [{"role": "user", "content": "What about hello?"}],
                    "parameters": {"max_new_tokens": 4, "temperature": 0},
                }
            }
            assert ws.endpoints.invoke("talk", payload)["output"] == said.text

            server.kill()
            assert not has_ended(instance.pid or 0), "the instance goes on"
            server = start_server(home, "--port", port)
            assert ws.endpoints.keys("talk") == keys
            until(lambda: ws.deployments.get("talk", "blue").ready_instances == 1, "the instance to be adopted")
            headers = {"authorization": f"Bearer {keys.secondary_key}"}
            body = {"messages": [{"role": "user", "content": "What about hello?"}], "max_tokens": 4, "temperature": 0}
            url = f"{server.url}/endpoints/talk/v1/chat/completions"
            answer = httpx.post(url, json=body, headers=headers, trust_env=False, timeout=60).json()
            assert answer["choices"][0]["message"]["content"] == said.text
            assert ws.deployments.get("talk", "blue").instances[0].pid == instance.pid, "it is the same process"

            ws.endpoints.delete("talk")
            with pytest.raises(NotFound):
                ws.endpoints.get("talk")
            assert has_ended(instance.pid or 0) and port_is_free(instance.port or 0)
            ws.models.delete("tuned", "v1")  # its files are links to those of the job, which go with the job
            assert ws.jobs.delete(job.name)
        finally:
            end_server(server)
