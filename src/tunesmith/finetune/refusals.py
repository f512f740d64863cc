"""What is refused on a machine with GPUs, said before anything heavy starts. Knows nothing of torch."""

from __future__ import annotations

from tunesmith.errors import Fault


def no_deepspeed() -> Fault:
    """Why DeepSpeed is refused on a GPU, and what does its work here."""
    return Fault(
        "the trainer does not run DeepSpeed's engine: nothing would be sharded",
        "apply_deepspeed",
        "Unsupported",
        "set it to false; for memory use apply_lora, quantization 4bit or gradient_checkpointing, "
        "for several GPUs number_of_gpu_to_use_finetuning",
    )
