from __future__ import annotations

import os
from pathlib import Path

import pytest

from tunesmith.compute import machine
from tunesmith.records.compute import Gpu

CPUINFO = """processor\t: 0
model name\t: A Processor @ 2.00GHz
flags\t\t: fpu sse2 avx2 fma avx512f avx512_bf16 amx_bf16
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree with ``proc`` and ``sys`` of a machine with 8 GiB and no limits."""
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "sys" / "fs" / "cgroup").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text("MemTotal:        8388608 kB\nMemFree: 1 kB\n")
    (tmp_path / "proc" / "cpuinfo").write_text(CPUINFO)
    (tmp_path / "proc" / "self" / "cgroup").write_text("0::/\n")
    return tmp_path


@pytest.fixture
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(16)))


def test_this_machine_is_detected(tmp_path: Path) -> None:
    found = machine.detect(tmp_path / "not" / "there")
    assert 1 <= found.cores <= (os.cpu_count() or 1)
    assert found.memory_bytes > 2**28
    assert found.disk_free_bytes > 0
    assert found.processor
    assert found.platform.startswith("Linux")


def test_without_limits_everything_counts(root: Path, many_cores: None) -> None:
    found = machine.detect(root, root=root, environment={"PATH": ""})
    assert (found.cores, found.memory_bytes, found.gpus) == (16, 8 * 2**30, [])
    assert found.processor == "A Processor @ 2.00GHz"
    assert found.instructions == ["avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16"]


def test_affinity_counts(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {3, 5})
    assert machine.usable_cores(root) == 2


@pytest.mark.parametrize(
    ("quota", "cores"), [("max 100000", 16), ("200000 100000", 2), ("150000 100000", 1), ("50000 100000", 1)]
)
def test_a_containers_quota_counts(root: Path, many_cores: None, quota: str, cores: int) -> None:
    (root / "sys/fs/cgroup/cpu.max").write_text(f"{quota}\n")
    assert machine.usable_cores(root) == cores


def test_the_narrowest_of_nested_groups_counts(root: Path, many_cores: None) -> None:
    (root / "proc/self/cgroup").write_text("0::/a.slice/b.service\n")
    inner = root / "sys/fs/cgroup/a.slice/b.service"
    inner.mkdir(parents=True)
    (inner / "cpu.max").write_text("800000 100000\n")
    (inner.parent / "cpu.max").write_text("400000 100000\n")
    (inner / "memory.max").write_text("max\n")
    (inner.parent / "memory.max").write_text(f"{2**30}\n")
    assert machine.usable_cores(root) == 4
    assert machine.usable_memory(root) == 2**30


def test_groups_of_the_first_version_count(root: Path, many_cores: None) -> None:
    (root / "proc/self/cgroup").write_text("4:memory:/docker/x\n3:cpu,cpuacct:/docker/x\n1:name=systemd:/docker/x\n")
    for name in ("cpu", "memory"):
        (root / "sys/fs/cgroup" / name).mkdir()
    (root / "sys/fs/cgroup/cpu/cpu.cfs_quota_us").write_text("300000\n")
    (root / "sys/fs/cgroup/cpu/cpu.cfs_period_us").write_text("100000\n")
    (root / "sys/fs/cgroup/memory/memory.limit_in_bytes").write_text(f"{3 * 2**30}\n")
    assert machine.usable_cores(root) == 3
    assert machine.usable_memory(root) == 3 * 2**30
    # "no limit" is a huge number there
    (root / "sys/fs/cgroup/memory/memory.limit_in_bytes").write_text("9223372036854771712\n")
    (root / "sys/fs/cgroup/cpu/cpu.cfs_quota_us").write_text("-1\n")
    assert (machine.usable_cores(root), machine.usable_memory(root)) == (16, 8 * 2**30)


@pytest.fixture
def smi(tmp_path: Path) -> dict[str, str]:
    """A PATH with an ``nvidia-smi`` that lists two GPUs, as the real one prints them."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        "#!/bin/sh\n"
        'test "$2" = "--format=csv,noheader,nounits" || exit 3\n'
        "echo '0, GPU-aaaa-1, NVIDIA H100 80GB HBM3, 81559'\n"
        "echo '1, GPU-bbbb-2, NVIDIA A100, 40960'\n"
    )
    tool.chmod(0o755)
    return {"PATH": f"{tmp_path}:/bin:/usr/bin"}


H100 = Gpu(name="NVIDIA H100 80GB HBM3", memory_bytes=81559 << 20)
A100 = Gpu(name="NVIDIA A100", memory_bytes=40960 << 20)


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, [H100, A100]),
        ("0,1", [H100, A100]),
        ("1", [A100]),
        ("GPU-bbbb", [A100]),
        ("", []),
        ("-1", []),
        ("0,-1,1", [H100]),
        ("7", []),
    ],
)
def test_gpus_are_listed_less_the_hidden_ones(smi: dict[str, str], visible: str | None, expected: list[Gpu]) -> None:
    environment = smi if visible is None else {**smi, "CUDA_VISIBLE_DEVICES": visible}
    assert list(machine.gpus(environment)) == expected


def test_a_driver_that_fails_is_no_gpu(tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        "#!/bin/sh\necho 'NVIDIA-SMI has failed because it could not communicate with the driver'\nexit 9\n"
    )
    tool.chmod(0o755)
    assert list(machine.gpus({"PATH": str(tmp_path)})) == []
