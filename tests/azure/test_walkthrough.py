"""The guide's script, byte for byte, with Azure's own packages: as plain Python and as a notebook.

What is asserted is what happened: the weights changed, the metrics are in MLflow, the lineage names the job, the answer
is the tuned model's, and nothing is left.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.azure_sdk import OLDER, azure_python
from tests.support.smollm2 import smollm2
from tests.support.walkthrough import BASE, SCRIPT, Stage, clean_environment, notebook_of, said, stage
from tunesmith.chat.messages import Message
from tunesmith.client import Workspace
from tunesmith.generate import GenerateRequest, collect, open_engine
from tunesmith.models import ModelPackage

pytestmark = [pytest.mark.heavy, pytest.mark.azure]


@pytest.mark.azure_long
@pytest.mark.timeout(1800)
def test_the_guide_as_plain_python(tmp_path: Path) -> None:
    with stage(azure_python(), tmp_path) as scene:
        done = scene.run(SCRIPT.name)
        assert (scene.folder / SCRIPT.name).read_bytes() == SCRIPT.read_bytes()
        check_everything(scene, done.stdout, BASE)


@pytest.mark.timeout(1800)
def test_the_guide_as_a_notebook(tmp_path: Path) -> None:
    with stage(azure_python(), tmp_path) as scene:
        notebook = notebook_of(scene.folder / SCRIPT.name, scene.folder / "guide.ipynb")
        before = notebook.read_bytes()
        (scene.folder / "config.json").unlink()  # then it is Tunesmith that provides one
        scene.run("--output", "executed.ipynb", notebook.name)
        assert notebook.read_bytes() == before
        cells = json.loads((scene.folder / "executed.ipynb").read_text("utf-8"))["cells"]
        code = [cell for cell in cells if cell["cell_type"] == "code"]
        assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
        check_everything(scene, "".join(output_of(cell) for cell in code), BASE)


@pytest.mark.azure_long
@pytest.mark.timeout(1800)
def test_the_guide_with_a_release_that_is_a_year_older(tmp_path: Path) -> None:
    with stage(azure_python(OLDER), tmp_path) as scene:
        check_everything(scene, scene.run(SCRIPT.name).stdout, BASE)


@pytest.mark.azure_long
@pytest.mark.timeout(2400)
def test_the_guide_with_smollm2_and_real_conversations(tmp_path: Path) -> None:
    name = "SmolLM2-135M-Instruct"
    model = smollm2(tmp_path / "package").path
    with stage(azure_python(), tmp_path, model=model, name=name) as scene:
        draw_conversations(scene)
        script = scene.folder / SCRIPT.name
        text = script.read_text("utf-8")
        # An epoch of so few conversations is one optimiser step: each is logged, to see the loss fall.
        for old, new in ((BASE, name), ('"logging_steps": 5', '"logging_steps": 1, "precision": "32"')):
            assert old in text
            text = text.replace(old, new)  # what a user changes
        script.write_text(text, "utf-8")
        check_everything(scene, scene.run(SCRIPT.name, seconds=2000).stdout, name)


def draw_conversations(scene: Stage) -> None:
    """Put real conversations where the script looks for its data."""
    for path in (scene.folder / "data").iterdir():
        path.unlink()
    for command in (
        "data sample chitchat.jsonl --conversations 32",
        "data split chitchat.jsonl --out data --train 0.75 --validation 0.125 --test 0.125",
    ):
        done = subprocess.run(
            [sys.executable, "-m", "tunesmith", *command.split()],
            cwd=scene.folder,
            env=clean_environment(scene.server.home),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


def output_of(cell: dict[str, Any]) -> str:
    """What a cell printed."""
    texts = [output["text"] for output in cell["outputs"] if output.get("name") == "stdout"]
    return "".join("".join(text) if isinstance(text, list) else text for text in texts)


def check_everything(scene: Stage, printed: str, base_name: str) -> None:
    """Hold what the script printed, and what the server knows, against what must have happened."""
    job_name = said(printed, r"(?m)^job: (\S+)$")
    assert "outputs: trained_model" in printed and "endpoint: deleted" in printed
    assert "Execution Summary" in printed, "the job was streamed to its end"
    tuned_name = f"{base_name}-chitchat"
    assert f"/models/{tuned_name}/versions/" in said(printed, r"(?m)^model: (\S+)$")
    with Workspace(scene.server.home, start=False) as workspace:
        job = workspace.jobs.get(job_name)
        assert job.status == "Completed" and job.experiment_name == "chat-completion-finetune"
        losses = [point.value for point in workspace.jobs.metrics(job_name) if point.key == "loss"]
        assert len(losses) >= 3 and losses[-1] < losses[0]
        tuned, base = workspace.models.get(tuned_name), workspace.models.get(base_name, registry="azureml")
        assert tuned.lineage is not None and tuned.lineage.job == job_name
        items = {item.role: item for item in tuned.lineage.items}
        assert base_name in items["base_model"].reference and items["train"].sha256
        assert not workspace.endpoints.list(), "nothing is left"
    check_mlflow(scene, job_name, losses)
    check_answer(scene, json.loads(said(printed, r"(?m)^answer: (.*)$")), Path(base.path or ""), Path(tuned.path or ""))
    assert not any((scene.server.home / "endpoints").iterdir())
    assert not [process.pid for process in psutil.process_iter(["cmdline"]) if serves(process, scene.server.home)]


def serves(process: psutil.Process, home: Path) -> bool:
    """Whether a process is an instance of this server's endpoints."""
    command = process.info["cmdline"] or []
    return "tunesmith.endpoints.instance" in command and any(part.startswith(str(home)) for part in command)


