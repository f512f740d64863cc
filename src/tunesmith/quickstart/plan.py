"""What the quickstart uses and what it names the things it makes."""

from __future__ import annotations

from typing import Any

BASE_MODEL = "SmolLM2-135M-Instruct"
EXPERIMENT = "quickstart"
MODEL = "smollm2-chitchat"
ENDPOINT = "quickstart"
DEPLOYMENT = "blue"
DATA = {"train": "chitchat-train", "validation": "chitchat-validation", "test": "chitchat-test"}
FOLDER = "quickstart"
"""Folder in the workspace for the files it writes."""

CONVERSATIONS_WHEEL = "chitchat-dataset==0.9.0"
CONVERSATIONS_SHA256 = "7bf89f36645e2d5ec87d53370c8e851b5a688479c7beb7079cb4c87fc5acea3e"
CONVERSATIONS_MEMBER = "chitchat_dataset/dataset.json"
"""Conversations between two people, MIT licence: https://github.com/BYU-PCCL/chitchat-dataset"""

HELD_OUT = 16
"""Conversations in each of the validation and the test split; never trained on."""

TRAINING_SECONDS = 110.0
"""What training should take; so many conversations are trained on, within these bounds."""
FEWEST_CONVERSATIONS, MOST_CONVERSATIONS = 32, 60

PARAMETERS: dict[str, Any] = {
    "apply_lora": "true",
    "lora_r": 8,
    "lora_alpha": 16,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 3,
    "num_train_epochs": 1,
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "max_seq_length": 1024,
    "precision": "auto",
    "evaluation_strategy": "epoch",
    "logging_steps": 1,
    "save_total_limit": 1,
    "seed": 42,
    "evaluation_config_params": '{"num_samples": 8, "max_new_tokens": 32}',
}
