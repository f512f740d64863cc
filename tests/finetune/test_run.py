"""The whole run on a real package: outputs that load, a kill in the middle, and the lock."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.finetune.support import Heard, MemoryRows, random_rows
from tests.support.forked import Forks
from tests.support.tiny import tiny_model
from tunesmith.finetune import FinetuneParameters, TrainResult, rate_search, train
from tunesmith.models import ModelPackage, import_model, load_model


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    folder = tmp_path_factory.mktemp("package")
    tiny_model("llama", folder / "hf")
    return import_model(str(folder / "hf"), folder / "package", downloads=folder / "downloads", name="tiny-llama")


def _train(package: ModelPackage, folder: Path, **values: Any) -> tuple[TrainResult, Heard]:
    heard = Heard()
    parameters = FinetuneParameters(
        **{"learning_rate": 1e-3, "max_seq_length": 64, "max_steps": 4, "logging_steps": 1, **values}
    )
    result = train(
        package,
        random_rows(),
        random_rows(3, seed=9),
        parameters,
        folder / "output",
        checkpoints=folder / "checkpoints",
        reporter=heard,
    )
    return result, heard


@pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing.:FutureWarning"
)  # PEFT asks transformers by the old name
def test_lora_writes_an_adapter_that_peft_loads(package: ModelPackage, tmp_path: Path) -> None:
    from peft import PeftModel

    result, _ = _train(package, tmp_path, apply_lora=True)
    output = tmp_path / "output"
    assert sorted(path.name for path in output.iterdir()) == ["adapter", "run.lock", "train_result.json"]
    assert result == TrainResult.read(output)
    assert (result.outcome, result.steps, result.attention, result.output) == ("completed", 4, "documents", "adapter")
    assert 0 < result.trainable_parameters < result.parameters
    tuned = PeftModel.from_pretrained(load_model(package, dtype=torch.float32), str(output / "adapter"))
    base = load_model(package, dtype=torch.float32)
    ids = torch.arange(20)[None]
    with torch.no_grad():
        assert not torch.allclose(tuned(ids).logits, base(ids).logits)


def test_full_writes_a_package_that_opens(package: ModelPackage, tmp_path: Path) -> None:
    result, _ = _train(package, tmp_path, apply_lora=False, precision="bf16")
    tuned = ModelPackage.open(tmp_path / "output" / "package", full=True)
    assert result.output == "package"
    assert tuned.sha256 != package.sha256
    assert tuned.manifest.chat_contract == package.manifest.chat_contract
    load_model(tuned)


def test_the_lock_holds_everything(package: ModelPackage, tmp_path: Path) -> None:
    _train(package, tmp_path, apply_lora=True, precision="auto")
    lock = json.loads((tmp_path / "output" / "run.lock").read_text())
    assert lock["parameters"]["seed"] == 42
    assert lock["model"]["sha256"] == package.sha256
    assert set(lock["precision"]["rates"]) == {"float32", "bfloat16"}
    assert lock["precision"]["used"] in {"float32", "bfloat16"}
    assert lock["environment"]["packages"]["torch"] == torch.__version__
    assert len(lock["identity"]["train"]) == 64


def test_the_rate_that_was_found_is_kept_with_the_run(
    package: ModelPackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_search, "STEPS", 16)
    result, heard = _train(package, tmp_path, apply_lora=True, learning_rate=2e-3, find_learning_rate=True)
    assert result.rate_search is not None
    assert result.learning_rate == result.rate_search["suggestion"] != 2e-3
    lock = json.loads((tmp_path / "output" / "run.lock").read_text())
    assert lock["learning_rate"] == {"used": result.learning_rate, "search": result.rate_search}
    assert lock["parameters"]["learning_rate"] == 2e-3  # as given
    assert "learning rate  change of the loss" in "\n".join(heard.lines)
    assert len(result.losses) == 4


def test_what_has_no_effect_here_is_said_and_kept(package: ModelPackage, tmp_path: Path) -> None:
    result, heard = _train(
        package,
        tmp_path,
        apply_lora=True,
        apply_deepspeed=True,
        apply_ort=True,
        number_of_gpu_to_use_finetuning=4,
        quantization="4bit",
        precision="16",
    )
    waived = {message.split()[0] for code, message in heard.notices if code == "ParameterWaived"}
    assert waived == {"apply_deepspeed", "apply_ort", "number_of_gpu_to_use_finetuning", "quantization"}
    assert "PrecisionBf16" in {code for code, _ in heard.notices}
    assert [(said.code, said.message) for said in result.notices] == heard.notices


def test_a_run_that_does_not_resume_starts_afresh(package: ModelPackage, tmp_path: Path) -> None:
    first, _ = _train(package, tmp_path, apply_lora=True)
    again, _ = _train(package, tmp_path, apply_lora=True)
    assert again.resumed_from is None
    assert again.weights_sha256 == first.weights_sha256
    resumed, _ = _train(package, tmp_path, apply_lora=True, resume_from_checkpoint=True)
    assert resumed.resumed_from == 4
    assert resumed.weights_sha256 == first.weights_sha256


def test_a_stop_leaves_a_checkpoint_and_no_adapter(package: ModelPackage, tmp_path: Path) -> None:
    parameters = FinetuneParameters(apply_lora=True, max_steps=4, max_seq_length=64)
    asked: list[None] = []

    def stop() -> bool:
        asked.append(None)
        return len(asked) > 2

    result = train(
        package,
        random_rows(),
        None,
        parameters,
        tmp_path / "output",
        checkpoints=tmp_path / "c",
        reporter=Heard(),
        stop=stop,
    )
    assert (result.outcome, result.steps, result.output) == ("stopped", 2, None)
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["checkpoint-00000002"]
    assert not (tmp_path / "output" / "adapter").exists()


def test_wrong_sizes_start_afresh_only_when_asked(package: ModelPackage, tmp_path: Path) -> None:
    from tunesmith.finetune.loading import load_base

    heard = Heard()
    model = load_base(
        package,
        FinetuneParameters(ignore_mismatched_sizes=True),
        dtype=torch.float32,
        device=torch.device("cpu"),
        reporter=heard,
    )
    assert torch.equal(model.lm_head.weight, load_model(package, dtype=torch.float32).lm_head.weight)
    assert heard.notices == []


@pytest.mark.heavy
def test_ten_straight_equal_a_kill_and_the_rest(package: ModelPackage, forked: Forks, tmp_path: Path) -> None:
    (tmp_path / "package").symlink_to(package.path)

    def run(kill_at: int, *places: str) -> int:
        process = forked.start("tests.finetune.cut_run", tmp_path, kill_at, *places, log=tmp_path / "log.txt")
        return process.wait(120)

    assert run(0, "straight", "s") == 0
    assert run(8, "cut", "c") == -signal.SIGKILL  # after the checkpoint of step 5
    assert not (tmp_path / "cut" / "adapter").exists()
    assert run(0, "cut", "c") == 0
    straight, cut = (TrainResult.read(tmp_path / name) for name in ("straight", "cut"))
    assert cut.resumed_from == 5
    assert cut.weights_sha256 == straight.weights_sha256
    for key in ("loss", "eval_loss", "grad_norm"):
        assert [p.values[key] for p in cut.history if key in p.values] == [
            p.values[key] for p in straight.history if key in p.values
        ]
    adapters = [
        (tmp_path / name / "adapter" / "adapter_model.safetensors").read_bytes() for name in ("straight", "cut")
    ]
    assert adapters[0] == adapters[1]


def test_rows_hash_sees_ids_and_loss_flags() -> None:
    from tunesmith.finetune.run import rows_sha256

    base = rows_sha256(MemoryRows([([1, 2, 3], [False, True, True])]))
    assert base != rows_sha256(MemoryRows([([1, 2, 4], [False, True, True])]))
    assert base != rows_sha256(MemoryRows([([1, 2, 3], [False, False, True])]))
