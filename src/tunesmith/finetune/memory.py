"""How much memory the run takes, and how much there is."""

from __future__ import annotations

import resource
import sys

import psutil
import torch


def current_bytes(device: torch.device) -> int:
    """Memory in use now: of the GPU where the model is on one, of the process otherwise."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    return int(psutil.Process().memory_info().rss)


def peak_bytes(device: torch.device) -> int:
    """The most that was in use since the process started."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def available_bytes(device: torch.device) -> int:
    """Memory that can still be had."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)
