"""What makes training quick on a CPU: each trick in a file of its own, off by a switch in ``Tricks``.

The model stays transformers' own; single modules get another ``forward`` that computes the same. ``apply.py`` says
which.
"""

from tunesmith.finetune.fast.apply import apply_tricks
from tunesmith.finetune.fast.tricks import Tricks

__all__ = ["Tricks", "apply_tricks"]
