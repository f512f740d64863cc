"""What this machine has: cores, memory, GPUs, instructions, room on the disk.

Counts what a process may use, not what is built in: CPU affinity and the limits of control groups (containers) are
honoured. Reads files and asks ``nvidia-smi``; loads no torch.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from tunesmith.records.compute import Gpu, Machine

INSTRUCTIONS = (
    "avx2",
    "fma",
    "f16c",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "sve",
    "bf16",
    "i8mm",
)
"""What matters to matrix products, as Linux spells it (the last four are ARM's)."""

SMI_TIMEOUT_S = 20
"""A driver that wakes from deep sleep takes several seconds."""


def detect(disk: Path, *, root: Path = Path("/"), environment: Mapping[str, str] | None = None) -> Machine:
    """This machine.

    Args:
        disk: a path on the disk whose free bytes count (the workspace's folder; need not exist).
        root: where ``proc`` and ``sys`` are found.
        environment: variables; those of this process when left out. ``CUDA_VISIBLE_DEVICES`` hides GPUs.
    """
    variables = os.environ if environment is None else environment
    return Machine(
        cores=usable_cores(root),
        memory_bytes=usable_memory(root),
        gpus=list(gpus(variables)),
        processor=_processor(root),
        instructions=_instructions(root),
        disk_free_bytes=free_bytes(disk),
        platform=f"{platform.system()} {platform.release()} {platform.machine()}",
    )


def usable_cores(root: Path = Path("/")) -> int:
    """Cores that this process may use: the least of affinity and every control group's quota, at least 1."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # only Linux has it
        cores = os.cpu_count() or 1
    for quota, period in _cpu_quotas(root):
        cores = min(cores, int(quota / period))
    return max(1, cores)


def usable_memory(root: Path = Path("/")) -> int:
    """Bytes of memory that this process may use: the machine's, or the least limit of its control groups."""
    total = 0
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemTotal:"):
            total = int(line.split()[1]) * 1024
    if not total:
        import psutil

        total = psutil.virtual_memory().total
    limits = [limit for limit in _memory_limits(root) if 0 < limit < total]
    return min([total, *limits])


def free_bytes(path: Path) -> int:
    """Free bytes on the disk that holds ``path`` or would hold it."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free


def gpus(environment: Mapping[str, str]) -> Iterator[Gpu]:
    """NVIDIA's GPUs as ``nvidia-smi`` lists them, less those that ``CUDA_VISIBLE_DEVICES`` hides."""
    tool = shutil.which("nvidia-smi", path=environment.get("PATH", os.defpath))
    if tool is None:
        return
    query = [tool, "--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(
            query, capture_output=True, text=True, timeout=SMI_TIMEOUT_S, check=True, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.SubprocessError):  # no driver, or it hangs: there is no GPU to use
        return
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    for line in answer.stdout.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) != 4 or not fields[3].isdigit():
            continue
        index, uuid, name, mebibytes = fields
        if visible is None or any(chosen == index or (chosen and uuid.startswith(chosen)) for chosen in _list(visible)):
            yield Gpu(name=name, memory_bytes=int(mebibytes) << 20)


def _list(text: str) -> list[str]:
    """CUDA reads up to the first negative number."""
    found: list[str] = []
    for item in text.split(","):
        if item.strip().startswith("-"):
            break
        found.append(item.strip())
    return found


def _processor(root: Path) -> str:
    for line in _lines(root / "proc/cpuinfo"):
        if line.lower().startswith(("model name", "hardware")):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _instructions(root: Path) -> list[str]:
    for line in _lines(root / "proc/cpuinfo"):
        if line.lower().startswith(("flags", "features")):
            flags = set(line.split(":", 1)[1].split())
            return [name for name in INSTRUCTIONS if name in flags]
    return []


def _groups(root: Path, controller: str) -> Iterator[tuple[Path, bool]]:
    """The folders of this process's control groups, innermost first, and whether each is of version 2."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, inner = line.split(":", 2)
        if controllers == "":
            base, second = root / "sys/fs/cgroup", True
        elif controller in controllers.split(","):
            base, second = root / "sys/fs/cgroup" / controller, False
        else:
            continue
        folder = base / inner.strip("/")
        while folder != base and base in folder.parents:
            yield folder, second
            folder = folder.parent
        # In a container the group's own path is often not visible; its limits then stand at the top.
        yield base, second


def _cpu_quotas(root: Path) -> Iterator[tuple[int, int]]:
    for folder, second in _groups(root, "cpu"):
        if second:
            fields = " ".join(_lines(folder / "cpu.max")).split()
        else:
            fields = [*_lines(folder / "cpu.cfs_quota_us"), *_lines(folder / "cpu.cfs_period_us")]
        if len(fields) == 2 and fields[0].isdigit() and fields[1].isdigit() and int(fields[1]) > 0:
            yield int(fields[0]), int(fields[1])


def _memory_limits(root: Path) -> Iterator[int]:
    for folder, second in _groups(root, "memory"):
        for line in _lines(folder / ("memory.max" if second else "memory.limit_in_bytes")):
            if line.isdigit():
                yield int(line)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
