from __future__ import annotations

from typing import Any

import numpy
import pytest

from tests.finetune.support import random_model
from tunesmith.finetune.batches import Plan
from tunesmith.finetune.estimates import ModelShape, estimate, memory_remedies
from tunesmith.finetune.lora import add_adapters
from tunesmith.finetune.parameters import FinetuneParameters
from tunesmith.finetune.sharding.settings import ShardingSettings

SMOL = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
    "max_position_embeddings": 8192,
}
LENGTHS = [460] * 400


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3", "gemma3"])
def test_the_counts_are_the_models(family: str) -> None:
    model = random_model(family)
    shape = ModelShape.of(model.config.to_dict())
    counted = sum(weight.numel() for weight in model.parameters())
    assert shape.parameters == pytest.approx(counted, rel=0.02)
    add_adapters(model, FinetuneParameters(apply_lora=True, lora_r=4))
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert 4 * shape.adapter_features == trained


def test_smollm2() -> None:
    assert ModelShape.of(SMOL).parameters == 134_515_008
    lora = estimate(SMOL, FinetuneParameters(apply_lora=True, max_seq_length=1024), LENGTHS, flops=1e11)
    assert lora.trainable_parameters == 2_442_240
    assert lora.steps == 200  # two rows of 460 tokens fit into 1,024
    assert 1.5e9 < lora.memory_bytes < 4e9
    assert sum(lora.parts.values()) == lora.memory_bytes
    full = estimate(SMOL, FinetuneParameters(max_seq_length=1024), LENGTHS, flops=1e11)
    assert full.memory_bytes > lora.memory_bytes
    assert full.seconds is not None and lora.seconds is not None
    assert full.seconds > lora.seconds
    assert estimate(SMOL, FinetuneParameters(), LENGTHS).seconds is None
    assert full.disk_bytes > 10 * lora.disk_bytes


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"packing": False, "per_device_train_batch_size": 3},
        {"max_seq_length": 64, "gradient_accumulation_steps": 2, "num_train_epochs": 3},
        {"max_steps": 7},
    ],
)
def test_the_steps_are_those_that_the_trainer_makes(values: dict[str, Any]) -> None:
    lengths = numpy.random.default_rng(1).integers(5, 60, 200).tolist()
    parameters = FinetuneParameters(**values)
    plan = Plan(lengths, parameters, 512)
    found = estimate(SMOL, parameters, lengths, context_length=512)
    assert found.steps == plan.total_steps
    for epoch in range(parameters.num_train_epochs):
        assert len(plan.epoch(epoch)) == plan.steps_per_epoch
    if "max_steps" not in values:
        assert found.tokens == sum(lengths) * parameters.num_train_epochs


def test_two_processes_take_half_the_steps() -> None:
    lengths = [30] * 40
    parameters = FinetuneParameters(packing=False, num_train_epochs=2)
    found = estimate(SMOL, parameters, lengths, context_length=512, processes=2)
    assert found.steps == Plan(lengths, parameters, 512, world=2).total_steps == 40
    assert found.tokens == 2 * sum(lengths)


def test_twice_the_rate_is_half_the_time() -> None:
    one = estimate(SMOL, FinetuneParameters(apply_lora=True), LENGTHS, flops=1e11)
    two = estimate(SMOL, FinetuneParameters(apply_lora=True), LENGTHS, flops=2e11)
    assert one.seconds is not None and two.seconds is not None
    assert one.seconds == pytest.approx(2 * two.seconds)


@pytest.mark.parametrize(
    "change",
    [{"gradient_checkpointing": True}, {"precision": "bf16"}, {"apply_lora": True}, {"optim": "adafactor"}],
)
def test_each_remedy_saves(change: dict[str, object]) -> None:
    base = {"max_seq_length": 1024, "per_device_train_batch_size": 4}
    before = estimate(SMOL, FinetuneParameters(**base), LENGTHS).memory_bytes  # type: ignore[arg-type]
    assert estimate(SMOL, FinetuneParameters(**base, **change), LENGTHS).memory_bytes < before  # type: ignore[arg-type]


def test_remedies_that_keep_the_numbers_come_first() -> None:
    remedies = memory_remedies(SMOL, FinetuneParameters(max_seq_length=1024), LENGTHS)
    assert len(remedies) == 3
    assert "the same numbers" in remedies[0].change
    assert all(remedy.saves_bytes > 0 for remedy in remedies)


def test_what_deepspeed_divides() -> None:
    parameters = FinetuneParameters(precision="bf16", apply_deepspeed=True)

    def parts(stage: int, **zero: Any) -> tuple[int, int]:
        sharding = ShardingSettings(stage, {"zero_optimization": zero})
        found = estimate(SMOL, parameters, LENGTHS, processes=4, sharding=sharding).parts
        return found["weights"], found["gradients and optimiser"]

    count = 134_515_008
    # Gradients are 4 bytes a weight; the fp32 copy and AdamW's moments 12.
    assert parts(1) == (2 * count, 4 * count + 3 * count)
    assert parts(2) == (2 * count, count + 3 * count)
    assert parts(3) == (count // 2, count + 3 * count)
    assert parts(3, offload_optimizer={"device": "cpu"}, offload_param={"device": "cpu"}) == (0, 0)


def test_no_remedy_is_refused_with_deepspeed() -> None:
    remedies = memory_remedies(SMOL, FinetuneParameters(apply_deepspeed=True, apply_lora=True), LENGTHS, count=9)
    assert not [remedy for remedy in remedies if "adafactor" in remedy.change]
