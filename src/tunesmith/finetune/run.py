"""A whole fine-tuning run: from a model package and prepared rows to an adapter or a tuned package.

Writes into ``output``: ``adapter/`` (PEFT's format) or ``package/`` (all weights), ``train_result.json`` and
``run.lock``.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
import torch

from tunesmith.errors import OutOfMemory, ValidationFailed
from tunesmith.finetune.adapters import save_adapter
from tunesmith.finetune.batches import Plan, Rows
from tunesmith.finetune.checkpoints import Checkpoints, weights_sha256
from tunesmith.finetune.distributed import Group
from tunesmith.finetune.estimates import estimate, memory_remedies
from tunesmith.finetune.fast import Tricks
from tunesmith.finetune.forward import ChatForward
from tunesmith.finetune.limits import PIECE_TOKENS
from tunesmith.finetune.loading import load_base
from tunesmith.finetune.lora import add_adapters
from tunesmith.finetune.memory import available_bytes, peak_bytes
from tunesmith.finetune.parameters import FinetuneParameters
from tunesmith.finetune.precision import Precision, choose_precision
from tunesmith.finetune.result import KeepingReporter, TrainResult, environment, write_lock
from tunesmith.finetune.seeding import seed_everything
from tunesmith.finetune.sharding.settings import ShardingSettings, resolve, usable
from tunesmith.finetune.trainer import Trainer
from tunesmith.finetune.waivers import say_waivers
from tunesmith.reporting import Reporter

if TYPE_CHECKING:
    from tunesmith.models import ModelPackage


def train(
    package: ModelPackage,
    train: Rows,
    validation: Rows | None,
    parameters: FinetuneParameters,
    output: Path,
    *,
    checkpoints: Path,
    reporter: Reporter,
    stop: Callable[[], bool] = lambda: False,
) -> TrainResult:
    """Fine-tune ``package`` on ``train`` and write the result to ``output``.

    ``checkpoints`` is a folder that survives a restart; with ``resume_from_checkpoint`` the run goes on from there.
    ``stop`` is asked before every optimiser step: when true, a checkpoint is written and the result's ``outcome`` is
    ``stopped``, with nothing but it in ``output``.

    Raises:
        ValidationFailed: a parameter does not fit the model.
        InvalidData: a row without a trained token, or one that is too long.
        OutOfMemory, NonFiniteLoss, DiskFull: the run cannot go on; the message has the cause and remedies, and a
        checkpoint resumes.
    """
    gpu = torch.cuda.is_available()
    sharded = parameters.apply_deepspeed and usable(gpu=gpu)
    group = Group(alone=sharded)
    keeping = KeepingReporter(reporter)
    try:
        device = torch.device("cuda", group.local_rank) if gpu else torch.device("cpu")
        config = package.config()
        text = config.get("text_config", config)
        say_waivers(parameters, device=device, world=group.world, reporter=keeping)
        # Seeding comes before anything random, the adapter's start above all.
        seed_everything(parameters.seed, deterministic=parameters.enable_full_determinism)
        precision = choose_precision(
            parameters.precision,
            device=device,
            width=int(text["hidden_size"]),
            outputs=int(text.get("intermediate_size") or 4 * int(text["hidden_size"])),
            reporter=keeping,
        )
        sharding = _sharding(parameters, group, precision, int(text["hidden_size"]), keeping) if sharded else None
        _forecast(config, package, parameters, train, device, group.world, keeping, sharding)
        model = load_base(
            package,
            parameters,
            dtype=precision.dtype,
            # With stage 3 no GPU has room for all weights: the engine takes them from the machine's memory, one by one.
            device=torch.device("cpu") if sharding is not None and sharding.stage == 3 else device,
            reporter=keeping,
        )
        trainer = prepare(
            model,
            train,
            validation,
            parameters,
            context_length=package.manifest.context_length,
            checkpoints=Checkpoints(checkpoints, keep=parameters.save_total_limit, reporter=keeping),
            reporter=keeping,
            stop=stop,
            group=group,
            identity={
                "model": package.sha256,
                "train": rows_sha256(train),
                "validation": rows_sha256(validation) if validation is not None else None,
                "parameters": _identity(parameters),
                "precision": precision.used,
                # The engine's checkpoints hold its own state: the plain trainer's cannot be gone on from there.
                "deepspeed": "sharded" if sharding is not None else None,
            },
            sharding=sharding,
        )
        resumed = _start(trainer, parameters, keeping)
        outcome = trainer.run()
        best = None if outcome == "stopped" else trainer.take_best()
        result = _result(trainer, outcome, best, resumed, precision, keeping)
        if outcome != "stopped":
            trainer.finish()
        if not group.main:
            return result
        output.mkdir(parents=True, exist_ok=True)
        if outcome != "stopped":
            _write_weights(trainer, package, parameters, output)
        result.write(output)
        write_lock(output, _lock(trainer, package, parameters, precision))
        return result
    finally:
        group.close()


def prepare(
    model: Any,
    train: Rows,
    validation: Rows | None,
    parameters: FinetuneParameters,
    *,
    context_length: int,
    checkpoints: Checkpoints,
    reporter: Reporter,
    stop: Callable[[], bool] = lambda: False,
    group: Group | None = None,
    identity: dict[str, Any] | None = None,
    tricks: Tricks | None = None,
    sharding: ShardingSettings | None = None,
) -> Trainer:
    """A trainer for a loaded transformers ``model``: adapters put on it, or every weight set to be trained; with
    ``sharding`` in DeepSpeed's engine.

    Seed before calling: the adapters' start is random.
    """
    group = group or Group()
    if parameters.apply_lora:
        add_adapters(model, parameters)
    else:
        for weight in model.parameters():
            weight.requires_grad_(True)
    if parameters.gradient_checkpointing:
        checkpoint_activations(model)
    forward = ChatForward(
        model,
        wanted=parameters.attention,
        neftune_noise_alpha=parameters.neftune_noise_alpha,
        reporter=reporter,
        # The quick paths read weights across modules, which a sharded model does not have whole.
        tricks=Tricks.none() if sharding is not None else tricks,
    )
    plan = Plan(train.lengths, parameters, context_length, world=group.world)
    named: dict[str, Any] = {
        "checkpoints": checkpoints,
        "reporter": reporter,
        "stop": stop,
        "group": group,
        "identity": identity,
    }
    if sharding is not None:
        from tunesmith.finetune.sharding.trainer import ShardedTrainer

        return ShardedTrainer(forward, plan, train, validation, parameters, sharding=sharding, **named)
    piece_tokens = PIECE_TOKENS if forward.device.type == "cpu" else None
    return Trainer(forward, plan, train, validation, parameters, piece_tokens=piece_tokens, **named)


def _sharding(
    parameters: FinetuneParameters, group: Group, precision: Precision, hidden: int, reporter: Reporter
) -> ShardingSettings | None:
    """DeepSpeed's settings for this run, with what it says of them; ``None`` where nothing is sharded."""
    settings, faults = resolve(parameters, world=group.world, bf16=precision.dtype == torch.bfloat16, hidden=hidden)
    if settings is None:
        raise ValidationFailed("DeepSpeed cannot run with these parameters", details=faults)
    for note in settings.notes:
        reporter.notice("DeepSpeedFile", note, level="info")
    if settings.stage == 0:
        reporter.notice(
            "NothingSharded",
            "deepspeed: ZeRO stage 0 shards nothing; the trainer itself divides the steps among the processes, which "
            "gives the same numbers",
            level="info",
        )
        return None
    away = f", {' and '.join(settings.offloads)} in the machine's memory" if settings.offloads else ""
    reporter.log(f"DeepSpeed shards over {group.world} processes: ZeRO stage {settings.stage}{away}")
    return settings


