from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith.compute import sizes
from tunesmith.errors import ValidationFailed
from tunesmith.records.compute import Gpu, Machine

CPU = Machine(cores=2, memory_bytes=8 * 2**30)
GPU = Machine(
    cores=16,
    memory_bytes=128 * 2**30,
    gpus=[Gpu(name="NVIDIA H100", memory_bytes=80 * 2**30), Gpu(name="NVIDIA H100", memory_bytes=79 * 2**30)],
)
DOCS = Path(__file__).parents[2] / "docs" / "compute.md"


def test_names_are_unique_without_case() -> None:
    names = [size.name.lower() for size in sizes.AZURE_SIZES]
    assert len(names) == len(set(names))
    assert sizes.LOCAL not in names


@pytest.mark.parametrize(
    ("name", "vcpus", "memory", "gpus", "gpu_memory"),
    [
        ("Standard_NC6s_v3", 6, 112, 1, 16),
        ("Standard_nc24rs_v3", 24, 448, 4, 16),
        ("STANDARD_ND40RS_V2", 40, 672, 8, 32),
        ("Standard_NC24ads_A100_v4", 24, 220, 1, 80),
        ("Standard_ND96asr_v4", 96, 900, 8, 40),
        ("Standard_ND96amsr_A100_v4", 96, 1900, 8, 80),
        ("Standard_NC80adis_H100_v5", 80, 640, 2, 94),
        ("Standard_ND96isr_H100_v5", 96, 1900, 8, 80),
        ("Standard_d12_v2", 4, 28, 0, None),
    ],
)
def test_azures_sizes_are_what_azure_says(
    name: str, vcpus: int, memory: float, gpus: int, gpu_memory: float | None
) -> None:
    size = sizes.find_size(name, CPU)
    assert (size.vcpus, size.memory_gb, size.gpus, size.gpu_memory_gb) == (vcpus, memory, gpus, gpu_memory)


def test_every_size_of_the_catalogues_lists_is_known() -> None:
    from tunesmith.models.catalogue import entries

    named = {
        name
        for entry in entries()
        for tag in ("finetune_compute_allow_list", "inference_compute_allow_list")
        for name in entry.tag(tag) or []
    }
    assert len(named) > 10
    for name in named:
        sizes.find_size(name, CPU)


def test_every_default_size_of_the_pipeline_is_known() -> None:
    from tunesmith.components.catalogue import entries

    pipeline = next(entry for entry in entries() if entry.name == "chat_completion_pipeline")
    named = [
        spec["default"]
        for name, spec in pipeline.spec["inputs"].items()
        if name.startswith("instance_type") and "default" in spec
    ]
    assert named
    for name in named:
        sizes.find_size(name, CPU)


def test_local_is_the_machine() -> None:
    size = sizes.find_size("Local", CPU)
    assert (size.name, size.vcpus, size.memory_gb, size.gpus, size.gpu_name) == ("local", 2, 8.0, 0, None)
    size = sizes.local_size(GPU)
    assert (size.vcpus, size.memory_gb, size.gpus, size.gpu_name, size.gpu_memory_gb) == (
        16,
        128.0,
        2,
        "NVIDIA H100",
        79.0,
    )
    assert sizes.difference(size, GPU) is None


def test_an_unknown_size_names_the_closest() -> None:
    with pytest.raises(ValidationFailed, match="not a size") as caught:
        sizes.find_size("Standard_ND40rs_v3", CPU, target="instance_type")
    assert caught.value.target == "instance_type"
    assert "Standard_ND40rs_v2" in str(caught.value.way_out)


def test_the_difference_says_both_sides() -> None:
    assert sizes.difference(sizes.find_size("Standard_ND40rs_v2", CPU), CPU) == (
        "Standard_ND40rs_v2 promises 40 vCPUs, 672 GiB and 8 × NVIDIA V100 (32 GiB); "
        "this machine has 2 cores, 8 GiB and no GPU. Jobs get the latter."
    )
    assert sizes.difference(sizes.find_size("Standard_D12_v2", CPU), GPU) == (
        "Standard_D12_v2 promises 4 vCPUs and 28 GiB; "
        "this machine has 16 cores, 128 GiB and 2 × NVIDIA H100 (79 GiB). Jobs get the latter."
    )


def test_the_table_in_the_documentation_is_this_one() -> None:
    assert sizes.table() in DOCS.read_text("utf-8")
