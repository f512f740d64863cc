"""Several processes for one step: it starts itself again under torchrun, once for each GPU.

The process that the runner started becomes torchrun's agent and does no work of its own. A SIGTERM reaches the
workers as a file that they look for, because they live in sessions of their own and torchrun would cut them off after
30 seconds; and they die with the agent, so that none outlives a step that was killed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from tunesmith.errors import StepFailed

STOP_VARIABLE = "TUNESMITH_STOP_FILE"
"""Where a worker looks whether to stop."""
CPU_PROCESSES = "TUNESMITH_INTERNAL_CPU_PROCESSES"
"""Internal, for tests: on a machine without a GPU so many processes are started, which talk through gloo."""
_PARENT_DEATH_SIGNAL = 1


def is_worker() -> bool:
    """Whether torchrun started this process, or is one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_main() -> bool:
    """Whether this process reports and writes: the only one, or the first."""
    return not is_worker() or os.environ.get("RANK") == "0"


def count(asked: int) -> int:
    """How many processes to start for ``asked`` GPUs: one for each that is there; 1 means none besides this one."""
    if asked == 1 or is_worker():
        return 1
    import torch

    there = torch.cuda.device_count() or int(os.environ.get(CPU_PROCESSES, "1"))
    return min(asked, there)


def launch(count: int, module: str, arguments: Sequence[str], *, stop_file: Path, stop: Callable[[], bool]) -> None:
    """Run ``python -m module arguments`` in ``count`` processes; returns when all have ended well.

    SIGTERM makes ``stop_file``; the workers stop when they see it. ``stop`` says whether one came before.

    Raises:
        StepFailed: one of them failed without a word; one that told its error ends this process with its exit code.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main

    stop_file.unlink(missing_ok=True)
    os.environ[STOP_VARIABLE] = str(stop_file)
    earlier = signal.getsignal(signal.SIGTERM)

    def tell(number: int, frame: object) -> None:
        stop_file.touch()

    signal.signal(signal.SIGTERM, tell)
    if stop():
        stop_file.touch()
    try:
        # Its own handler would send SIGTERM and then, after its own patience, SIGKILL.
        options = ["--standalone", f"--nproc-per-node={count}", "--max-restarts=0", "--signals-to-handle=SIGUSR1"]
        main([*options, "-m", module, *arguments])
    except ChildFailedError as error:
        _, first = error.get_first_failure()
        if first.exitcode > 0:
            sys.exit(first.exitcode)
        raise StepFailed(
            f"process {first.local_rank} of {count} was ended by {signal.Signals(-first.exitcode).name}",
            way_out="the system ends processes when memory runs out; the log has what it printed last",
        ) from None
    finally:
        signal.signal(signal.SIGTERM, earlier)
        stop_file.unlink(missing_ok=True)


def begin_worker(stop: Callable[[], bool]) -> Callable[[], bool]:
    """Make this worker die with torchrun's agent; returns ``stop`` joined with the look for the stop file."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    named = os.environ.get(STOP_VARIABLE)
    if named is None:  # started by somebody else's torchrun
        return stop
    file = Path(named)
    return lambda: stop() or file.exists()