def checkpoint_activations(model: Any) -> None:
    """Keep only each layer's input for the backward pass; ``gradient_checkpointing``."""
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable()
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def rows_sha256(rows: Rows) -> str:
    """One hash over the ids and loss flags of all rows."""
    digest = hashlib.sha256()
    for index in range(len(rows.lengths)):
        ids, trained = rows.row(index)
        digest.update(numpy.asarray(ids, dtype=numpy.int32).tobytes())
        digest.update(numpy.packbits(numpy.asarray(trained, dtype=bool)).tobytes())
    return digest.hexdigest()


_FREE = frozenset(
    {
        "resume_from_checkpoint",
        "save_total_limit",
        "logging_steps",
        "logging_strategy",
        "max_minutes",
        "dataloader_num_workers",
        "merge_lora_weights",
        "gradient_checkpointing",
    }
)
"""Parameters that may differ between a run and its resumption: they change no update."""


def _identity(parameters: FinetuneParameters) -> dict[str, Any]:
    return {name: value for name, value in parameters.to_dict().items() if name not in _FREE}


def _start(trainer: Trainer, parameters: FinetuneParameters, reporter: Reporter) -> int | None:
    if not parameters.resume_from_checkpoint:
        if trainer.group.main:
            trainer.checkpoints.clear()
        trainer.group.barrier()
        return None
    step = trainer.resume()
    if step is None:
        reporter.notice("NothingToResume", "there is no checkpoint to resume from; the run starts afresh", level="info")
    else:
        reporter.log(f"resumed from optimiser step {step} of {trainer.total_steps}")
    return step


