"""The table of every training input: name, type, default, bounds and what it does here.

The first part holds the inputs of Azure ML's ``chat_completion_pipeline`` that concern training, with Azure's names,
types, enums, bounds and defaults; the second holds ours. The command line, the component's YAML and the documentation
are made from this table, and ``FinetuneParameters`` reads values by it. It knows nothing of torch, so a server may
load it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Kind = Literal["boolean", "integer", "number", "string", "path"]


@dataclass(frozen=True, slots=True)
class Input:
    """One input.

    ``minimum`` and ``maximum`` are inclusive; ``above`` and ``below`` are exclusive. ``special`` are values outside
    the bounds that have a meaning of their own (``-1``: not set). ``cpu``, ``one_gpu`` and ``several_gpus`` say what
    the input does there.
    """

    name: str
    kind: Kind
    default: bool | int | float | str | None
    help: str
    group: str
    enum: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    below: float | None = None
    special: tuple[float, ...] = ()
    azure: bool = True
    cpu: str = "honoured"
    one_gpu: str = "honoured"
    several_gpus: str = "honoured"


_DEEPSPEED = "honoured with the package deepspeed; without it waived, said"


def _inputs() -> tuple[Input, ...]:
    schedule, adapter, evaluation, machine, data = "Schedule", "Adapter", "Evaluation", "Machine", "Data"
    optimiser, saving, ours = "Optimiser", "Saving", "Beyond Azure ML"
    return (
        Input(
            "task_name",
            "string",
            "ChatCompletion",
            "The task; only chat completion is trained.",
            data,
            ("ChatCompletion",),
        ),
        Input(
            "max_seq_length",
            "integer",
            -1,
            "Longest conversation in tokens; -1 is the model's context length. Also the size of a packed row.",
            data,
            minimum=8,
            special=(-1,),
        ),
        Input(
            "pad_to_max_length",
            "boolean",
            False,
            "Fill every row up to max_seq_length with padding that carries no loss. Changes the speed, never a number.",
            data,
        ),
        Input(
            "apply_lora",
            "boolean",
            False,
            "Train low-rank adapters and keep the base frozen; false trains every weight.",
            adapter,
        ),
        Input(
            "merge_lora_weights",
            "boolean",
            True,
            "Merge the adapter into the base when the result is converted; the adapter is kept beside it either way.",
            adapter,
        ),
        Input(
            "lora_alpha",
            "integer",
            128,
            "Scale of the adapter: its product is multiplied by lora_alpha / lora_r.",
            adapter,
            minimum=1,
        ),
        Input("lora_r", "integer", 8, "Rank of the adapter.", adapter, minimum=1, maximum=4096),
        Input(
            "lora_dropout",
            "number",
            0.0,
            "Dropout on what enters the adapter. Above 0 it costs speed: the adapter's products cannot be merged.",
            adapter,
            minimum=0.0,
            below=1.0,
        ),
        Input("num_train_epochs", "integer", 1, "How many times the training rows are seen.", schedule, minimum=1),
        Input(
            "max_steps",
            "integer",
            -1,
            "Optimiser steps; overrides num_train_epochs unless -1.",
            schedule,
            minimum=1,
            special=(-1, 0),
        ),
        Input(
            "per_device_train_batch_size",
            "integer",
            1,
            "Rows in one micro-batch of one process: packed rows when packing, conversations otherwise.",
            schedule,
            minimum=1,
        ),
        Input("per_device_eval_batch_size", "integer", 1, "Rows in one evaluation batch.", evaluation, minimum=1),
        Input(
            "auto_find_batch_size",
            "boolean",
            False,
            "When memory runs out, compute half as much at a time, twice as often: the numbers stay the same.",
            schedule,
            one_gpu="honoured; with DeepSpeed waived, said",
            several_gpus="honoured; with DeepSpeed waived, said",
        ),
        Input(
            "optim",
            "string",
            "adamw_torch",
            "AdamW, or Adafactor with a fixed learning rate (a fraction of the optimiser memory).",
            optimiser,
            ("adamw_torch", "adafactor"),
        ),
        Input(
            "learning_rate",
            "number",
            2e-5,
            "Highest learning rate of the schedule. LoRA likes about 10 times more.",
            schedule,
            above=0.0,
            maximum=10.0,
        ),
        Input(
            "warmup_steps",
            "integer",
            0,
            "Optimiser steps in which the learning rate rises from 0.",
            schedule,
            minimum=0,
        ),
        Input(
            "weight_decay",
            "number",
            0.0,
            "Decay per step on weight matrices; never on norms and biases.",
            optimiser,
            minimum=0.0,
            below=1.0,
        ),
        Input("adam_beta1", "number", 0.9, "Decay of the gradient's running mean.", optimiser, minimum=0.0, below=1.0),
        Input(
            "adam_beta2",
            "number",
            0.999,
            "Decay of the squared gradient's running mean.",
            optimiser,
            minimum=0.0,
            below=1.0,
        ),
        Input("adam_epsilon", "number", 1e-8, "Added to the denominator of AdamW.", optimiser, above=0.0, maximum=1.0),
        Input(
            "gradient_accumulation_steps",
            "integer",
            1,
            "Micro-batches in one optimiser step. The loss is divided by the trained tokens of the whole step, "
            "so 1 x 8 equals 8 x 1.",
            schedule,
            minimum=1,
        ),
        Input(
            "eval_accumulation_steps",
            "integer",
            -1,
            "Evaluation batches whose predictions stay on the device before they move to main memory; "
            "-1 keeps all until the end.",
            evaluation,
            minimum=1,
            special=(-1,),
            cpu="device and main memory are one; the counts are folded every this many batches",
        ),
        Input(
            "lr_scheduler_type",
            "string",
            "linear",
            "Shape of the learning rate over the steps.",
            schedule,
            ("linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup"),
        ),
        Input(
            "precision",
            "string",
            "32",
            "Arithmetic of the products: 32; 16 (half); bf16; auto measures which is faster here. "
            "Adapters and optimiser stay in 32 bits.",
            machine,
            ("32", "16", "bf16", "auto"),
            cpu="16 becomes bf16 (half precision needs a GPU); auto measures the machine",
            one_gpu="16 and auto become bf16 where the GPU has it, 32 where not, said",
            several_gpus="as on one GPU",
        ),
        Input(
            "seed",
            "integer",
            42,
            "Seeds the adapter's start, the order of rows, dropout and noise.",
            machine,
            minimum=0,
            maximum=2**32 - 1,
        ),
        Input(
            "enable_full_determinism",
            "boolean",
            False,
            "Only deterministic algorithms; an operation without one is an error.",
            machine,
            cpu="honoured; runs on a CPU with the same number of threads are bit for bit the same in any case",
        ),
        Input(
            "dataloader_num_workers",
            "integer",
            0,
            "Threads that prepare the next micro-batches while one is computed.",
            machine,
            minimum=0,
            maximum=64,
        ),
        Input(
            "ignore_mismatched_sizes",
            "boolean",
            False,
            "Start weights of the wrong shape afresh instead of refusing the model; each is named in the log.",
            machine,
        ),
        Input(
            "max_grad_norm",
            "number",
            1.0,
            "Longest gradient; longer ones are scaled down. 0 does not clip.",
            optimiser,
            minimum=0.0,
        ),
        Input(
            "evaluation_strategy",
            "string",
            "epoch",
            "When the validation rows are evaluated; each evaluation saves a checkpoint.",
            evaluation,
            ("epoch", "steps", "disable"),
        ),
        Input(
            "evaluation_steps_interval",
            "number",
            0.0,
            "With evaluation_strategy steps: the interval as a fraction of an epoch; above 0 it replaces eval_steps.",
            evaluation,
            minimum=0.0,
            maximum=1.0,
        ),
        Input(
            "eval_steps",
            "integer",
            500,
            "With evaluation_strategy steps: optimiser steps between evaluations.",
            evaluation,
            minimum=1,
        ),
        Input("logging_strategy", "string", "steps", "When metrics are written.", evaluation, ("epoch", "steps")),
        Input(
            "logging_steps",
            "integer",
            10,
            "With logging_strategy steps: optimiser steps between metrics.",
            evaluation,
            minimum=1,
        ),
        Input(
            "metric_for_best_model",
            "string",
            "loss",
            "What decides the best model: loss per trained token; or f1 / exact of each answer's tokens when the "
            "model predicts every trained token from the true text before it.",
            evaluation,
            ("loss", "f1", "exact"),
        ),
        Input(
            "resume_from_checkpoint",
            "boolean",
            False,
            "Go on from the last whole checkpoint instead of starting afresh.",
            saving,
        ),
        Input(
            "save_total_limit",
            "integer",
            -1,
            "Checkpoints kept; -1 keeps all. The last and the best are always kept, so 1 may leave two.",
            saving,
            minimum=1,
            special=(-1,),
        ),
        Input("apply_early_stopping", "boolean", False, "Stop when the metric no longer improves.", evaluation),
        Input(
            "early_stopping_patience",
            "integer",
            1,
            "Evaluations without improvement before the stop.",
            evaluation,
            minimum=1,
        ),
        Input(
            "early_stopping_threshold", "number", 0.0, "How much better counts as improvement.", evaluation, minimum=0.0
        ),
        Input(
            "apply_deepspeed",
            "boolean",
            False,
            "Shard the optimiser and weights with DeepSpeed.",
            machine,
            cpu="waived, said: DeepSpeed needs a GPU",
            one_gpu=_DEEPSPEED,
            several_gpus=_DEEPSPEED,
        ),
        Input(
            "deepspeed",
            "path",
            None,
            "A DeepSpeed configuration file; read with apply_deepspeed only.",
            machine,
            cpu="waived, said",
            one_gpu="as apply_deepspeed; what contradicts another input is an error",
            several_gpus="as apply_deepspeed; what contradicts another input is an error",
        ),
        Input(
            "deepspeed_stage",
            "string",
            "2",
            "DeepSpeed's ZeRO stage; read with apply_deepspeed only.",
            machine,
            ("2", "3"),
            cpu="waived, said",
            one_gpu="as apply_deepspeed; a stage in the file comes first, said",
            several_gpus="as apply_deepspeed; a stage in the file comes first, said",
        ),
        Input(
            "apply_ort",
            "boolean",
            False,
            "ONNX Runtime training, which its makers discontinued.",
            machine,
            cpu="waived, said",
            one_gpu="waived, said",
            several_gpus="waived, said",
        ),
        Input(
            "number_of_gpu_to_use_finetuning",
            "integer",
            1,
            "GPUs, one process each, by torchrun. Each optimiser step takes that many times more micro-batches.",
            machine,
            minimum=1,
            cpu="above 1 waived, said: the cores work on one process",
            one_gpu="above 1 waived, said",
            several_gpus="honoured; more than there are becomes as many as there are, said",
        ),
        Input(
            "num_nodes_finetune",
            "integer",
            1,
            "Machines; above 1 is an error that says which compute it needs.",
            machine,
            minimum=1,
            cpu="1 only",
            one_gpu="1 only",
            several_gpus="1 only",
        ),
        # ── ours ────────────────────────────────────────────────────────────────────────────────────────────────
        Input(
            "packing",
            "boolean",
            True,
            "Put several conversations in one row of max_seq_length; they cannot see each other.",
            ours,
            azure=False,
        ),
        Input(
            "loss_on",
            "string",
            "assistant",
            "Which turns carry loss: every assistant turn, only the last one, or all tokens. "
            "A message's own train or weight goes first.",
            ours,
            ("assistant", "last_assistant", "all"),
            azure=False,
        ),
        Input(
            "on_too_long",
            "string",
            "truncate_turns",
            "A conversation over max_seq_length loses its oldest turns, is dropped, or fails the run; always counted.",
            ours,
            ("truncate_turns", "drop", "fail"),
            azure=False,
        ),
        Input(
            "on_faulty",
            "string",
            "fail",
            "A faulty row of the conversations fails the run before anything starts, or is left out; always counted.",
            ours,
            ("fail", "drop"),
            azure=False,
        ),
        Input(
            "lora_target_modules",
            "string",
            "all-linear",
            "Layers that get adapters: all-linear, or names with commas such as q_proj,v_proj.",
            ours,
            azure=False,
        ),
        Input(
            "use_dora",
            "boolean",
            False,
            "DoRA: train the direction by LoRA and the magnitude by itself.",
            ours,
            azure=False,
        ),
        Input("use_rslora", "boolean", False, "rsLoRA: scale by lora_alpha / sqrt(lora_r).", ours, azure=False),
        Input(
            "quantization",
            "string",
            "none",
            "Keep the frozen base in 8 or 4 bits (QLoRA).",
            ours,
            ("none", "8bit", "4bit"),
            azure=False,
            cpu="waived, said: needs a GPU",
            one_gpu="needs bitsandbytes; refused without it",
            several_gpus="as on one GPU",
        ),
        Input(
            "attention",
            "string",
            "auto",
            "Attention: documents (each conversation by itself, no padding), sdpa or eager (one mask over the "
            "row); auto takes documents where the architecture is known.",
            ours,
            ("auto", "documents", "sdpa", "eager"),
            azure=False,
        ),
        Input(
            "gradient_checkpointing",
            "boolean",
            False,
            "Keep one activation a layer and compute the rest again: about a third slower, a fraction of the memory.",
            ours,
            azure=False,
        ),
        Input(
            "neftune_noise_alpha",
            "number",
            0.0,
            "Noise on the embeddings while training, alpha / sqrt(tokens x width); 0 is none.",
            ours,
            minimum=0.0,
            azure=False,
        ),
        Input(
            "max_minutes",
            "number",
            0.0,
            "Stop cleanly after so many minutes of training, with the best model so far; 0 is no limit.",
            ours,
            minimum=0.0,
            azure=False,
        ),
        Input(
            "find_learning_rate",
            "boolean",
            False,
            "Before training, raise the learning rate over real rows until the loss rises, and train with what that "
            "suggests in place of learning_rate. Costs about 60 steps; the log has the table.",
            ours,
            azure=False,
        ),
    )


INPUTS: Mapping[str, Input] = MappingProxyType({entry.name: entry for entry in _inputs()})
"""Every training input by name, Azure's first."""

