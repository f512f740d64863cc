"""What the first step refuses of DeepSpeed, before any step that is heavy."""

from __future__ import annotations

import importlib.machinery
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from tests.support.packages import as_if_installed
from tunesmith.components.steps.validate import gpu_faults
from tunesmith.finetune.sharding.settings import CPU_DEEPSPEED


@pytest.fixture
def usable(monkeypatch: pytest.MonkeyPatch) -> None:
    """DeepSpeed as if it were installed, and used without a GPU; nothing here imports it."""
    as_if_installed("deepspeed", monkeypatch)
    monkeypatch.setenv(CPU_DEEPSPEED, "1")


@pytest.mark.usefixtures("usable")
def test_a_contradiction_in_the_file_is_found(tmp_path: Path) -> None:
    file = tmp_path / "ds.json"
    file.write_text('{"zero_optimization": {"stage": 2}, "gradient_clipping": 0.1}')
    asked: dict[str, Any] = {"apply_deepspeed": "true", "deepspeed": str(file), "max_grad_norm": "1.0"}
    (fault,) = gpu_faults(asked, tmp_path)
    assert (fault.target, fault.message, fault.code) == (
        "deepspeed: gradient_clipping",
        f"{file} has gradient_clipping 0.1 and max_grad_norm is 1.0",
        "Contradiction",
    )
    assert gpu_faults({**asked, "max_grad_norm": "0.1"}, tmp_path) == []
    assert gpu_faults({**asked, "apply_deepspeed": "false"}, tmp_path) == []


@pytest.mark.usefixtures("usable")
def test_inputs_that_are_wrong_themselves_are_told_elsewhere(tmp_path: Path) -> None:
    asked = {"apply_deepspeed": "true", "learning_rate": "fast", "optim": "adafactor"}
    assert gpu_faults(asked, tmp_path) == []


def test_without_the_package_nothing_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, package=None: None if name == "deepspeed" else find(name, package)
    )
    assert gpu_faults({"apply_deepspeed": "true", "optim": "adafactor", "deepspeed": "none.json"}, tmp_path) == []
