"""Step ``chat_completion_datapreprocess``: conversations become rows of ids with the places that carry loss.

output_dir/<split>/    a prepared data set for each split that was given
output_dir/splits.json which splits there are, with rows and hashes
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from tunesmith.components.steps.runtime import Step, run
from tunesmith.components.steps.settings import training_values
from tunesmith.components.steps.splits import split_files
from tunesmith.storage.atomic import write_text

SPLITS_FILE = "splits.json"


@dataclass(frozen=True)
class Arguments:
    """The model, the conversations, and how long rows may be."""

    model_path: Path
    output_dir: Path
    train_file_path: Path | None = None
    validation_file_path: Path | None = None
    test_file_path: Path | None = None
    train_mltable_path: Path | None = None
    validation_mltable_path: Path | None = None
    test_mltable_path: Path | None = None
    finetune_config_path: Path | None = None
    task_name: str = "ChatCompletion"
    batch_size: int = 1000
    pad_to_max_length: str = "false"
    max_seq_length: int = -1
    on_too_long: str = "truncate_turns"
    on_faulty: str = "fail"
    loss_on: str = "assistant"


def main(arguments: Arguments, step: Step) -> None:
    """Prepare every split with the model's own chat contract."""
    from tunesmith.chat.prepare import prepare
    from tunesmith.finetune.parameters import FinetuneParameters
    from tunesmith.models.package import ModelPackage

    values = training_values(asdict(arguments), arguments.finetune_config_path, step.reporter)
    parameters = FinetuneParameters.from_strings(values)
    package = ModelPackage.open(arguments.model_path)
    tokenizer = package.tokenizer()
    context = package.manifest.context_length
    if parameters.max_seq_length == -1:
        step.reporter.log(f"max_seq_length -1: the model's context length, {context:,} tokens")
    splits: dict[str, dict[str, object]] = {}
    for split, files in split_files(arguments).items():
        step.reporter.log(f"{split}: {', '.join(map(str, files))}")
        prepared = prepare(
            files,
            tokenizer,
            arguments.output_dir / split,
            max_seq_length=parameters.max_seq_length,
            context_length=context,
            on_too_long=parameters.on_too_long,
            on_faulty=parameters.on_faulty,
            loss_on=parameters.loss_on,
            reporter=step.reporter,
            work=step.checkpoints,
        )
        splits[split] = {
            "rows": prepared.rows,
            "dropped": {reason: count.count for reason, count in prepared.report.dropped.items()},
            "sources": [asdict(source) for source in prepared.report.sources],
            "tokens": prepared.report.tokens,
            "trained_tokens": prepared.report.trained_tokens,
        }
    for split in ("validation", "test"):
        if split not in splits:
            step.reporter.log(f"no {split} conversations were given; none are taken from train")
    write_text(arguments.output_dir / SPLITS_FILE, json.dumps(splits, indent=1) + "\n")


if __name__ == "__main__":
    run(Arguments, main)
