"""A short fine-tuning that may kill itself: ``python -m tests.finetune.cut_run FOLDER STEP OUTPUT CHECKPOINTS``."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from tests.finetune.support import Heard, random_rows
from tunesmith.finetune import FinetuneParameters, train
from tunesmith.models import ModelPackage


class Killing(Heard):
    """Kills this process after an optimiser step; never after step 0."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self._step = step

    def progress(self, phase: str, done: float, total: float | None, **more: Any) -> None:
        if phase == "train" and done == self._step:
            os.kill(os.getpid(), signal.SIGKILL)


def main(folder: Path, step: int, output: str, checkpoints: str) -> None:
    parameters = FinetuneParameters(
        apply_lora=True,
        learning_rate=1e-3,
        max_steps=10,
        max_seq_length=64,
        logging_steps=1,
        lora_dropout=0.1,
        evaluation_strategy="steps",
        eval_steps=5,
        resume_from_checkpoint=True,
    )
    train(
        ModelPackage.open(folder / "package"),
        random_rows(),
        random_rows(3, seed=9),
        parameters,
        folder / output,
        checkpoints=folder / checkpoints,
        reporter=Killing(step),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