def _forecast(
    config: Mapping[str, Any],
    package: ModelPackage,
    parameters: FinetuneParameters,
    rows: Rows,
    device: torch.device,
    processes: int,
    reporter: Reporter,
    sharding: ShardingSettings | None = None,
) -> None:
    """Say what the run will need; refuse it when its weights alone do not fit."""
    expected = estimate(
        config,
        parameters,
        rows.lengths,
        parameter_count=package.manifest.parameter_count,
        context_length=package.manifest.context_length,
        processes=processes,
        sharding=sharding,
    )
    free = available_bytes(device)
    reporter.log(
        f"{expected.steps:,} optimiser steps, {expected.tokens:,} tokens, "
        f"{expected.trainable_parameters:,} weights trained; about "
        f"{expected.memory_bytes / 1e9:.1f} GB of memory ({free / 1e9:.1f} GB free) and "
        f"{expected.disk_bytes / 1e6:,.0f} MB of disk"
    )
    if expected.memory_bytes <= free:
        return
    remedies = memory_remedies(
        config,
        parameters,
        rows.lengths,
        context_length=package.manifest.context_length,
        processes=processes,
        sharding=sharding,
    )
    words = f"the run needs about {expected.memory_bytes / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB are free"
    ways = "; ".join(str(remedy) for remedy in remedies)
    if expected.parts["weights"] > free:
        raise OutOfMemory(words + ": its weights alone do not fit", way_out=f"one of: {ways}")
    reporter.notice("MemoryTight", f"{words}; if it does not do: {ways}")


def _result(
    trainer: Trainer,
    outcome: Any,
    best: int | None,
    resumed: int | None,
    precision: Precision,
    reporter: KeepingReporter,
) -> TrainResult:
    progress, model = trainer.progress, trainer.forward.model
    weights = trainer.optimiser.whole()
    return TrainResult(
        outcome=outcome,
        steps=progress.step,
        total_steps=trainer.total_steps,
        steps_per_epoch=trainer.plan.steps_per_epoch,
        train_loss=progress.last_loss,
        best_step=best,
        best_metric=progress.best_metric,
        metric_for_best_model=trainer.parameters.metric_for_best_model,
        tokens=progress.tokens,
        trained_tokens=progress.trained_tokens,
        seconds=progress.seconds,
        evaluation_seconds=progress.evaluation_seconds,
        tokens_per_second=progress.tokens / progress.seconds if progress.seconds else 0.0,
        peak_memory_bytes=peak_bytes(trainer.forward.device),
        parameters=sum(elements(weight) for weight in model.parameters()),
        trainable_parameters=sum(elements(weight) for weight in model.parameters() if weight.requires_grad),
        learning_rate=trainer.parameters.learning_rate,
        rate_search=progress.rate_search,
        precision={"asked": precision.asked, "used": precision.used, "rates": precision.rates},
        attention=trainer.forward.path,
        resumed_from=resumed,
        weights_sha256=weights_sha256(weights),
        losses=progress.losses,
        history=progress.history,
        notices=reporter.notices,
        output=None if outcome == "stopped" else ("adapter" if trainer.parameters.apply_lora else "package"),
    )


def elements(weight: torch.Tensor) -> int:
    """The numbers in a weight, also in one of which this process holds a shard."""
    return int(getattr(weight, "ds_numel", weight.numel()))


def _write_weights(trainer: Trainer, package: ModelPackage, parameters: FinetuneParameters, output: Path) -> None:
    from tunesmith.finetune.files import new_folder
    from tunesmith.models import save_package

    if parameters.apply_lora:
        with new_folder(output / "adapter") as aside:
            save_adapter(trainer.forward.model, aside, parameters, package.manifest.name)
        return
    model = trainer.forward.model
    model.set_attn_implementation("sdpa")
    save_package(model, output / "package", like=package)


def _lock(
    trainer: Trainer, package: ModelPackage, parameters: FinetuneParameters, precision: Precision
) -> dict[str, Any]:
    return {
        "format": 1,
        "parameters": parameters.to_dict(),
        "model": {"name": package.manifest.name, "sha256": package.sha256},
        "identity": trainer.identity,
        "plan": {
            "steps_per_epoch": trainer.plan.steps_per_epoch,
            "total_steps": trainer.total_steps,
            "packed_row_tokens": trainer.plan.capacity if parameters.packing else None,
            "piece_tokens": trainer.progress.piece_tokens,
            "processes": trainer.group.world,
        },
        "precision": {"asked": precision.asked, "used": precision.used, "rates": precision.rates},
        "learning_rate": {"used": trainer.parameters.learning_rate, "search": trainer.progress.rate_search},
        "attention": trainer.forward.path,
        "sharding": trainer.sharded,
        "environment": {**environment(), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS")},
    }
