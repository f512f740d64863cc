"""Several processes that train one model: each computes its share of a step's micro-batches, and gradients are summed.

Started by ``torchrun``, which sets RANK and WORLD_SIZE; one process knows nothing of it. Because the loss is a sum
that is divided by the trained tokens of the whole step, two processes give what one gives with twice the
accumulation.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor


class Group:
    """The processes of this run; with one process every operation is free.

    ``alone`` makes a group of PyTorch's also for one process, for a library that asks for one.
    """

    def __init__(self, *, alone: bool = False) -> None:
        self.world = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0")) if self.world > 1 else 0
        self.local_rank = int(os.environ.get("LOCAL_RANK", "0")) if self.world > 1 else 0
        self._ours = False
        if self.world > 1 and torch.cuda.is_available():
            torch.cuda.set_device(self.local_rank)  # or every process would talk through the first GPU
        if (self.world > 1 or alone) and not torch.distributed.is_initialized():
            backend = "nccl" if torch.cuda.is_available() else "gloo"
            if self.world > 1:
                torch.distributed.init_process_group(backend)
            else:
                store = torch.distributed.HashStore()  # type: ignore[attr-defined]
                torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)
            self._ours = True

    @property
    def main(self) -> bool:
        """Whether this process reports and saves."""
        return self.rank == 0

    def sum(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by its sum over the processes, in one message."""
        if self.world == 1 or not tensors:
            return
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
        torch.distributed.all_reduce(flat)
        start = 0
        for tensor in tensors:
            tensor.copy_(flat[start : start + tensor.numel()].view_as(tensor))
            start += tensor.numel()

    def any(self, flag: bool) -> bool:
        """Whether any process says so."""
        if self.world == 1:
            return flag
        value = torch.tensor([float(flag)])
        if torch.cuda.is_available():
            value = value.cuda()
        torch.distributed.all_reduce(value)
        return bool(value.item() > 0)

    def barrier(self) -> None:
        """Wait for all."""
        if self.world > 1:
            torch.distributed.barrier()

    def close(self) -> None:
        """Leave the group, where this object made it."""
        if self._ours:
            torch.distributed.destroy_process_group()
            self._ours = False
