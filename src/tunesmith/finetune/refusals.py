"""What is refused on a machine with GPUs, said before anything heavy starts. Knows nothing of torch."""

from __future__ import annotations

import importlib.util

from tunesmith.errors import Fault


def deepspeed_refusal(*, gpu: bool) -> Fault | None:
    """Why ``apply_deepspeed`` is refused here, and what does its work; ``None`` where it is waived instead.

    Where a GPU and the package are, whoever asks for it counts on its sharding, and the trainer has none.
    """
    if not gpu or importlib.util.find_spec("deepspeed") is None:
        return None
    return Fault(
        "the trainer does not run DeepSpeed's engine: nothing would be sharded",
        "apply_deepspeed",
        "Unsupported",
        "set it to false; for memory use apply_lora, quantization 4bit or gradient_checkpointing, "
        "for several GPUs number_of_gpu_to_use_finetuning",
    )
