"""The fine-tuning step as a process, alone and started several times by torchrun: stops, errors, kills."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.forked import Forks
from tests.support.tiny import tiny_conversations, tiny_model
from tests.support.workspace import until
from tunesmith.chat.prepare import prepare
from tunesmith.components.steps.processes import CPU_PROCESSES
from tunesmith.components.steps.runtime import STOPPED
from tunesmith.finetune.result import TrainResult
from tunesmith.models import import_model

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a package and prepared rows."""
    folder = tmp_path_factory.mktemp("made")
    tiny_model("llama", folder / "hf")
    package = import_model(str(folder / "hf"), folder / "package", downloads=folder / "downloads", name="tiny")
    rows = tiny_conversations(folder / "train.jsonl", 16)
    prepare(rows, package.tokenizer(), folder / "prepared" / "train", max_seq_length=128, processes=1)
    return folder


class Run:
    """One start of the step in ``folder``."""

    def __init__(self, made: Path, folder: Path, forked: Forks, *, processes: int = 1, **values: Any) -> None:
        self.folder, self.events = folder, folder / "events.jsonl"
        self.output = folder / "output"
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self.output, ignore_errors=True)  # as the runner does before it starts a step again
        values = {
            "apply_lora": "true",
            "packing": "false",
            "max_seq_length": 128,
            "learning_rate": "1e-3",
            "logging_steps": 1,
            "number_of_gpu_to_use_finetuning": processes,
            **values,
        }
        places = {
            "model_path": made / "package",
            "dataset_path": made / "prepared",
            "pytorch_model_folder": self.output,
        }
        self.process = forked.start(
            "tunesmith.components.steps.finetune",
            *(f"--{name}={value}" for name, value in {**places, **values}.items()),
            log=folder / "log.txt",
            environment={
                "TUNESMITH_EVENTS": str(self.events),
                "TUNESMITH_CHECKPOINTS": str(folder / "checkpoints"),
                CPU_PROCESSES: "2",
            },
        )

    def wait(self) -> int:
        return self.process.wait(300)

    def told(self, kind: str) -> list[dict[str, Any]]:
        text = self.events.read_text() if self.events.exists() else ""
        events = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
        return [event for event in events if event["kind"] == kind]

    def until_step(self, step: int) -> None:
        until(
            lambda: any(event["step"] >= step for event in self.told("metric")) or self.process.poll() is not None,
            f"optimiser step {step} is done",
            seconds=240,
        )
        assert self.process.poll() is None, (self.folder / "log.txt").read_text()

    def result(self) -> TrainResult:
        return TrainResult.read(self.output)

    def checkpoints(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "checkpoints").glob("checkpoint-*"))


COMMON: dict[str, Any] = {"max_steps": 30, "evaluation_strategy": "disable", "lr_scheduler_type": "constant"}


@pytest.fixture(scope="module")
def straight(made: Path, forked: Forks, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """The run in one process, from its start to its end."""
    run = Run(made, tmp_path_factory.mktemp("straight"), forked, gradient_accumulation_steps=4, **COMMON)
    assert run.wait() == 0
    return run.result()


def test_sigterm_stops_at_a_checkpoint_that_goes_on_bit_for_bit(
    made: Path, straight: TrainResult, forked: Forks, tmp_path: Path
) -> None:
    cut = Run(made, tmp_path, forked, gradient_accumulation_steps=4, **COMMON)
    cut.until_step(3)
    os.killpg(cut.process.pid, signal.SIGTERM)
    assert cut.wait() == STOPPED
    assert cut.result().outcome == "stopped"
    assert not (cut.output / "adapter").exists()
    again = Run(made, tmp_path, forked, gradient_accumulation_steps=4, **COMMON)
    assert again.wait() == 0
    assert again.result().losses == straight.losses
    assert again.result().weights_sha256 == straight.weights_sha256


def test_two_processes_equal_one(made: Path, straight: TrainResult, forked: Forks, tmp_path: Path) -> None:
    two = Run(made, tmp_path, forked, processes=2, gradient_accumulation_steps=2, **{**COMMON, "max_steps": 6})
    assert two.wait() == 0, (tmp_path / "log.txt").read_text()
    assert two.result().losses == pytest.approx(straight.losses[:6], rel=1e-4)
    lock = json.loads((two.output / "run.lock").read_text())
    assert lock["plan"]["processes"] == 2
    assert (two.output / "adapter" / "adapter_model.safetensors").is_file()
    # Only one of the two reports: each step's metric is told once.
    assert [event["step"] for event in two.told("metric")] == list(range(1, 7))


def start(mode: str, folder: Path) -> subprocess.Popen[bytes]:
    """torchrun's agent over two workers of ``worker.py``, in a session of its own as the runner has it."""
    command = [sys.executable, "-m", "tests.components.worker", "launch", mode, str(folder)]
    return subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)


def begun(folder: Path) -> list[psutil.Process]:
    files = [folder / f"{rank}.pid" for rank in (0, 1)]
    until(lambda: all(file.exists() and file.read_text() for file in files), "both workers run", seconds=240)
    return [psutil.Process(int(file.read_text())) for file in files]


def test_a_workers_exit_code_is_the_steps(tmp_path: Path) -> None:
    assert start("fail", tmp_path).wait(240) == 3
    assert not (tmp_path / "ended").exists()


def test_sigterm_reaches_the_workers_and_a_kill_leaves_none(tmp_path: Path) -> None:
    told, killed = tmp_path / "told", tmp_path / "killed"
    told.mkdir()
    killed.mkdir()
    agent = start("wait", told)
    begun(told)
    os.killpg(agent.pid, signal.SIGTERM)
    assert agent.wait(240) == 0
    assert sorted(path.name for path in told.iterdir()) == ["0.pid", "0.stopped", "1.pid", "1.stopped", "ended"]
    agent = start("wait", killed)
    workers = begun(killed)
    os.killpg(agent.pid, signal.SIGKILL)
    agent.wait()
    until(
        lambda: not any(worker.is_running() and worker.status() != "zombie" for worker in workers),
        "the workers are gone",
    )
    assert not list(killed.glob("*.stopped"))
