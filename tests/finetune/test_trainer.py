"""The loop: accumulation, resume, determinism, golden losses, evaluation, and every way to stop."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.finetune.support import Heard, MemoryRows, make_trainer, random_rows
from tunesmith.errors import Failure, InvalidData, NonFiniteLoss, OutOfMemory
from tunesmith.finetune.checkpoints import weights_sha256
from tunesmith.finetune.trainer import Trainer


def _weights(trainer: Trainer) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in trainer.optimiser.whole().items()}


def _losses(heard: Heard) -> list[float]:
    return [values["loss"] for _, values in heard.metrics if "loss" in values]


@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
def test_one_by_eight_equals_two_by_four_equals_eight_by_one(lora: bool, tmp_path: Path) -> None:
    rows = random_rows(16, seed=5)
    found = []
    for batch, accumulation in ((1, 8), (2, 4), (8, 1)):
        heard = Heard()
        trainer = make_trainer(
            tmp_path,
            train=rows,
            reporter=heard,
            run=f"run-{batch}",
            apply_lora=lora,
            packing=False,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            max_grad_norm=0,
        )
        # The same rows in the same step, however they are grouped.
        flat = list(range(16))
        steps = [[flat[start + i : start + i + batch] for i in range(0, 8, batch)] for start in (0, 8)]
        trainer.plan.step = steps.__getitem__  # type: ignore[method-assign,assignment]
        trainer.run()
        norms = [values["grad_norm"] for _, values in heard.metrics if "grad_norm" in values]
        found.append((_losses(heard), norms, _weights(trainer)))
    for losses, norms, weights in found[1:]:
        assert losses == pytest.approx(found[0][0], rel=1e-6)
        assert norms == pytest.approx(found[0][1], rel=1e-5)
        for name, weight in weights.items():
            torch.testing.assert_close(weight, found[0][2][name], rtol=1e-4, atol=2e-5)


def test_the_loss_is_the_mean_over_trained_tokens_not_over_rows(tmp_path: Path) -> None:
    rows = MemoryRows([([20, 21, 22], [False, False, True]), ([30, *range(40, 60)], [False, *[True] * 20])])
    heard = Heard()
    trainer = make_trainer(
        tmp_path, train=rows, reporter=heard, packing=False, gradient_accumulation_steps=2, max_steps=1
    )
    model = trainer.forward.model
    total = torch.zeros(())
    with torch.no_grad():
        for index in range(2):
            ids, trained = rows.row(index)
            logits = trainer.forward.model(
                input_ids=torch.tensor(ids)[None], attention_mask=None, use_cache=False, documents=(0, len(ids))
            ).logits[0]
            for place, flag in enumerate(trained):
                if flag:
                    total -= torch.log_softmax(logits[place - 1], -1)[ids[place]]
    assert model.training is False
    trainer.run()
    assert _losses(heard)[0] == pytest.approx(total.item() / 21, rel=1e-5)
    assert trainer.progress.trained_tokens == 21
    assert trainer.progress.tokens == 24


@pytest.mark.parametrize(
    "values",
    [
        {"apply_lora": True, "lora_dropout": 0.1},
        {"apply_lora": True, "neftune_noise_alpha": 5.0, "optim": "adafactor"},
        {"apply_lora": False, "precision": "bf16", "lr_scheduler_type": "cosine"},
        {"apply_lora": True, "use_dora": True, "dataloader_num_workers": 2},
    ],
    ids=["lora", "adafactor", "full bf16", "dora"],
)
def test_ten_straight_equal_five_and_five(values: dict[str, Any], tmp_path: Path) -> None:
    common = {"max_steps": 10, "gradient_accumulation_steps": 2, "evaluation_strategy": "disable", **values}
    straight_heard = Heard()
    straight = make_trainer(tmp_path, reporter=straight_heard, run="straight", **common)
    straight.run()

    first_heard, second_heard = Heard(), Heard()
    first = make_trainer(tmp_path, reporter=first_heard, run="cut", **common)
    first.stop = lambda: first.progress.step == 5
    assert first.run() == "stopped"
    torch.manual_seed(999)  # whatever the new process starts with must not matter
    second = make_trainer(tmp_path, reporter=second_heard, run="cut", **common)
    assert second.resume() == 5
    assert second.run() == "completed"

    assert _losses(first_heard) + _losses(second_heard) == _losses(straight_heard)
    assert weights_sha256(_weights(second)) == weights_sha256(_weights(straight))
    assert [(p.step, p.values["loss"]) for p in second.progress.history] == [
        (p.step, p.values["loss"]) for p in straight.progress.history
    ]


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, apply_lora=True, max_steps=2)
    trainer.identity = {"model": "a"}
    trainer.run()
    other = make_trainer(tmp_path, apply_lora=True, max_steps=2)
    other.identity = {"model": "b"}
    with pytest.raises(Failure, match="other values of model"):
        other.resume()


@pytest.mark.parametrize("lora", [True, False])
def test_the_same_seed_gives_the_same_bits_and_another_does_not(lora: bool, tmp_path: Path) -> None:
    hashes = []
    for index, seed in enumerate((7, 7, 8)):
        torch.manual_seed(index)  # seeding happens inside, before the adapter is made
        trainer = make_trainer(tmp_path, run=f"r{index}", apply_lora=lora, seed=seed, max_steps=3)
        trainer.run()
        hashes.append(weights_sha256(_weights(trainer)))
    assert hashes[0] == hashes[1] != hashes[2]


GOLDEN = {
    ("lora", "packed", 1): [6.231127, 6.267317, 6.158539],
    ("lora", "packed", 2): [6.257011, 6.213183, 6.259792],
    ("lora", "alone", 1): [6.204937, 6.24809, 6.286975],
    ("lora", "alone", 2): [6.216715, 6.258259, 6.151857],
    ("full", "packed", 1): [6.231127, 6.27211, 6.162184],
    ("full", "packed", 2): [6.257011, 6.200763, 6.27854],
    ("full", "alone", 1): [6.204937, 6.209836, 6.290457],
    ("full", "alone", 2): [6.216715, 6.263287, 6.164108],
    ("dora", "packed", 1): [6.231127, 6.266154, 6.150958],
    ("dora", "packed", 2): [6.257011, 6.21077, 6.265641],
    ("dora", "alone", 1): [6.204937, 6.243795, 6.286159],
    ("dora", "alone", 2): [6.216715, 6.257664, 6.151574],
}


@pytest.mark.parametrize(("kind", "rows", "accumulation"), list(GOLDEN))
def test_golden_losses(kind: str, rows: str, accumulation: int, tmp_path: Path) -> None:
    heard = Heard()
    make_trainer(
        tmp_path,
        reporter=heard,
        apply_lora=kind != "full",
        use_dora=kind == "dora",
        packing=rows == "packed",
        gradient_accumulation_steps=accumulation,
        max_steps=3,
        evaluation_strategy="disable",
    ).run()
    assert _losses(heard) == pytest.approx(GOLDEN[kind, rows, accumulation], abs=2e-4)


def test_what_is_reported(tmp_path: Path) -> None:
    heard = Heard()
    make_trainer(
        tmp_path, reporter=heard, validation=random_rows(3, seed=9), apply_lora=True, num_train_epochs=2, warmup_steps=2
    ).run()
    first = heard.metrics[0][1]
    assert set(first) == {
        "loss", "learning_rate", "grad_norm", "tokens_per_second", "trained_tokens", "memory_bytes", "epoch",
    }  # fmt: skip
    assert first["learning_rate"] == 0.0
    assert heard.metrics[1][1]["learning_rate"] == 5e-4
    evaluations = [(step, values) for step, values in heard.metrics if "eval_loss" in values]
    assert len(evaluations) == 2
    assert evaluations[0][1]["eval_perplexity"] == pytest.approx(math.exp(evaluations[0][1]["eval_loss"]))
    done, total = heard.phases["train"]
    assert done == total
    assert {"loss", "tokens_per_second", "eta_s"} <= set(heard.values)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"evaluation_strategy": "epoch"}, [6, 12]),
        ({"evaluation_strategy": "steps", "eval_steps": 5}, [5, 10, 12]),
        ({"evaluation_strategy": "steps", "evaluation_steps_interval": 0.5, "eval_steps": 5}, [3, 6, 9, 12]),
        ({"evaluation_strategy": "disable"}, []),
    ],
)
def test_when_it_evaluates(values: dict[str, Any], expected: list[int], tmp_path: Path) -> None:
    heard = Heard()
    make_trainer(
        tmp_path,
        reporter=heard,
        validation=random_rows(2, seed=9),
        apply_lora=True,
        packing=False,
        gradient_accumulation_steps=2,
        num_train_epochs=2,
        **values,
    ).run()
    assert [step for step, found in heard.metrics if "eval_loss" in found] == expected


def test_the_best_model_is_the_result_and_survives_the_limit(tmp_path: Path) -> None:
    trainer = make_trainer(
        tmp_path,
        validation=random_rows(4, seed=9),
        apply_lora=True,
        num_train_epochs=8,
        learning_rate=3e-2,
        save_total_limit=1,
    )
    trainer.run()
    losses = {
        point.step: point.values["eval_loss"] for point in trainer.progress.history if "eval_loss" in point.values
    }
    best = min(losses, key=lambda step: losses[step])
    assert best < trainer.progress.step
    assert trainer.checkpoints.steps() == [best, trainer.progress.step]
    assert trainer.take_best() == best
    result = trainer.evaluate()
    assert result is not None
    assert result.loss == pytest.approx(losses[best], rel=1e-6)


def test_early_stopping_waits_patiently(tmp_path: Path) -> None:
    trainer = make_trainer(
        tmp_path,
        validation=random_rows(4, seed=9),
        apply_lora=True,
        num_train_epochs=30,
        learning_rate=3e-2,
        apply_early_stopping=True,
        early_stopping_patience=2,
    )
    assert trainer.run() == "early_stopping"
    losses = [point.values["eval_loss"] for point in trainer.progress.history if "eval_loss" in point.values]
    best = losses.index(min(losses))
    assert len(losses) == best + 3


def test_a_stop_in_the_middle_of_an_evaluation_is_made_up_for(tmp_path: Path) -> None:
    common: dict[str, Any] = {"apply_lora": True, "num_train_epochs": 2, "validation": random_rows(3, seed=9)}
    straight = make_trainer(tmp_path, run="straight", **common)
    straight.run()
    cut = make_trainer(tmp_path, run="cut", **common)
    calls = []

    def stop() -> bool:
        calls.append(cut.progress.step)
        return calls.count(cut.plan.steps_per_epoch) > 1  # inside the first evaluation

    cut.stop = stop
    assert cut.run() == "stopped"
    again = make_trainer(tmp_path, run="cut", **common)
    again.resume()
    again.run()
    evaluations = [
        [(point.step, point.values["eval_loss"]) for point in trainer.progress.history if "eval_loss" in point.values]
        for trainer in (straight, again)
    ]
    assert evaluations[0] == evaluations[1]


def test_the_time_budget_ends_with_the_best_model(tmp_path: Path) -> None:
    heard = Heard()
    trainer = make_trainer(
        tmp_path,
        reporter=heard,
        validation=random_rows(2, seed=9),
        apply_lora=True,
        num_train_epochs=500,
        max_minutes=0.005,
    )
    assert trainer.run() == "max_minutes"
    assert 0 < trainer.progress.step < trainer.total_steps
    assert trainer.progress.evaluated_at == trainer.progress.step
    assert "TimeBudget" in [code for code, _ in heard.notices]


def test_a_loss_that_is_no_number_stops_at_a_checkpoint_that_resumes(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, apply_lora=True, max_steps=6, lora_alpha=128)
    whole = trainer.forward.loss

    def poisoned(batch: Any) -> Tensor:
        return whole(batch) * (float("nan") if trainer.progress.step == 3 else 1.0)

    trainer.forward.loss = poisoned  # type: ignore[method-assign]
    with pytest.raises(NonFiniteLoss) as caught:
        trainer.run()
    assert "at optimiser step 4" in caught.value.message
    assert len(caught.value.details) == 3
    assert caught.value.extra["rows"]
    again = make_trainer(tmp_path, apply_lora=True, max_steps=6, lora_alpha=128)
    assert again.resume() == 3
    assert again.run() == "completed"


def test_memory_that_runs_out_names_three_remedies(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_steps=2, per_device_train_batch_size=4)

    def hungry(batch: Any) -> Tensor:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes")

    trainer.forward.loss = hungry  # type: ignore[method-assign]
    with pytest.raises(OutOfMemory) as caught:
        trainer.run()
    remedies = caught.value.extra["remedies"]
    assert len(remedies) == 3
    assert all(remedy["saves_bytes"] > 0 for remedy in remedies)
    assert "the same numbers" in remedies[0]["change"]


def test_the_batch_size_is_found_and_changes_no_number(tmp_path: Path) -> None:
    common: dict[str, Any] = {"apply_lora": True, "max_steps": 3, "per_device_train_batch_size": 6, "packing": False}
    roomy_heard, heard = Heard(), Heard()
    make_trainer(tmp_path, reporter=roomy_heard, run="roomy", **common).run()
    trainer = make_trainer(tmp_path, reporter=heard, run="tight", auto_find_batch_size=True, **common)
    whole = trainer.forward.loss

    def tight(batch: Any) -> Tensor:
        if len(batch.ids) > 60:
            raise torch.OutOfMemoryError("out of memory")
        return whole(batch)

    trainer.forward.loss = tight  # type: ignore[method-assign]
    trainer.run()
    assert _losses(heard) == pytest.approx(_losses(roomy_heard), rel=1e-5)
    assert "BatchSizeFound" in {code for code, _ in heard.notices}


def test_another_error_is_not_taken_for_memory(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_steps=1)

    def broken(batch: Any) -> Tensor:
        raise RuntimeError("shapes do not fit")

    trainer.forward.loss = broken  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        trainer.run()


def test_a_row_without_loss_stops_the_run_by_its_number(tmp_path: Path) -> None:
    rows = MemoryRows([([20, 21, 22], [True, False, False])])
    with pytest.raises(InvalidData, match="row 0"):
        make_trainer(tmp_path, train=rows, apply_lora=True).run()


def test_padding_to_the_length_changes_no_number(tmp_path: Path) -> None:
    plain, padded = Heard(), Heard()
    make_trainer(tmp_path, reporter=plain, run="plain", apply_lora=True, max_steps=2).run()
    make_trainer(tmp_path, reporter=padded, run="padded", apply_lora=True, max_steps=2, pad_to_max_length=True).run()
    assert _losses(padded) == pytest.approx(_losses(plain), rel=1e-5)
