"""DeepSpeed's engine against the plain trainer, for real: the same losses, weights and files, over gloo on the CPU."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.tiny import tiny_model
from tunesmith.models import import_model

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="the package deepspeed is not installed"),
]

ROOT = Path(__file__).parents[3]

RUN = """
import json, sys
from pathlib import Path
from tests.finetune.support import Heard, random_rows
from tunesmith.finetune import FinetuneParameters, train
from tunesmith.models import ModelPackage

folder, values, until = Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3])
steps = []

class Counting(Heard):
    def progress(self, phase, done, total, *, unit="", values=None):
        if phase == "train":
            steps.append(done)

heard = Counting()
result = train(ModelPackage.open(folder / "package"), random_rows(), random_rows(3, seed=9),
      FinetuneParameters(**values), folder / sys.argv[4],
      checkpoints=folder / (sys.argv[4] + "-checkpoints"), reporter=heard, stop=lambda: len(steps) >= until)
"""

VALUES: dict[str, Any] = {
    "learning_rate": 1e-3,
    "max_seq_length": 64,
    "max_steps": 6,
    "gradient_accumulation_steps": 2,
    "max_grad_norm": 0.5,
    "weight_decay": 0.1,
    "logging_steps": 1,
    "evaluation_strategy": "steps",
    "eval_steps": 2,
    "resume_from_checkpoint": True,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharding")
    tiny_model("llama", folder / "hf")
    import_model(str(folder / "hf"), folder / "package", downloads=folder / "downloads", name="tiny-llama")
    return folder


def run(folder: Path, name: str, values: dict[str, Any], *, processes: int, until: int = 99) -> dict[str, Any]:
    """``train()`` in processes of its own; its result."""
    arguments = ["-c", RUN] if processes == 1 else [str(script(folder))]
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    subprocess.run(
        [sys.executable, *launch, *arguments, str(folder), json.dumps({**VALUES, **values}), str(until), name],
        check=True,
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}",
            "PYTHONWARNINGS": "ignore",
            "OMP_NUM_THREADS": "1",
            "TUNESMITH_INTERNAL_CPU_DEEPSPEED": "1",
        },
        timeout=500,
    )
    result: dict[str, Any] = json.loads((folder / name / "train_result.json").read_text())
    return result


def script(folder: Path) -> Path:
    path = folder / "run.py"
    path.write_text(RUN)
    return path


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    (file,) = [*folder.glob("adapter/*.safetensors"), *folder.glob("package/*.safetensors")]
    return load_file(file)


@pytest.mark.parametrize(
    ("stage", "lora", "processes"),
    [(1, False, 1), (2, True, 1), (2, True, 2), (3, True, 2), (3, False, 2)],
)
def test_as_the_plain_trainer(stage: int, lora: bool, processes: int, folder: Path) -> None:
    kind = f"{'lora' if lora else 'full'}-{processes}"
    asked: dict[str, Any] = {"apply_lora": lora, "lora_alpha": 16}
    if not (folder / f"plain-{kind}").exists():
        run(folder, f"plain-{kind}", asked, processes=processes)
    plain = json.loads((folder / f"plain-{kind}" / "train_result.json").read_text())

    file = folder / f"zero{stage}.json"
    zero = {"stage": stage, **({"stage3_param_persistence_threshold": 0} if stage == 3 else {})}
    file.write_text(json.dumps({"zero_optimization": zero, "train_batch_size": "auto"}))
    asked |= {"apply_deepspeed": True, "deepspeed": str(file)}
    name = f"zero{stage}-{kind}"
    stopped = run(folder, name, asked, processes=processes, until=3)
    assert (stopped["outcome"], stopped["steps"], stopped["output"]) == ("stopped", 3, None)
    sharded = run(folder, name, asked, processes=processes)

    assert (sharded["outcome"], sharded["steps"], sharded["resumed_from"]) == ("completed", 6, 3)
    assert sharded["losses"] == pytest.approx(plain["losses"], rel=1e-6)
    assert sharded["best_step"] == plain["best_step"]
    assert sharded["best_metric"] == pytest.approx(plain["best_metric"], rel=1e-6)
    for ours, theirs in zip(sharded["history"], plain["history"], strict=True):
        assert ours["step"] == theirs["step"]
        for metric in ("loss", "eval_loss", "eval_f1", "grad_norm", "learning_rate"):
            if metric in theirs["values"]:
                assert ours["values"][metric] == pytest.approx(theirs["values"][metric], rel=1e-5), metric
    assert (sharded["parameters"], sharded["trainable_parameters"]) == (
        plain["parameters"],
        plain["trainable_parameters"],
    )
    expected, found = weights(folder / f"plain-{kind}"), weights(folder / name)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        # AdamW divides by the gradient's size: where that is all but zero, rounding decides part of a step (1e-3).
        off = (found[key].float() - value.float()).abs()
        assert off.max() <= 3e-4, key
        assert off.mean() <= 1e-6, key
    lock = json.loads((folder / name / "run.lock").read_text())
    assert lock["sharding"]["stage"] == stage
    assert lock["sharding"]["config"]["train_micro_batch_size_per_gpu"] == 1
