"""What is refused on a machine with GPUs, said before anything heavy starts. Knows nothing of torch."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from packaging.version import Version

from tunesmith.errors import Fault
from tunesmith.finetune.parameters import FinetuneParameters
from tunesmith.finetune.sharding.settings import OLDEST, resolve, usable


def deepspeed_faults(parameters: FinetuneParameters, *, gpu: bool, world: int | None = None) -> list[Fault]:
    """Why ``apply_deepspeed`` cannot be honoured with these parameters, and with the file in ``deepspeed``.

    Nothing where it is not asked for, or waived: without a GPU or the package.
    """
    if not parameters.apply_deepspeed or not usable(gpu=gpu):
        return []
    return _too_old() + resolve(parameters, world=world)[1]


def _too_old() -> list[Fault]:
    try:
        there = version("deepspeed")
    except PackageNotFoundError:  # on the path without its metadata: nobody knows
        return []
    if Version(there) >= Version(OLDEST):
        return []
    what = f"DeepSpeed {there} is installed, and its engine is used from {OLDEST} on"
    return [Fault(what, "apply_deepspeed", "Unsupported", f"pip install 'deepspeed>={OLDEST}'")]