PIPELINE_INPUTS: Mapping[str, str] = MappingProxyType(
    {
        "instance_type_model_import": "size that the import step asks for; what differs from this machine is said",
        "instance_type_preprocess": "size that the preprocessing step asks for; as above",
        "instance_type_finetune": "size that the fine-tuning step asks for; as above",
        "instance_type_model_evaluation": "size that the evaluation step asks for; as above",
        "compute_model_import": "compute of the import step",
        "compute_preprocess": "compute of the preprocessing step",
        "compute_finetune": "compute of the fine-tuning step; refused when the model's allow-list lacks its size",
        "compute_model_evaluation": "compute of the evaluation step",
        "shm_size_finetune": "shared memory of a container; waived, said: steps are processes of this machine",
        "huggingface_id": "base model by its hub name",
        "pytorch_model_path": "base model: a folder of weights",
        "mlflow_model_path": "base model: an MLflow model folder",
        "finetune_config_path": "a file with values for these inputs; a value given directly goes first",
        "trust_remote_code": "true is refused: code that comes with a model is never run",
        "batch_size": "rows that Azure ML reads at a time; waived, said: rows are streamed in bounded memory",
        "train_file_path": "training conversations: jsonl, json, csv, tsv or parquet",
        "validation_file_path": "validation conversations; a missing file is an error, rows are never taken from train",
        "test_file_path": "test conversations for the evaluation step",
        "train_mltable_path": "training conversations by an MLTable file",
        "validation_mltable_path": "validation conversations by an MLTable file",
        "test_mltable_path": "test conversations by an MLTable file",
        "evaluation_config": "a JSON file with settings of the evaluation step",
        "evaluation_config_params": "the same settings as JSON text",
    }
)
"""The pipeline's other inputs, which its other steps read, with what each does."""
