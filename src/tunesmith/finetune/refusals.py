"""What is refused on a machine with GPUs, said before anything heavy starts. Knows nothing of torch."""

from __future__ import annotations

from tunesmith.errors import Fault
from tunesmith.finetune.parameters import FinetuneParameters
from tunesmith.finetune.sharding.settings import resolve, usable


def deepspeed_faults(parameters: FinetuneParameters, *, gpu: bool, world: int | None = None) -> list[Fault]:
    """Why ``apply_deepspeed`` cannot be honoured with these parameters, and with the file in ``deepspeed``.

    Nothing where it is not asked for, or waived: without a GPU or the package.
    """
    if not parameters.apply_deepspeed or not usable(gpu=gpu):
        return []
    return resolve(parameters, world=world)[1]