def check_mlflow(scene: Stage, job_name: str, losses: list[float]) -> None:
    """The run of the job is in MLflow, with the same losses."""
    with scene.server.http as http:
        found = http.get(
            "/mlflow/api/2.0/mlflow/experiments/get-by-name", params={"experiment_name": "chat-completion-finetune"}
        ).json()
        body = {"experiment_ids": [found["experiment"]["experiment_id"]]}
        runs = http.post("/mlflow/api/2.0/mlflow/runs/search", json=body).json()["runs"]
        mine = [run for run in runs if job_name in json.dumps(run["data"].get("tags", []))]
        assert mine, runs
        histories = [
            http.get(
                "/mlflow/api/2.0/mlflow/metrics/get-history",
                params={"run_id": run["info"]["run_id"], "metric_key": metric["key"]},
            ).json()["metrics"]
            for run in mine
            for metric in run["data"].get("metrics", [])
            if metric["key"] == "loss"
        ]
    assert losses in [[point["value"] for point in history] for history in histories]


def check_answer(scene: Stage, answer: dict[str, Any], base: Path, tuned: Path) -> None:
    """The endpoint said what the tuned weights say, and the base's weights say something else."""
    from safetensors.torch import load_file  # numpy knows no bfloat16

    packages = [ModelPackage.open(path) for path in (base, tuned)]
    weights = [load_file(package.path / "model.safetensors") for package in packages]
    assert weights[0].keys() == weights[1].keys()
    changed = [name for name in weights[0] if (weights[0][name] != weights[1][name]).any()]
    assert changed and all("_proj" in name for name in changed), changed
    conversation = json.loads((scene.folder / "data" / "test.jsonl").read_text("utf-8").splitlines()[0])["messages"]
    until = -1 if conversation[-1]["role"] == "assistant" else len(conversation)
    asked = tuple(Message(row["role"], row["content"]) for row in conversation[:until])
    said_by = [greedy(package, asked) for package in packages]
    assert answer["output"] == [said_by[1]] and said_by[0] != said_by[1]


def greedy(package: ModelPackage, asked: tuple[Message, ...]) -> str:
    """What a model answers at temperature 0, in this process."""

    async def generate() -> str:
        engine = open_engine(package, precision="32", threads=1)
        try:
            result = await collect(engine.generate(GenerateRequest(asked, temperature=0, max_tokens=20)))
        finally:
            engine.close()
        return result.choices[0].text

    return asyncio.run(generate())
