from __future__ import annotations

import errno
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.finetune.support import Heard
from tunesmith.errors import DiskFull, Failure
from tunesmith.finetune.checkpoints import Checkpoints, weights_sha256
from tunesmith.finetune.seeding import random_state, restore_random_state


def _state(value: float = 1.0) -> dict[str, object]:
    return {
        "t": torch.full((3, 2), value, dtype=torch.bfloat16),
        "n": {1: [None, True, 2.5, (1, "x")]},
        "nan": float("nan"),
    }


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=-1, reporter=Heard())
    checkpoints.save(7, _state(), best=None)
    found = checkpoints.latest()
    assert found is not None
    step, state = found
    assert step == 7
    assert torch.equal(state["t"], torch.full((3, 2), 1.0, dtype=torch.bfloat16))
    assert state["n"] == {1: [None, True, 2.5, (1, "x")]}
    assert state["nan"] != state["nan"]


@pytest.mark.parametrize("damage", ["truncate", "flip", "no manifest"])
def test_a_damaged_checkpoint_is_passed_over_and_said(damage: str, tmp_path: Path) -> None:
    heard = Heard()
    checkpoints = Checkpoints(tmp_path, keep=-1, reporter=heard)
    checkpoints.save(1, _state(1), best=None)
    checkpoints.save(2, _state(2), best=None)
    file = checkpoints.path(2) / "state.safetensors"
    body = bytearray(file.read_bytes())
    if damage == "truncate":
        file.write_bytes(body[:-1])
    elif damage == "flip":
        body[-1] ^= 1
        file.write_bytes(body)
    else:
        (checkpoints.path(2) / "manifest.json").unlink()
    found = checkpoints.latest()
    assert found is not None
    assert found[0] == 1
    assert [code for code, _ in heard.notices] == ["CheckpointDamaged"]


def test_what_a_kill_left_half_written_is_never_taken(tmp_path: Path) -> None:
    first = Checkpoints(tmp_path, keep=-1, reporter=Heard())
    first.save(3, _state(), best=None)
    shutil.copytree(first.path(3), tmp_path / ".checkpoint-00000009.123.partial")
    again = Checkpoints(tmp_path, keep=-1, reporter=Heard())
    assert again.steps() == [3]
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-00000003"]


def test_the_last_and_the_best_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2, reporter=Heard())
    for step in range(1, 6):
        checkpoints.save(step, _state(), best=2 if step >= 2 else 1)
    assert checkpoints.steps() == [2, 5]
    one = Checkpoints(tmp_path, keep=1, reporter=Heard())
    one.save(6, _state(), best=2)
    assert one.steps() == [2, 6]


def test_a_full_disk_stops_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path, keep=-1, reporter=Heard())
    checkpoints.save(1, _state(), best=None)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=100, used=90, free=10))
    with pytest.raises(DiskFull, match="no room to write") as caught:
        checkpoints.save(2, _state(), best=None)
    assert caught.value.extra["free"] == 10
    assert checkpoints.steps() == [1]
    assert not list(tmp_path.glob(".*"))


def test_a_folder_that_vanished_is_named_with_the_way_on(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "disk", keep=-1, reporter=Heard())
    checkpoints.save(1, _state(), best=None)
    (tmp_path / "disk").rename(tmp_path / "elsewhere")
    with pytest.raises(Failure, match=r"optimiser step 2 could not be written: .* is gone") as caught:
        checkpoints.save(2, _state(), best=None)
    assert caught.value.target == str(tmp_path / "disk")
    assert "resume_from_checkpoint" in str(caught.value.way_out)
    (tmp_path / "elsewhere").rename(tmp_path / "disk")
    assert Checkpoints(tmp_path / "disk", keep=-1, reporter=Heard()).steps() == [1]


def test_a_disk_that_refuses_names_the_checkpoint_to_go_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path, keep=-1, reporter=Heard())
    checkpoints.save(1, _state(), best=None)

    def refuse(self: Path, target: Path) -> Path:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(Failure, match=r"Input/output error; the last whole checkpoint is .*checkpoint-00000001"):
        checkpoints.save(2, _state(), best=None)
    monkeypatch.undo()
    assert checkpoints.steps() == [1]
    assert not list(tmp_path.glob(".*"))


def test_random_numbers_go_on_where_they_were(tmp_path: Path) -> None:
    import random

    import numpy

    checkpoints = Checkpoints(tmp_path, keep=-1, reporter=Heard())
    checkpoints.save(1, {"random": random_state()}, best=None)
    expected = (random.random(), numpy.random.rand(), torch.rand(3))
    found = checkpoints.latest()
    assert found is not None
    restore_random_state(found[1]["random"])
    assert (random.random(), numpy.random.rand()) == expected[:2]
    assert torch.equal(torch.rand(3), expected[2])


def test_the_hash_sees_every_bit() -> None:
    weights = {"a": torch.zeros(3), "b": torch.ones(2)}
    base = weights_sha256(weights)
    assert base == weights_sha256(dict(reversed(weights.items())))
    changed = weights["a"].clone()
    changed[2] = 1e-45
    assert base != weights_sha256({**weights, "a": changed})
