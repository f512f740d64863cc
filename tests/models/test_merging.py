from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models.adapters import random_adapter
from tests.models.conftest import Listener
from tunesmith.chat.messages import Conversation, Message
from tunesmith.errors import AlreadyExists, Failure, InvalidModel
from tunesmith.models import MergeReport, ModelPackage, load_model, merge_adapter
from tunesmith.models.parity import GreedyProbe, Parity, ParityBound, compare_logits

IDS = torch.tensor([[5, 7, 300, 41, 9, 12, 255, 8, 77, 3, 100, 411]])


def unmerged_logits(package: ModelPackage, adapter: Path) -> torch.Tensor:
    from tunesmith.models.merging import _with_adapter

    with torch.inference_mode():
        logits: torch.Tensor = _with_adapter(load_model(package, dtype="float32"), adapter)(IDS).logits
    return logits


@pytest.fixture(scope="module")
def adapter(llama: ModelPackage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_adapter(llama, tmp_path_factory.mktemp("adapter") / "adapter")


def test_merged_model_says_what_the_unmerged_one_says(
    llama: ModelPackage, adapter: Path, tmp_path: Path, listener: Listener
) -> None:
    report = merge_adapter(llama, adapter, tmp_path / "merged", reporter=listener)
    merged = ModelPackage.open(tmp_path / "merged", full=True)
    with torch.inference_mode():
        base = load_model(llama)(IDS).logits
        ours = load_model(merged)(IDS).logits
    wanted = unmerged_logits(llama, adapter)
    torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-4)
    assert report.adapter_effect.max_abs_logit_diff > 0.1
    assert (base - wanted).abs().max() > 0.1
    assert report.merged_modules == 14
    assert report.base_sha256 == llama.sha256
    assert report.dtype == "float32"
    assert report.stored.tokens > 100
    assert report.stored.mean_kl < 1e-6
    assert report.stored.top1_agreement == 1.0
    assert report.greedy_agreement == 1.0
    assert report.faults() == []
    assert MergeReport.read(merged) == report
    assert MergeReport.read(llama) is None
    assert merged.manifest.origin.source == f"tuned:{llama.sha256}"
    assert merged.manifest.origin.sha256 == report.adapter_sha256
    assert merged.manifest.chat_contract == llama.manifest.chat_contract
    assert listener.progressed["merge"][-1:] == [(5, 5)]
    assert "mean KL" in listener.logs[-1]


def test_rounding_shows_in_the_stored_numbers_only(llama: ModelPackage, adapter: Path, tmp_path: Path) -> None:
    report = merge_adapter(llama, adapter, tmp_path / "merged", dtype=torch.bfloat16)
    assert ModelPackage.open(tmp_path / "merged").manifest.dtype == "bfloat16"
    assert report.before_rounding.max_abs_logit_diff < 1e-4 < report.stored.max_abs_logit_diff
    assert report.before_rounding.mean_kl < report.stored.mean_kl < report.bound.mean_kl


@pytest.mark.parametrize(
    "settings",
    [
        {"use_dora": True},
        {"use_rslora": True, "r": 8},
        {"target_modules": ["q_proj", "v_proj"], "lora_alpha": 64},
        {"modules_to_save": ["model.norm"]},
    ],
    ids=["dora", "rslora", "two-layers", "norm-saved"],
)
def test_other_kinds_of_adapter(llama: ModelPackage, tmp_path: Path, settings: dict[str, Any]) -> None:
    adapter = random_adapter(llama, tmp_path / "adapter", **settings)
    report = merge_adapter(llama, adapter, tmp_path / "merged")
    with torch.inference_mode():
        ours = load_model(ModelPackage.open(tmp_path / "merged"))(IDS).logits
    torch.testing.assert_close(ours, unmerged_logits(llama, adapter), rtol=1e-3, atol=1e-3)
    assert report.faults() == []


def test_adapter_of_the_trainer_merges(llama: ModelPackage, tmp_path: Path) -> None:
    """The trainer writes its own adapters; they are PEFT's to read."""
    from tests.models.adapters import random_adapter as peft_adapter

    adapter = peft_adapter(llama, tmp_path / "adapter")
    config = json.loads((adapter / "adapter_config.json").read_text())
    whole = [
        f"model.layers.{layer}.{part}"
        for layer in range(2)
        for part in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
    ] + [f"model.layers.{layer}.mlp.{part}_proj" for layer in range(2) for part in ("gate", "up", "down")]
    few = {key: config[key] for key in ("peft_type", "task_type", "r", "lora_alpha", "lora_dropout", "bias")}
    few |= {"target_modules": whole, "base_model_name_or_path": "not/asked", "inference_mode": True}
    (adapter / "adapter_config.json").write_text(json.dumps(few))
    assert merge_adapter(llama, adapter, tmp_path / "merged").merged_modules == 14


def test_probes_may_be_given(llama: ModelPackage, adapter: Path, tmp_path: Path) -> None:
    rows = [
        Conversation((Message("user", f"What about fox {i}? " * 10), Message("assistant", "It is painting.")))
        for i in range(30)
    ]
    report = merge_adapter(llama, adapter, tmp_path / "merged", probes=rows)
    assert report.stored.tokens == 512  # enough rows for the budget, the last one cut
    few = merge_adapter(llama, adapter, tmp_path / "few", probes=rows[:2])
    tokenizer = llama.tokenizer()
    assert few.stored.tokens == sum(len(tokenizer.encode(row).ids) for row in rows[:2])


def test_beyond_the_bound_is_an_error_with_numbers_and_leaves_nothing(
    llama: ModelPackage, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tunesmith.models.merging as module

    monkeypatch.setitem(module.BOUNDS, "bfloat16", ParityBound(mean_kl=1e-12, max_kl=1e-12))
    with pytest.raises(Failure, match=r"stored as bfloat16: mean KL .* nats, allowed 1e-12") as caught:
        merge_adapter(llama, adapter, tmp_path / "merged", dtype="bfloat16")
    assert caught.value.extra["stored"]["mean_kl"] > 1e-12
    assert caught.value.way_out
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_merge_does_not_hide_behind_rounding(
    llama: ModelPackage, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft.tuners.lora import Linear

    right = Linear.get_delta_weight
    monkeypatch.setattr(Linear, "get_delta_weight", lambda self, name: right(self, name) * 0.98)
    with pytest.raises(Failure, match="before rounding: mean KL"):
        merge_adapter(llama, adapter, tmp_path / "merged", dtype="bfloat16")


def test_adapter_of_another_model(llama: ModelPackage, phi3: ModelPackage, tmp_path: Path) -> None:
    adapter = random_adapter(phi3, tmp_path / "adapter")
    with pytest.raises(InvalidModel, match="does not fit this base model"):
        merge_adapter(llama, adapter, tmp_path / "merged")


def test_adapter_of_another_size(llama: ModelPackage, tmp_path: Path) -> None:
    adapter = random_adapter(llama, tmp_path / "adapter")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "r": 16}))
    with pytest.raises(InvalidModel, match="does not fit this base model"):
        merge_adapter(llama, adapter, tmp_path / "merged")


def test_adapter_whose_tensors_find_no_place(llama: ModelPackage, tmp_path: Path) -> None:
    adapter = random_adapter(llama, tmp_path / "adapter")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "target_modules": ["q_proj"]}))
    with pytest.raises(InvalidModel, match="does not fit this base model"):
        merge_adapter(llama, adapter, tmp_path / "merged")


def test_adapter_that_unties_the_output_layer(llama: ModelPackage, tmp_path: Path) -> None:
    adapter = random_adapter(llama, tmp_path / "adapter", modules_to_save=["lm_head"])
    with pytest.raises(InvalidModel, match=r"lm_head|does not fit"):
        merge_adapter(llama, adapter, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_folders_that_are_no_adapter(llama: ModelPackage, adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match=r"no LoRA adapter: it has no adapter_config"):
        merge_adapter(llama, llama.path, tmp_path / "merged")
    shutil.copytree(adapter, tmp_path / "pickled")
    (tmp_path / "pickled" / "adapter_model.safetensors").rename(tmp_path / "pickled" / "adapter_model.bin")
    with pytest.raises(InvalidModel, match=r"pickled file \(adapter_model.bin\), which is never loaded"):
        merge_adapter(llama, tmp_path / "pickled", tmp_path / "merged")
    shutil.copytree(adapter, tmp_path / "cut")
    content = (adapter / "adapter_model.safetensors").read_bytes()
    (tmp_path / "cut" / "adapter_model.safetensors").write_bytes(content[:-9])
    with pytest.raises(InvalidModel, match="cut short"):
        merge_adapter(llama, tmp_path / "cut", tmp_path / "merged")
    with pytest.raises(AlreadyExists):
        merge_adapter(llama, adapter, tmp_path / "cut")


def test_adapter_that_changes_nothing_is_said(llama: ModelPackage, tmp_path: Path, listener: Listener) -> None:
    adapter = random_adapter(llama, tmp_path / "adapter", scale=0.0)
    report = merge_adapter(llama, adapter, tmp_path / "merged", reporter=listener)
    assert [code for code, _, _ in listener.notices] == ["AdapterWithoutEffect"]
    assert report.adapter_effect.max_abs_logit_diff == 0.0
    merged = ModelPackage.open(tmp_path / "merged")
    assert merged.manifest.files["model.safetensors"] == llama.manifest.files["model.safetensors"]


def test_parity_numbers_are_exact() -> None:
    a = torch.tensor([[0.0, 0.0], [2.0, 0.0]])
    b = torch.tensor([[0.0, 0.0], [0.0, 2.0]])
    same = compare_logits([a], [a])
    assert same == Parity(
        tokens=2,
        max_abs_logit_diff=0.0,
        mean_abs_logit_diff=0.0,
        mean_kl=0.0,
        max_kl=0.0,
        top1_agreement=1.0,
    )
    other = compare_logits([a], [b])
    p = torch.softmax(torch.tensor([2.0, 0.0], dtype=torch.float64), 0)
    kl = float(2.0 * (p[0] - p[1]))  # log-probabilities differ by ±2 between the two rows
    assert other.max_abs_logit_diff == 2.0
    assert other.mean_abs_logit_diff == 1.0
    assert other.max_kl == pytest.approx(kl, rel=1e-6)
    assert other.mean_kl == pytest.approx(kl / 2, rel=1e-6)
    assert other.top1_agreement == 0.5


def test_not_a_number_is_never_within_the_bound() -> None:
    a = torch.zeros(2, 3)
    broken = torch.tensor([[0.0, 0.0, 0.0], [float("nan"), 0.0, 0.0]])
    parity = compare_logits([a], [broken])
    assert len(ParityBound(mean_kl=1e9, max_kl=1e9).faults(parity)) == 2


def test_greedy_agreement_ends_at_the_first_difference() -> None:
    assert GreedyProbe(prompt=(1,), reference=(5, 6, 7, 8), other=(5, 6, 9, 8)).agree == 2
    assert GreedyProbe(prompt=(1,), reference=(5, 6), other=(5,)).agree == 1
